"""A checkpoint of several GB, half of every MLP removed, in little memory; compared with the ordinary path.

    python -m benchmarks.low_memory [--layers 9] [--folder DIR]

A Llama of random bfloat16 weights (the widths of Llama 7B, fewer layers) is written shard by shard in the layout of
Hugging Face. Then graphc halves its MLPs, in a process with ``low_memory: true`` and in one without. What each had in
memory at most is told by the process itself; every tensor of the two folders is compared bit for bit, as are the
generated code and the figures of the reports.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

import graphc
from benchmarks import apart
from benchmarks.quality.study import conclude
from graphc.ir.checkpoint import read_checkpoint
from graphc.ir.hollow import without_memory
from graphc.ir.lazy import LazyTensor
from graphc.measure import environment
from graphc.measure.memory import peak_bytes

LIMIT = 1.5e9
"""Bytes that the compile may have in memory."""
LEAST = 4e9
"""Bytes that the checkpoint must have."""
ROOM = 2.5
"""How often the ordinary path may have the checkpoint in memory, so that it is only run where it fits."""
SHARD = 800e6
LLAMA_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
COLUMNS = ("path", "peak memory", "processor time", "weights before", "weights after", "files of weights")


@dataclass(frozen=True)
class Done:
    """One compile.

    Attributes:
        peak: bytes that its process had in memory at most.
        seconds: of the processor, from the start of the compile to its end, with all proofs.
        before, after: bytes of tensors.
        files: of weights that were written.
    """

    peak: int
    seconds: float
    before: int
    after: int
    files: int


def write_checkpoint(folder: Path, shape: Mapping[str, int], layers: int, shard: float = SHARD) -> int:
    """Write a Llama of random weights, one shard in memory at a time; its bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape, num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with without_memory():
        forms = {name: value.shape for name, value in LlamaForCausalLM(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    parts: list[dict[str, torch.Size]] = [{}]
    for name, form in forms.items():
        if parts[-1] and sum(2 * size.numel() for size in (*parts[-1].values(), form)) > shard:
            parts.append({})
        parts[-1][name] = form
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        weights = {n: torch.empty(f, dtype=torch.bfloat16) for n, f in part.items()}
        for value in weights.values():
            value.uniform_(-0.04, 0.04, generator=generator)
        save_file(weights, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(part, file))
    total = sum(2 * form.numel() for form in forms.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    return total


def recipe(folder: Path, vocabulary: int, low_memory: bool, shard_size: str = "1GB") -> dict[str, Any]:
    """Half of every MLP, by the norm of the weights."""
    return {
        "model": {"target": str(folder)},
        "example_inputs": {"input_ids": {"shape": [3, 7], "dtype": "int64", "high": vocabulary}},
        "dynamic": {"input_ids": {0: "batch", 1: "sequence"}},
        "passes": [{"type": "prune-width", "pruning_ratio": 0.5, "importance": "l2"}],
        "emit": ["model/"],
        "shard_size": shard_size,
        **({"low_memory": True} if low_memory else {"bench": None}),
    }


def compiled(file: Path, out: Path) -> Done:
    """Compile a recipe in this process."""
    start = time.process_time()
    report = graphc.compile(file, output_dir=out).report
    seconds = time.process_time() - start
    files = len(list((out / "model").glob("model*.safetensors")))
    return Done(peak_bytes(), seconds, report["before"]["bytes"], report["after"]["bytes"], files)


def differences(one: Path, other: Path) -> list[str]:
    """What two output folders hold differently: tensors, one after the other, code, figures."""
    first, second = (read_checkpoint(path / "model") for path in (one, other))
    found = sorted(first.keys() ^ second.keys())
    for name in sorted(first.keys() & second.keys()):
        values = [LazyTensor(source).read() for source in (first[name], second[name])]
        if not torch.equal(*[value.view(torch.uint8) if value.dim() else value for value in values]):
            found.append(name)
    for file in ("model.py", "program.json"):
        if (one / "model" / file).read_bytes() != (other / "model" / file).read_bytes():
            found.append(file)
    reports = [json.loads((path / "report.json").read_text()) for path in (one, other)]
    found += [key for key in ("before", "after", "fidelity") if reports[0][key] != reports[1][key]]
    return found


def halved(before: Path, after: Path) -> bool:
    """Has every MLP lost half of its units, and nothing else changed its shape?"""
    old, new = read_checkpoint(before), read_checkpoint(after)
    ratios = {
        name: [b / a for a, b in zip(old[name].shape, new[name].shape, strict=True)] for name in new if name in old
    }
    cut = {name for name in old if ".mlp." in name}
    return bool(cut) and all(sorted(set(r)) == ([0.5, 1.0] if n in cut else [1.0]) for n, r in ratios.items())


def claims(size: int, lean: Done, different: Sequence[str] | None, half: bool) -> dict[str, bool]:
    """What is promised, and whether it holds."""
    return {
        f"the checkpoint has at least {LEAST / 1e9:.0f} GB: {size / 1e9:.2f} GB": size >= LEAST,
        f"low_memory has less than {LIMIT / 1e9:.1f} GB in memory: {lean.peak / 1e9:.2f} GB": lean.peak < LIMIT,
        "every MLP has lost half of its units, and nothing else anything": half,
        "all tensors, the code and the figures are those of the ordinary path, bit for bit"
        + (f" (different: {', '.join(different[:4])})" if different else "")
        + (" (it did not fit)" if different is None else ""): different == [],
    }


def row(path: str, done: Done) -> list[str]:
    """One line of the table."""
    sizes = [f"{size / 1e9:.2f} GB" for size in (done.peak, done.before, done.after)]
    return [path, sizes[0], f"{done.seconds:.0f} s", *sizes[1:], str(done.files)]


def apart_compiled(file: Path, out: Path, limit: float) -> Done:
    """Compile a recipe in a process of its own.

    Raises:
        RuntimeError: it did not come to its end; says why.
    """
    told, why = apart.run("benchmarks.low_memory", ["--compile", str(file), str(out)], limit)
    if told is None:
        raise RuntimeError(why)
    return Done(**told)


def available() -> float:
    """Bytes of memory that are free, or would be if caches were given up."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def study(folder: Path, layers: int, limit: float, console: Console) -> tuple[list[list[str]], dict[str, bool]]:
    """Write the checkpoint, compile it both ways, compare."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    size = write_checkpoint(checkpoint, LLAMA_7B, layers)
    console.print(f"checkpoint: {size / 1e9:.2f} GB in {len(list(checkpoint.glob('*.safetensors')))} shards")
    done: dict[bool, Done] = {}
    for low_memory, out in ((True, "lean"), (False, "whole")):
        if low_memory or available() > ROOM * size:
            file = folder / f"{out}.yaml"
            file.write_text(yaml.safe_dump(recipe(checkpoint, LLAMA_7B["vocab_size"], low_memory)))
            done[low_memory] = apart_compiled(file, folder / out, limit)
            console.print(f"{out}: {done[low_memory]}")
    different = differences(folder / "lean", folder / "whole") if False in done else None
    held = claims(size, done[True], different, halved(checkpoint, folder / "lean" / "model"))
    names = {True: "low_memory: true", False: "ordinary"}
    return [row(names[key], one) for key, one in done.items()], held


def main() -> int:
    """Run, print and write the table; 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a compile may take")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--compile", nargs=2, type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile is not None:
        sys.stdout.write(json.dumps(asdict(compiled(*options.compile))) + "\n")
        return 0
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows, held = study(Path(folder), options.layers, options.limit, console)
    notes = [
        f"Llama of {options.layers} layers, {', '.join(f'{k} {v}' for k, v in LLAMA_7B.items())}; bfloat16, seed 0",
        "memory is the peak of the resident set (VmHWM) of the process, mapped pages of files included; of it, Python "
        "with torch and transformers takes what it takes without a model",
        f"environment: {environment()}",
    ]
    return conclude("low_memory", COLUMNS, rows, notes, held, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
