"""What sharing layers and factorising the table of words leave of BERT-base, in memory and in files.

    python -m benchmarks.sharing [--out DIR]

BERT-base with 30,000 words and random weights: as it is, with its 12 layers sharing one, with its table
of words as a product through 128 units, and with both, which is the shape of ALBERT-base. Each is
written as ONNX and as a folder, and onnxruntime runs the former. Checked, with exit code 1 if it does
not hold: the exact numbers of parameters, that both files shrink by the bytes of the parameters that
are gone, that every matrix of the program is once in each file, and that onnxruntime gives what the
program gives at sizes that it was not captured with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from graphc.passes import Factorize, TieWeights
from rich.console import Console
from safetensors import safe_open

import graphc
from benchmarks.quality.study import conclude
from graphc.measure.environment import environment

SEED = 0
OVERHEAD = 600
"""Bytes besides its values that a file may have with each tensor that comes or goes: its name, an op, and what is
said of both."""
TOLERANCE = 1e-4
"""Greatest difference from the program's output, relative to its greatest entry."""
COLUMNS = ["model", "encoder", "words", "parameters", "MACs", ".onnx", ".safetensors", "onnxruntime differs by"]
Matrices = Counter[tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """Of a BERT, and the units that its words are factorised through."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    words: int = 30_000
    positions: int = 512
    rank: int = 128


BASE = Shape()
EXACT = {"whole": (85_054_464, 23_040_000), "layers share": (7_087_872, 23_040_000)}
EXACT |= {"words factorised": (85_054_464, 3_938_304), "both": (7_087_872, 3_938_304)}
"""Parameters of BERT-base's encoder and of its words."""


@dataclass(frozen=True)
class Found:
    """Parameters of the encoder, of the words and of all, MACs of a sample, tensors by name and shape, bytes of both
    files.

    ``once`` tells of each file whether it has every matrix of the program once, ``error`` how far onnxruntime is from
    the program.
    """

    encoder: int
    words: int
    params: int
    macs: int
    tensors: frozenset[tuple[str, torch.Size]]
    size: Mapping[str, int]
    once: Mapping[str, bool]
    error: float


def captured(shape: Shape, device: str = "cpu") -> graphc.Program:
    """A BERT without pooler; its numbers of samples and tokens are dynamic."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=shape.words,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden,
        max_position_embeddings=shape.positions,
    )
    with torch.device(device):
        model = BertModel(config, add_pooling_layer=False).eval()
        inputs = {"input_ids": torch.randint(0, shape.words, (3, 11))}
        for parameter in (one for one in model.parameters() if one.dim() == 1):  # those that are equal are written once
            torch.nn.init.normal_(parameter, 0.5, 0.1)
    return graphc.capture(model, kwargs=inputs, dynamic={"input_ids": {0: "batch", 1: "tokens"}})


def passes(shape: Shape) -> dict[str, list[graphc.Pass]]:
    """What is done, by the name of what it makes."""
    share: graphc.Pass = TieWeights()
    product: graphc.Pass = Factorize(rank=shape.rank, targets=("embeddings.word_embeddings",))
    return {"whole": [], "layers share": [share], "words factorised": [product], "both": [share, product]}


def parameters(program: graphc.Program, prefix: str) -> int:
    """How many have names that begin so; a shared one counts once."""
    return sum(value.numel() for name, value in program.tensors().items() if name.startswith(prefix))


def measure(program: graphc.Program, changes: Sequence[graphc.Pass], folder: Path) -> Found:
    """Change the program, write it, read what was written, run it."""
    done = graphc.compile(program, passes=list(changes))
    program = done.program
    paths = {".onnx": folder / "model.onnx", ".safetensors": folder / "model"}
    for path in paths.values():
        graphc.emit(program, path)
    file = paths[".safetensors"] / "model.safetensors"
    held = Counter(filter(None, (_matrix(tuple(value.shape)) for value in program.tensors().values())))
    return Found(
        parameters(program, "encoder."),
        parameters(program, "embeddings.word_embeddings."),
        sum(value.numel() for value in program.parameters()),
        done.report["after"]["macs"],
        frozenset((name, value.shape) for name, value in program.tensors().items()),
        {".onnx": sum(p.stat().st_size for p in folder.glob("model.onnx*")), ".safetensors": file.stat().st_size},
        {".onnx": of_onnx(paths[".onnx"]) == held, ".safetensors": of_safetensors(file) == held},
        differs(program, paths[".onnx"]),
    )


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Sizes of a matrix, the smaller first: files may have it turned. Those of one or two rows may be folded away."""
    return tuple(sorted(shape)) if len(shape) == 2 and min(shape) > 2 else None


def of_onnx(path: Path) -> Matrices:
    """The matrices of a file, each as often as it has values there."""
    weights = onnx.load(path, load_external_data=False).graph.initializer
    return Counter(filter(None, (_matrix(tuple(weight.dims)) for weight in weights)))


def of_safetensors(path: Path) -> Matrices:
    """The matrices of a file, each as often as it has values there."""
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    return Counter(filter(None, map(_matrix, shapes)))


def differs(program: graphc.Program, path: Path) -> float:
    """How far onnxruntime is from the program at sizes that it was not captured with."""
    (table,) = [value for name, value in program.tensors().items() if "position_embeddings" in name]
    ids = torch.randint(0, 30, (2, min(23, len(table))), generator=torch.Generator().manual_seed(SEED))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = program(input_ids=ids)["last_hidden_state"]
    given = torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])
    return float((given - wanted).abs().max() / wanted.abs().max())


def claims(found: Mapping[str, Found], exact: Mapping[str, tuple[int, int]]) -> dict[str, bool]:
    """What is promised, and whether it holds."""
    said = {}
    for name, (encoder, words) in exact.items():
        one = found[name]
        said[f"{name}: {encoder:,} parameters of the encoder, {words:,} of words"] = (encoder, words) == (
            one.encoder,
            one.words,
        )
    whole = found["whole"]
    for name, one in found.items():
        gone, changed = 4 * (whole.params - one.params), len(whole.tensors ^ one.tensors)
        for kind in one.size:
            lost = whole.size[kind] - one.size[kind]
            what = f"{name}: {kind} is {lost:,} bytes smaller, of which {gone:,} are parameters"
            said[what] = abs(lost - gone) <= OVERHEAD * changed
            said[f"{name}: {kind} has every matrix once"] = one.once[kind]
        said[f"{name}: onnxruntime differs by {one.error:.1e}, at most {TOLERANCE:.0e}"] = one.error <= TOLERANCE
    return said


def row(name: str, found: Found) -> list[str]:
    """A line of the table."""
    counts = [f"{count:,}" for count in (found.encoder, found.words, found.params, found.macs)]
    return [name, *counts, *(f"{size:,}" for size in found.size.values()), f"{found.error:.1e}"]


def main() -> int:
    """Print the table; 1 if something that is promised does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sharing"))
    options = parser.parse_args()
    console = Console(width=160)
    console.print(environment())
    console.print(f"seed {SEED}; {BASE}")
    program = captured(BASE)
    found = {}
    for name, changes in passes(BASE).items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(program, changes, Path(folder))
        console.print(name, "done")
    notes = [f"{BASE}; parameters in float32, MACs of a sample of 11 tokens, files in bytes"]
    rows = [row(name, one) for name, one in found.items()]
    return conclude("sharing", COLUMNS, rows, notes, claims(found, EXACT), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
