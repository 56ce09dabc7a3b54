"""The first example, from the recipe to running artifacts.

    python -m benchmarks.minilm [--output-dir FOLDER]

Compiles examples/minilm.yaml in a process of its own (time and peak memory are printed), then runs
the ONNX file in onnxruntime at three sizes, the folder's model.py in a process that cannot import
graphc, and the .pt2 file through torch.export.load, each against the compiled program.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import graphc
from graphc.measure.environment import environment

ROOT = Path(__file__).parents[1]
SIZES = ((1, 16), (3, 40), (8, 128))
TOLERANCE = 1e-4
LIMIT_SECONDS, LIMIT_BYTES = 120, 3_000_000_000

ALONE = """
import sys
sys.modules["graphc"] = None
sys.path.insert(0, sys.argv[1])
import torch
from model import load
model = load(sys.argv[1])
torch.manual_seed(0)
ids = torch.randint(1000, 30000, (3, 40))
with torch.no_grad():
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
from safetensors.torch import save_file
save_file({"found": found["last_hidden_state"].contiguous()}, sys.argv[2])
"""


def batch(size: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens, all attended to."""
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (size, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over norm."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def compiled(folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of ``graphc compile`` in a process of its own."""
    recipe = ROOT / "examples" / "minilm.yaml"
    start = time.perf_counter()
    command = [sys.executable, "-m", "graphc.cli", "compile", str(recipe), "-o", str(folder)]
    subprocess.run(command, check=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def errors(folder: Path) -> dict[str, float]:
    """Relative error of every artifact against the program, by what was run."""
    program = graphc.load(folder / "minilm.pt2")
    session = onnxruntime.InferenceSession(str(folder / "minilm.onnx"), providers=["CPUExecutionProvider"])
    found: dict[str, float] = {}
    with torch.no_grad():
        for size in SIZES:
            inputs = batch(*size)
            (onnx, *_) = session.run(["last_hidden_state"], {k: v.numpy() for k, v in inputs.items()})
            found[f"minilm.onnx at {size}"] = relative(torch.from_numpy(onnx), first(program(**inputs)))
        inputs = batch(3, 40)
        exported = torch.export.load(folder / "minilm.pt2").module()
        found["minilm.pt2 by torch.export.load"] = relative(first(exported(**inputs)), first(program(**inputs)))
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            subprocess.run([sys.executable, "-c", ALONE, str(folder / "minilm"), file.name], check=True)
            alone = load_file(file.name)["found"]
        found["minilm/model.py without graphc"] = relative(alone, first(program(**inputs)))
    return found


def first(outputs: Any) -> torch.Tensor:
    """The hidden state among the outputs."""
    value: torch.Tensor = outputs["last_hidden_state"]
    return value


def main() -> int:
    """Print figures; 1 if a limit or an equality does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=None)
    given = parser.parse_args().output_dir
    console = Console(width=120)
    console.print(environment())
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        seconds, peak = compiled(folder)
        report = json.loads((folder / "report.json").read_text())
        found = errors(folder)
    table = Table("artifact", "relative error")
    for name, error in found.items():
        table.add_row(name, f"{error:.1e}")
    console.print(table)
    before, after = report["before"], report["after"]
    for key in ("params", "macs", "bytes"):
        console.print(f"{key}: {before[key]:,} => {after[key]:,} ({after[key] / before[key]:.1%})")
    console.print(f"compile: {seconds:.0f} s, peak memory {peak / 1e9:.2f} GB")
    holds = max(found.values()) <= TOLERANCE and seconds < LIMIT_SECONDS and peak < LIMIT_BYTES
    console.print("all hold" if holds else "a limit does not hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
