"""factorize: weights become products of thinner ones, by rank, by energy, or under a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from graphc.coupling import analyze
from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from ..affine import Affine
from ..calibration import Calibration
from ..constraints import fitting, limits, shares
from ..matrices import matrix as layer_matrix
from ..moments import visit_in_turn
from ..options import DataName, Limits, Names, Samples
from .bases import Basis, basis
from .products import Method, matricisations, matrix, method_of, most, tensors
from .ranks import Ranks, Solver, by_energy, by_rank, smaller
from .rewrite import Product, with_products
from .weights import Weight, chosen_weights, find_weights

Share = Annotated[str, Field(pattern=r"^\s*(100(\.0+)?|\d{1,2}(\.\d+)?)\s*%\s*$")]


@dataclass(frozen=True, kw_only=True)
class Factorize(Pass):
    """Weights of linear layers, convolutions and embeddings as products of two or three thinner ones.

    By default all of them, the head included. ``encoder.weight`` becomes ``encoder.down.weight`` and
    ``encoder.up.weight``; the new axis between them can be pruned, trained and quantised like any other. A table that a
    head shares stays one, with one projection. Biases stay on the last op. Under ``energy`` and ``constraints`` a
    weight is left as it is where the product would not be smaller. With explicit ``rank`` every weight takes it.

    ``svd`` makes a k x k convolution one of ``rank`` filters and a 1 x 1 (Denton et al. 2014), ``spatial`` a k x 1
    and a 1 x k (Jaderberg et al. 2014), ``tucker-2`` a 1 x 1, a k x k and a 1 x 1 (Kim et al. 2016). Lan et al. 2020,
    ALBERT, for embeddings.
    """

    type: ClassVar[str] = "factorize"
    rank: Annotated[
        Annotated[int, Field(ge=1)] | Share | None, Field(description="Units of each new axis, or 25% of the most.")
    ] = None
    energy: Annotated[
        float | None, Field(gt=0, le=1, description="Share of the squared singular values that is kept.")
    ] = None
    constraints: Limits = field(default_factory=dict)
    method: Annotated[Method, Field(description="How k x k convolutions are divided.")] = "svd"
    initialisation: Annotated[
        Literal["svd", "activation-aware"],
        Field(description="Nearest weights, or nearest results on calibration data (embeddings: nearest weights)."),
    ] = "svd"
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that exactly one way of choosing ranks is given."""
        super().__post_init__()
        where = f"pass {self.title}"
        if sum([self.rank is not None, self.energy is not None, bool(self.constraints)]) != 1:
            raise RecipeError("factorize needs exactly one of rank, energy and constraints", where=where)
        if self.initialisation == "activation-aware" and self.method != "svd":
            why = f"the parts of {self.method} are no matrices that multiply what a layer reads"
            raise RecipeError("activation-aware needs method: svd", where=where, why=why)

    def needs_data(self) -> Mapping[str, str]:
        """Inputs, where results count."""
        aware = self.initialisation == "activation-aware"
        return {self.calibration_data: "initialisation: activation-aware"} if aware else {}

    def requires(self, program: Program) -> None:
        """There are weights, and ranks or limits fit them."""
        weights, methods = self.chosen(program)
        where = f"pass {self.title}"
        for weight in weights:
            if not bool(torch.isfinite(program.tensors()[weight.name].detach()).all()):
                raise GraphError(f"{weight.name} is not finite", where=where)
        if self.rank is not None:
            by_rank(weights, methods, self.rank, where)
        if self.constraints:
            Solver(program, weights, methods).check(limits(analyze(program), self.constraints), where)

    def chosen(self, program: Program) -> tuple[list[Weight], dict[str, Method]]:
        """The weights that ``targets`` and ``ignore`` leave, and the method of each."""
        weights = chosen_weights(program, self.targets, self.ignore, self.title)
        return weights, {weight.name: method_of(weight, self.method) for weight in weights}

    def run(self, program: Program, context: Context) -> Program:
        """Decompose one by one, choose ranks, put products in."""
        weights, methods = self.chosen(program)
        bases = self.bases(program, weights, methods, context)
        squares = {name: [b.squares for b in each] for name, each in bases.items()}
        ranks = self.ranks(program, weights, methods, squares)
        after = self._with(program, weights, methods, bases, ranks)
        context.record(self.title, self._told(program, after, weights, squares, ranks))
        return after

    def ranks(
        self,
        program: Program,
        weights: Sequence[Weight],
        methods: Mapping[str, Method],
        squares: Mapping[str, Sequence[torch.Tensor]],
    ) -> Ranks:
        """The ranks of those weights that become products."""
        if self.rank is not None:
            return by_rank(weights, methods, self.rank, f"pass {self.title}")
        if self.energy is not None:
            return smaller(weights, methods, by_energy(squares, self.energy))
        return Solver(program, weights, methods).ranks(squares, limits(analyze(program), self.constraints))

    def bases(
        self, program: Program, weights: Sequence[Weight], methods: Mapping[str, Method], context: Context
    ) -> dict[str, list[Basis]]:
        """For each new axis the directions of its matrix."""
        values = program.tensors()
        found: dict[str, list[Basis]] = {}
        aware = self.initialisation == "activation-aware"
        uses = {w.name: layers for w in weights if aware and (layers := _alike(w))}

        def visit(name: str, moments: torch.Tensor) -> torch.Tensor:
            found[name] = [basis(layer_matrix(uses[name][0], _wide(values[name]))[0], moments[0])]
            return values[name].detach()

        if uses:
            calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples)
            visit_in_turn(program, uses, calibration, visit)
        for done, weight in enumerate(weights, 1):
            if weight.name not in found:
                pairs = matricisations(weight, methods[weight.name])
                found[weight.name] = [
                    _first(basis(matrix(values[weight.name], pair)), n, methods[weight.name], values[weight.name], pair)
                    for pair, n in zip(pairs, most(weight, methods[weight.name]), strict=True)
                ]
            context.progress(done, len(weights), self.title)
        return found

    def _with(
        self,
        program: Program,
        weights: Sequence[Weight],
        methods: Mapping[str, Method],
        bases: Mapping[str, Sequence[Basis]],
        ranks: Ranks,
    ) -> Program:
        values = program.tensors()
        products = [
            Product(w, methods[w.name], tensors(w, methods[w.name], values[w.name], bases[w.name], ranks[w.name]))
            for w in weights
            if w.name in ranks
        ]
        return with_products(program, products)[0]

    def _told(
        self,
        before: Program,
        after: Program,
        weights: Sequence[Weight],
        squares: Mapping[str, Sequence[torch.Tensor]],
        ranks: Ranks,
    ) -> dict[str, Any]:
        """Rank and kept energy of each weight, what was left, and budgets asked and reached."""
        figures = {
            name: {
                "rank": list(each),
                "of": [len(s) for s in squares[name]],
                "energy": [
                    float(s[:r].sum() / s.sum()) if float(s.sum()) else 1.0 for s, r in zip(squares[name], each)
                ],
            }
            for name, each in ranks.items()
        }
        left = [w.name for w in weights if w.name not in ranks]
        says = [f"{len(ranks)} of {len(weights)} weights became products"]
        says += [f"{name} is left as it is: a product would not be smaller" for name in left]
        told: dict[str, Any] = {"says": says, "products": figures, "left": left}
        if self.constraints:
            asked = limits(analyze(before), self.constraints)
            whole, reached = shares(analyze(before), asked), shares(analyze(after), asked)
            says += [
                f"{k}: {limit / whole[k]:.2%} asked, {reached[k] / whole[k]:.2%} reached" for k, limit in asked.items()
            ]
            told["constraints"] = {k: {"asked": limit, "reached": reached[k]} for k, limit in asked.items()}
        return told

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """Each weight alone, at a share of its rank."""
        weights, methods = self.chosen(program)
        bases = self.bases(program, weights, methods, context)

        def cut(weight: Weight, ratio: float) -> Program:
            full = most(weight, methods[weight.name])
            ranks = {weight.name: tuple(max(1, round(n * (1 - ratio))) for n in full)}
            return self._with(program, [weight], methods, bases, ranks)

        return {weight.name: partial(cut, weight) for weight in weights}

    def ensures(self, before: Program, after: Program) -> None:
        """Weights with a rank are gone, and limits are held."""
        if self.rank is not None:
            held = {w.name for w in find_weights(after)} & {w.name for w in self.chosen(before)[0]}
            if held:
                raise GraphError(f"{min(held)} is still there", where=f"pass {self.title}")
        if self.constraints and not fitting(analyze(after), limits(analyze(before), self.constraints))({}):
            raise GraphError("factorize missed its constraints", where=f"pass {self.title}")


def _alike(weight: Weight) -> list[Affine]:
    """The layers that read a weight, if all of them do and in one way."""
    layers = [use.layer for use in weight.uses if use.layer is not None]
    ways = {(a.form, a.order) for a in layers}
    return layers if len(layers) == len(weight.uses) and len(ways) == 1 else []


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def _first(found: Basis, count: int, method: Method, value: torch.Tensor, pair: tuple[list[int], list[int]]) -> Basis:
    """Tucker takes directions of rows, whichever side is the longer."""
    if method != "tucker-2" or found.on_rows:
        return found
    left = torch.linalg.svd(matrix(value, pair).double(), full_matrices=False).U[:, :count]
    return Basis(found.squares, left, left.t(), True)
