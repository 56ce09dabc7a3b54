"""The accuracy guard: products whose rounding hurts most stay in real numbers, until what is asked for holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphc.errors import GraphError
from graphc.ir.edit import find
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.quantized import DYNAMIC
from graphc.ir.watch import run_watched
from graphc.measure.fidelity import named_tensors

from ..calibration import Calibration, trainable
from ..contractions import OPS, Contraction, parameter_of
from .noise import decibels
from .numbers import Numbers
from .placement import source
from .quantization import Quantization

DRAWS = 4
"""Random directions for each batch."""


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one product alone does to the outputs.

    Attributes:
        node, module: the product, and the module that it is in.
        sqnr_db: signal to noise of the outputs if this product alone were quantised.
        kept: does it stay in real numbers?
    """

    node: str
    module: str
    sqnr_db: float
    kept: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields; infinite is None."""
        return {**asdict(self), "sqnr_db": None if math.isinf(self.sqnr_db) else round(self.sqnr_db, 2)}


@dataclass(frozen=True)
class Guard:
    """What the outputs of a compressed program have to hold.

    Attributes:
        measure: of a program.
        holds: is a measure good enough?
        what: is asked for, as text.
        unit: of the measure, as text.
    """

    measure: Callable[[Program], float]
    holds: Callable[[float], bool]
    what: str
    unit: str


Errors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Of each product, what it gives, and how far that is from what it gives if it is quantised."""


def sensitivities(quantization: Quantization, calibration: Calibration) -> list[Sensitivity]:
    """Every product quantised by itself, all in one run over the data; the worst first.

    To first order the outputs move by ``J d``, with ``d`` the error of what the product gives and ``J`` the
    Jacobian from there. Its squared norm is the mean of ``(v J d)^2`` over normal ``v`` (Hutchinson 1990), and
    ``v J`` for all products comes from one backward pass. Outputs count in units of their root mean square.
    """
    program = quantization.program
    errors: Errors = {}
    watches = {find(program.graph, p.node.name): _Probe.of(quantization, p, errors) for p in quantization.products}
    noise = dict.fromkeys((p.node.name for p in quantization.products), 0.0)
    signal = 0.0
    draw = torch.Generator().manual_seed(calibration.seed)
    own = trainable(program)
    for batch in calibration.batches(program, "sensitivity"):
        errors.clear()
        with torch.enable_grad():
            outputs = run_watched(program, watches, batch.args, batch.kwargs, own)
            given = [value for _, value in named_tensors(outputs) if value.requires_grad]
            scaled = [value / value.detach().square().mean().sqrt().clamp(min=1e-12) for value in given]
            for _ in range(DRAWS):
                random = [torch.randn(value.shape, generator=draw).to(value.device) for value in scaled]
                total = torch.stack([(value * v).sum() for value, v in zip(scaled, random, strict=True)]).sum()
                values = [value for value, _ in errors.values()]
                found = torch.autograd.grad(total, values, allow_unused=True, retain_graph=True)
                for (name, (_, error)), gradient in zip(errors.items(), found, strict=True):
                    noise[name] += 0.0 if gradient is None else float((gradient * error).double().sum()) ** 2 / DRAWS
        signal += sum(value.numel() for value in given)
    rows = [
        Sensitivity(p.node.name, module_path(p.node), decibels(signal, noise[p.node.name]))
        for p in quantization.products
    ]
    return sorted(rows, key=lambda item: item.sqnr_db)


@dataclass(frozen=True)
class _Probe:
    """Watches one product: what it gives, and what with integers."""

    product: Contraction
    numbers: Numbers | None
    rounds: bool
    weight: torch.Tensor
    errors: Errors

    @staticmethod
    def of(quantization: Quantization, product: Contraction, errors: Errors) -> _Probe:
        program = quantization.program
        operand = parameter_of(program.module, product.node.args[OPS[str(product.node.target)][0]])  # type: ignore[arg-type] # a node
        assert operand is not None
        dtype = program.tensors()[product.weight].dtype
        weight = quantization.rounded[product.weight].real().to(dtype).permute(operand[1])
        groups = {point.node: point.group for point in quantization.points}
        group = groups.get(source(product)[1].name)
        numbers = quantization.chosen[group] if group is not None else None
        return _Probe(product, numbers, group is not None, weight, errors)

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], value: torch.Tensor) -> None:
        place, _, data, _ = OPS[str(self.product.node.target)]
        changed = list(args)
        with torch.no_grad():
            changed[place], changed[data] = self.weight, self._rounded(args[data])
            other = self.product.node.target(*changed, **kwargs)  # type: ignore[operator] # an op
        self.errors[self.product.node.name] = (value, other - value.detach())

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        if not self.rounds:
            return value
        if self.numbers is not None:
            return self.numbers.nearest(value)
        found: torch.Tensor = torch.ops.graphc.dequantize(*DYNAMIC(value))
        return found


def guarded(
    quantization: Quantization,
    ranking: Sequence[Sensitivity],
    measure: Callable[[Quantization], float],
    holds: Callable[[float], bool],
    what: str,
) -> tuple[Quantization, float, list[Sensitivity]]:
    """Leave the fewest of the worst products in real numbers with which it holds.

    More of them are taken to be better, so that the number is found by halving.

    Args:
        quantization: with every product.
        ranking: the worst first.
        measure: of a quantization.
        holds: of a measure.
        what: is asked for, for errors.

    Returns:
        What is left, its measure, and the ranking with those that stay.

    Raises:
        GraphError: it does not hold even with the last product alone.
    """
    names = [item.node for item in ranking]
    figures: dict[int, float] = {}

    def figure(kept: int) -> float:
        if kept not in figures:
            figures[kept] = measure(quantization.without(names[:kept]))
        return figures[kept]

    enough, short = len(names) - 1, -1
    if holds(figure(0)):
        enough = 0
    elif not holds(figure(enough)):
        raise GraphError(
            f"quantising cannot hold {what}",
            why=f"with {names[-1]} alone, the least sensitive product, it is {figure(enough):.4g}",
            hint="allow more, calibrate by another method or on more data, or train with `during: [{type: qat}]`",
        )
    while enough - short > 1:
        middle = (enough + short) // 2
        enough, short = (middle, short) if holds(figure(middle)) else (enough, middle)
    told = [Sensitivity(s.node, s.module, s.sqnr_db, i < enough) for i, s in enumerate(ranking)]
    return quantization.without(names[:enough]), figure(enough), told
