"""Small students of known families, made by passes, beside the models of Hugging Face that they are.

    python -m benchmarks.students [--out FOLDER]

DistilBERT's of a BERT: every second layer, token types folded into positions, no pooler. Distil-Whisper's of a Whisper:
the encoder whole, the first and the last layer of the decoder. Both have random weights in the shapes of BERT-base and
whisper-tiny; each is held against transformers' own class loaded with the same weights, tensor by tensor and output by
output, at two sizes and with padding.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from graphc.passes import BindInput, PruneLayers, SelectOutputs
from rich.console import Console
from torch import Tensor, nn

import graphc
from benchmarks.quality.study import conclude
from graphc.measure.environment import environment
from graphc.pipeline.base import Pass

TOLERANCE = 1e-5
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A family.

    Attributes:
        name: of the student.
        teacher: the model that it is made of.
        peer: transformers' own model of the student's shape.
        passes: what makes the student.
        inputs: of a batch and a length, for both.
        bound: inputs of the teacher that the student has not.
        dynamic: dims of the inputs.
        state: the peer's tensors, by name, from the teacher's.
        renamed: the peer's name of a tensor of the student.
        output: what is compared.
    """

    name: str
    teacher: nn.Module
    peer: nn.Module
    passes: Sequence[Pass]
    inputs: Callable[[int, int], Inputs]
    bound: Inputs
    dynamic: Mapping[str, Mapping[int, str]]
    state: Mapping[str, Tensor]
    renamed: Callable[[str], str]
    output: str


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        before, after, peer: parameters of the teacher, the student, and transformers' model.
        tensors: how many of the peer's tensors were compared.
        weights, outputs: the largest absolute differences.
        scale: the largest magnitude of an output.
    """

    name: str
    before: int
    after: int
    peer: int
    tensors: int
    weights: float
    outputs: float
    scale: float

    @property
    def equal(self) -> bool:
        """Is the student the peer?"""
        return (
            self.after == self.peer and self.weights <= TOLERANCE and self.outputs <= TOLERANCE * max(1.0, self.scale)
        )


def varied(model: nn.Module) -> nn.Module:
    """The model with no two tensors alike, as those of norms and biases are at first."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) / 50)
    return model.eval()


def distilbert(**shape: int) -> Case:
    """DistilBERT of a BERT; sizes as in BertConfig, BERT-base's by default."""
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    config = BertConfig(**shape)
    teacher = varied(BertModel(config))
    small = DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        dim=config.hidden_size,
        n_layers=(config.num_hidden_layers + 1) // 2,
        n_heads=config.num_attention_heads,
        hidden_dim=config.intermediate_size,
    )

    def inputs(batch: int, length: int) -> Inputs:
        ids = torch.randint(0, config.vocab_size, (batch, length))
        lengths = torch.randint(1, length + 1, (batch, 1))
        return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}

    state = {
        distilbert_name(name): value
        for name, value in teacher.state_dict().items()
        if not name.startswith(("pooler", "embeddings.token_type")) and int(_layer(name)) % 2 == 0
    }
    types = teacher.state_dict()["embeddings.token_type_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"] + types[0]
    return Case(
        name="DistilBERT",
        teacher=teacher,
        peer=DistilBertModel(small).eval(),
        passes=(
            PruneLayers(keep="every second"),
            BindInput(inputs={"token_type_ids": 0}),
            SelectOutputs(outputs=("last_hidden_state",)),
        ),
        inputs=inputs,
        bound={"token_type_ids": torch.zeros(3, 21, dtype=torch.int64)},
        dynamic={name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask", "token_type_ids")},
        state=state,
        renamed=distilbert_name,
        output="last_hidden_state",
    )


DISTILBERT = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""What parts of BERT are called in DistilBERT."""


def distilbert_name(name: str) -> str:
    """DistilBERT's name of a tensor of BERT; of two layers the first is the one that stays."""
    for old, new in DISTILBERT.items():
        name = name.replace(old, new)
    return re.sub(r"layer\.(\d+)", lambda found: f"layer.{int(found[1]) // 2}", name)


def _layer(name: str) -> str:
    found = re.search(r"layer\.(\d+)", name)
    return found[1] if found is not None else "0"


def distil_whisper(**shape: int) -> Case:
    """Distil-Whisper of a Whisper; sizes as in WhisperConfig, whisper-tiny's by default."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(**shape)
    teacher = varied(WhisperForConditionalGeneration(config))
    peer = WhisperForConditionalGeneration(WhisperConfig(**{**shape, "decoder_layers": 2})).eval()
    last = config.decoder_layers - 1

    def inputs(batch: int, length: int) -> Inputs:
        features = torch.randn(batch, config.num_mel_bins, 2 * config.max_source_positions)
        return {
            "input_features": features,
            "decoder_input_ids": torch.randint(0, config.vocab_size, (batch, length)),
        }

    def renamed(name: str) -> str:
        return name.replace(f"decoder.layers.{last}.", "decoder.layers.1.")

    gone = tuple(f"model.decoder.layers.{i}." for i in range(1, last))
    return Case(
        name="Distil-Whisper",
        teacher=teacher,
        peer=peer,
        passes=(PruneLayers(keep="first and last", targets=("model.decoder",)), SelectOutputs(outputs=("logits",))),
        inputs=inputs,
        bound={},
        dynamic={"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "length"}},
        state={renamed(n): value for n, value in teacher.state_dict().items() if not n.startswith(gone)},
        renamed=renamed,
        output="logits",
    )


def prove(case: Case) -> Result:
    """Make the student, load the peer, and compare."""
    case.peer.load_state_dict(case.state)
    program = graphc.capture(case.teacher, (), {**case.inputs(3, 21), **case.bound}, dynamic=case.dynamic)
    student = graphc.compile(program, passes=case.passes).program
    wanted = dict(case.peer.named_parameters())
    found = {case.renamed(name): v for name, v in student.tensors().items() if isinstance(v, nn.Parameter)}
    if missing := wanted.keys() ^ found.keys():
        raise SystemExit(f"{case.name}: only one of the two has {sorted(missing)[:4]}")
    outputs = scale = 0.0
    with torch.no_grad():
        weights = max(float((found[name] - value).abs().max()) for name, value in wanted.items())
        for size in ((3, 21), (5, 13)):
            given = case.inputs(*size)
            mine, other = student(**given)[case.output], getattr(case.peer(**given), case.output)
            outputs, scale = max(outputs, float((mine - other).abs().max())), max(scale, float(other.abs().max()))
    counts = [sum(p.numel() for p in model.parameters()) for model in (case.teacher, student, case.peer)]
    return Result(case.name, *counts, len(wanted), weights, outputs, scale)


BERT_BASE, DISTILBERT_BASE = 109_482_240, 66_362_880
WHISPER_TINY, DISTIL_WHISPER_TINY = 37_760_640, 33_028_992
"""Parameters, of the shapes of the papers."""

COLUMNS = ("student", "parameters before", "after", "transformers' own", "tensors", "weights differ by", "outputs by")


def rows(results: Sequence[Result]) -> list[list[str]]:
    """As in COLUMNS."""
    return [
        [r.name, f"{r.before:,}", f"{r.after:,}", f"{r.peer:,}", str(r.tensors), f"{r.weights:.1e}", f"{r.outputs:.1e}"]
        for r in results
    ]


def claims(results: Sequence[Result], counts: Sequence[tuple[int, int]]) -> dict[str, bool]:
    """Each has these parameters before and after, and is the peer."""
    said: dict[str, bool] = {}
    for r, (before, after) in zip(results, counts, strict=True):
        said[f"{r.name}: {before:,} parameters become {after:,}"] = (r.before, r.after) == (before, after)
        said[f"{r.name}: weights and outputs are those of transformers' own, to {TOLERANCE:g}"] = r.equal
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("students"), help="folder of the table")
    options = parser.parse_args(arguments)
    console = Console(width=140)
    console.print(environment(), "seed: 0")
    cases: tuple[Callable[..., Any], ...] = (distilbert, distil_whisper)
    results = [prove(case()) for case in cases]
    notes = [
        "random weights in the shapes of BERT-base and whisper-tiny, seed 0; 3 x 21 and 5 x 13 tokens, with padding"
    ]
    counts = [(BERT_BASE, DISTILBERT_BASE), (WHISPER_TINY, DISTIL_WHISPER_TINY)]
    said = claims(results, counts)
    return conclude("students", COLUMNS, rows(results), notes, said, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
