"""sparsify: set weights to zero and keep them there, anywhere or in a pattern."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.fx import Node

from graphc.errors import GraphError, RecipeError
from graphc.ir.masks import find_masks, put_masks
from graphc.ir.program import Program
from graphc.ir.watch import run_watched
from graphc.pipeline.base import Context, Pass

from .calibration import Calibration
from .contractions import Contraction, contractions
from .options import DataName, Names, Samples
from .select import choose

Score = Literal["magnitude", "wanda", "random"]
Where = Literal["global", "tensor", "output"]


@dataclass(frozen=True, kw_only=True)
class Sparsify(Pass):
    """Set single weights to zero: the least important ones, or N:M along the inputs.

    The weights of convolutions, linear layers, matrix products and experts take part. Masks stay with
    their weights through every later pass and in training; artifacts have the zeros in the weights and
    no masks. A later cut of inputs keeps the zeros but shifts the groups of N:M, so prune first. Zeros
    alone make no dense kernel faster, onnxruntime's included: they make files smaller once compressed,
    and N:M serves hardware that has it.

    Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, for magnitude;
    Sun et al. 2024, Wanda; Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, for 2:4.
    """

    type: ClassVar[str] = "sparsify"
    sparsity: Annotated[float | None, Field(gt=0, lt=1, description="Share of the weights that become zero.")] = None
    mask_structure: Annotated[
        str, Field(description="unstructured, or N:M: in every M weights along the inputs at most N are not zero.")
    ] = "unstructured"
    importance: Annotated[
        Score,
        Field(description="|w|; |w| times the norm of the input that it multiplies (wanda, needs data); or random."),
    ] = "magnitude"
    scope: Annotated[
        Where | None,
        Field(description="Compare weights of all tensors, of one, or of one output; wanda: output, else tensor."),
    ] = None
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options: a share, or a pattern."""
        super().__post_init__()
        if self.mask_structure != "unstructured":
            self.pattern()
        if (self.sparsity is None) == (self.mask_structure == "unstructured"):
            hint = "give sparsity for unstructured zeros, or mask_structure: '2:4' alone"
            raise RecipeError("sparsify needs sparsity or a pattern", where=f"pass {self.title}", hint=hint)

    def pattern(self) -> tuple[int, int]:
        """N and M.

        Raises:
            RecipeError: ``mask_structure`` is no pattern.
        """
        match = re.fullmatch(r"(\d+):(\d+)", self.mask_structure)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            hint = "write unstructured, or N:M with 0 < N < M, such as 2:4"
            raise RecipeError(f"no mask_structure is {self.mask_structure!r}", where=f"pass {self.title}", hint=hint)
        return int(match[1]), int(match[2])

    def needs_data(self) -> Mapping[str, str]:
        """Inputs, for wanda."""
        return {self.calibration_data: "importance: wanda"} if self.importance == "wanda" else {}

    def reduces(self) -> tuple[str, ...]:
        """Nothing: zeros are entries as others are."""
        return ()

    def requires(self, program: Program) -> None:
        """There are weights to mask, and some that the pattern fits."""
        chosen = self.chosen(program)
        if self.mask_structure != "unstructured" and not self.fitting(program, chosen):
            why = "; ".join(list(self.misfits(program, chosen).values())[:3])
            raise GraphError(f"no weight takes {self.mask_structure}", where=f"pass {self.title}", why=why)

    def chosen(self, program: Program) -> dict[str, list[Contraction]]:
        """The places of each weight that ``targets`` and ``ignore`` leave.

        Raises:
            GraphError: there is none.
        """
        return weights(program, self.targets, self.ignore, self.title)

    def misfits(self, program: Program, chosen: Mapping[str, list[Contraction]]) -> dict[str, str]:
        """Weights that the pattern does not fit, with the reason."""
        _, every = self.pattern()
        tensors = program.tensors()
        sizes = {name: tensors[name].shape[places[0].dim] for name, places in chosen.items()}
        return {
            name: f"{name} has {size} inputs a unit, no multiple of {every}"
            for name, size in sizes.items()
            if size % every
        }

    def fitting(self, program: Program, chosen: Mapping[str, list[Contraction]]) -> dict[str, list[Contraction]]:
        """Weights that the pattern fits."""
        misfits = self.misfits(program, chosen)
        return {name: places for name, places in chosen.items() if name not in misfits}

    def run(self, program: Program, context: Context) -> Program:
        """Score, choose, mask."""
        chosen = self.chosen(program)
        if self.mask_structure != "unstructured":
            chosen = self.fitting(program, chosen)
        scores = self.scores(program, chosen, context)
        if self.mask_structure != "unstructured":
            return put_masks(program, {n: _n_of_m(s, chosen[n][0].dim, *self.pattern()) for n, s in scores.items()})
        assert self.sparsity is not None
        scope = self.scope or ("output" if self.importance == "wanda" else "tensor")
        return put_masks(program, lowest(scores, {n: chosen[n][0].dim for n in scores}, self.sparsity, scope))

    def scores(
        self, program: Program, chosen: Mapping[str, list[Contraction]], context: Context
    ) -> dict[str, torch.Tensor]:
        """Importance of every entry of the weights, each of its weight's shape."""
        tensors = {name: program.tensors()[name].detach() for name in chosen}
        if self.importance == "magnitude":
            return {name: value.abs() for name, value in tensors.items()}
        if self.importance == "random":
            return {name: _noise(value, context.seed + zlib.crc32(name.encode())) for name, value in tensors.items()}
        calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples)
        norms = input_norms(program, chosen, calibration)
        return {name: value.abs() * norms[name] for name, value in tensors.items()}

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """Each weight alone, at a share of zeros."""
        chosen = self.chosen(program)
        scores = self.scores(program, chosen, context)

        def cut(name: str, ratio: float) -> Program:
            scope = "tensor" if self.scope == "global" else self.scope or "tensor"
            return put_masks(program, lowest({name: scores[name]}, {name: chosen[name][0].dim}, ratio, scope))

        return {name: partial(cut, name) for name in chosen}

    def ensures(self, before: Program, after: Program) -> None:
        """The zeros are as many as asked, or in the pattern."""
        masked = {mask.weight for mask in find_masks(after)}
        chosen = self.chosen(before)
        if self.mask_structure != "unstructured":
            chosen = self.fitting(before, chosen)
        missing = set(chosen) - masked
        if missing:
            raise GraphError(f"the weight {min(missing)} has no mask", where=f"pass {self.title}")
        total = {name: zeros(after, name) for name in chosen}
        share = sum(n for n, _ in total.values()) / sum(n for _, n in total.values())
        wanted = self.sparsity if self.sparsity is not None else 1 - self.pattern()[0] / self.pattern()[1]
        if share < wanted * 0.99 - 0.01:
            raise GraphError(f"the sparsity is {share:.1%}, not {wanted:.1%}", where=f"pass {self.title}")

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """The sparsity of each tensor, and what was left out."""
        chosen = self.chosen(before)
        left_out = self.misfits(before, chosen) if self.mask_structure != "unstructured" else {}
        counts = {name: zeros(after, name) for name in chosen if name not in left_out}
        total = sum(n for n, _ in counts.values()) / sum(n for _, n in counts.values())
        says = f"{total:.1%} of {len(counts)} weights is zero; zeros alone give no speed in onnxruntime's dense kernels"
        return {
            "says": [says, *left_out.values()],
            "sparsity": {name: count / entries for name, (count, entries) in counts.items()},
            "total": total,
        }


def weights(program: Program, targets: Sequence[str], ignore: Sequence[str], what: str) -> dict[str, list[Contraction]]:
    """The weights that names leave, each with the places where it multiplies.

    Raises:
        GraphError: there is none.
    """
    places: dict[str, list[Contraction]] = {}
    for place in contractions(program):
        places.setdefault(place.weight, []).append(place)
    names = choose(list(places), lambda name: [name], targets, ignore, what)
    if not names:
        raise GraphError(f"{what} finds no weight", where=what, why="no layer is left")
    return {name: places[name] for name in names}


def zeros(program: Program, name: str) -> tuple[int, int]:
    """How many entries of a tensor are zero, and how many it has."""
    value = program.tensors()[name]
    return value.numel() - int(torch.count_nonzero(value.detach())), value.numel()


def input_norms(
    program: Program, chosen: Mapping[str, list[Contraction]], calibration: Calibration
) -> dict[str, torch.Tensor]:
    """Euclidean norms over the data of what each weight's inputs are, in a shape that fits the weight.

    Sun et al. 2023, Wanda: ``|w_ij| * ||x_j||``. With groups an input's norm is that over all groups.
    """
    tensors = program.tensors()
    squares = {n: torch.zeros(tensors[n].shape[places[0].dim], dtype=torch.float64) for n, places in chosen.items()}
    readers: dict[Node, list[Contraction]] = {}
    for places in chosen.values():
        for place in places:
            readers.setdefault(place.data, []).append(place)

    def see(node: Node, args: Any, kwargs: Any, value: torch.Tensor) -> None:
        rows = {
            dim: value.double().square().transpose(0, dim).flatten(1).sum(1)
            for dim in {p.data_dim for p in readers[node]}
        }
        for place in readers[node]:
            size = len(squares[place.weight])
            squares[place.weight] += rows[place.data_dim].view(-1, size).sum(0).cpu()

    with torch.no_grad():
        for batch in calibration.batches(program, "wanda"):
            run_watched(program, {node: partial(see, node) for node in readers}, batch.args, batch.kwargs)
    shapes = {n: [-1 if i == p[0].dim else 1 for i in range(tensors[n].dim())] for n, p in chosen.items()}
    return {n: s.sqrt().view(shapes[n]).to(tensors[n].device, tensors[n].dtype) for n, s in squares.items()}


def _noise(value: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.rand(value.shape, generator=torch.Generator().manual_seed(seed)).to(value.device)


def _n_of_m(scores: torch.Tensor, dim: int, n: int, m: int) -> torch.Tensor:
    """The n greatest of every m along a dim."""
    rows = scores.movedim(dim, -1)
    groups = rows.reshape(-1, m)
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.topk(n, 1).indices, True)
    return keep.view(rows.shape).movedim(-1, dim).contiguous()


def lowest(
    scores: Mapping[str, torch.Tensor], dims: Mapping[str, int], sparsity: float, scope: Where
) -> dict[str, torch.Tensor]:
    """All but the lowest share: of all tensors together, of each, or of each of its outputs."""
    if scope == "global":
        flat = torch.cat([value.flatten().cpu() for value in scores.values()])
        keep = _without_lowest(flat[None], sparsity)[0]
        parts = torch.split(keep, [value.numel() for value in scores.values()])
        return {n: part.view(v.shape).to(v.device) for (n, v), part in zip(scores.items(), parts, strict=True)}
    if scope == "tensor":
        return {
            name: _without_lowest(value.flatten()[None], sparsity).view(value.shape) for name, value in scores.items()
        }
    masks: dict[str, torch.Tensor] = {}
    for name, value in scores.items():
        output = 0 if dims[name] != 0 else 1
        rows = value.movedim(output, 0)
        masks[name] = _without_lowest(rows.flatten(1), sparsity).view(rows.shape).movedim(0, output).contiguous()
    return masks


def _without_lowest(rows: torch.Tensor, sparsity: float) -> torch.Tensor:
    """True but for the lowest share of each row; of equal scores the first go."""
    count = round(rows.shape[1] * sparsity)
    order = rows.argsort(dim=1, stable=True)[:, :count]
    return torch.ones_like(rows, dtype=torch.bool).scatter_(1, order, False)
