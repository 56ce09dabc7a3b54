"""What the pass does with one program: prepare, choose, calibrate, round, guard; and what it tells of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from graphc.errors import GraphError, RecipeError
from graphc.ir.graph import module_path
from graphc.ir.kinds import kind
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from ..calibration import Calibration
from ..contractions import Contraction, contractions
from ..drop import allowed_drop
from ..select import choose
from .bias import correct_biases
from .calibrate import calibrate
from .equalize import equalize
from .fold import fold_batch_norms
from .grids import Grids
from .guard import Guard, Sensitivity, guarded, sensitivities
from .noise import output_sqnr
from .numbers import Chosen
from .observers import METHODS, Observer
from .placement import Point, place
from .quantization import Quantization
from .rounding import Method, by_inputs, round_weights
from .seams import layer_inputs
from .settings import Settings
from .smooth import channel_maxima, smooth
from .target import Rules, Target, find_target
from .weights import Layout, layouts

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8)
"""Strengths of smoothing that are tried; 0 is none."""
TRIAL_SAMPLES = 32
"""Calibration samples that a strength, or a product's part in the error, is judged by."""
TABLE_BITS = 8
"""Of embeddings that no product reads."""


@dataclass
class Work:
    """The pass on one program.

    Attributes:
        options: the pass.
        context: data, metric, progress.
        given: the program, as it came.
        says: lines for the report.
        table: what each product costs, if a guard asked.
    """

    options: Settings
    context: Context
    given: Program
    says: list[str] = field(default_factory=list)
    table: list[Sensitivity] = field(default_factory=list)

    def run(self) -> Quantization:
        """All that is decided, within the guard."""
        options = self.options
        self.introduce()
        bits = self.target.weight_bits(options.scheme)[1]
        self.says += [bits] if bits else []
        program = fold_batch_norms(make_permanent(self.given))
        if options.equalize:
            program = equalize(program)
        found = self.decided(self._smoothed(program), self.calibration())
        self.says += self._how_rounded(found)
        found = self._corrected(self._guarded(found))
        total = sum(kind(p.node) in self.rules.products for p in contractions(program))
        self.says.append(f"{len(found.products)} of {total} products take integers")
        return found

    def _corrected(self, found: Quantization) -> Quantization:
        """With biases that make good the mean error of the products that take integers."""
        if not self.options.corrects_biases:
            return found
        batches = self.calibration(TRIAL_SAMPLES).batches(found.program, "bias correction")
        return correct_biases(found, list(batches))

    def _how_rounded(self, found: Quantization) -> list[str]:
        """Which weights GPTQ could not round."""
        if self.options.weight_method != "gptq":
            return []
        own = len(by_inputs(found.program, found.products, found.rounded))
        others = len(found.rounded) - own
        return [f"{own} weights by gptq; {others} that are no layer's matrix, as tables are, by mse"] if others else []

    def introduce(self) -> None:
        """Say what is done for whom; refuse what the target cannot run."""
        self.says.append(f"{self.options.scheme} for {self.target.name}{self._why_target()}")
        self.says += [self.rules.note] if self.rules.note else []

    def begin(self) -> Quantization:
        """What training with roundings begins with; masks stay."""
        return self.decided(fold_batch_norms(self.given), self.calibration())

    def told(self) -> dict[str, Any]:
        """For the report."""
        table = {"sensitivity": [row.to_dict() for row in self.table]} if self.table else {}
        return {"says": self.says, **table}

    @cached_property
    def target(self) -> Target:
        """Whose kernels are meant."""
        if self.options.target != "auto":
            return find_target(self.options.target)
        found = find_target("onnxruntime-cuda" if self.context.device.startswith("cuda") else "onnxruntime-cpu")
        other = find_target("torch")
        return other if self.options.scheme in other.schemes.keys() - found.schemes.keys() else found

    def _why_target(self) -> str:
        return f", as the device is {self.context.device}" if self.options.target == "auto" else ""

    @cached_property
    def rules(self) -> Rules:
        """What the scheme means to the target."""
        return self.options.rules(self.target)

    def calibration(self, samples: int | None = None) -> Calibration:
        """The data, so many samples of it."""
        most = self.options.num_calibration_samples
        least = most if samples is None else min(samples, most or samples)
        return Calibration.of(self.context, self.options.calibration_data, least)

    def products(self, program: Program) -> list[Contraction]:
        """Those that are to take integers.

        Raises:
            GraphError: there is none.
        """
        known = [p for p in contractions(program) if kind(p.node) in self.rules.products]
        if not known:
            why = f"no op of it has a kernel for {self.options.scheme} in {self.target.name}"
            raise GraphError("there is nothing to quantise", where=f"pass {self.options.title}", why=why)
        return self.chosen(known)

    def chosen(self, products: Collection[Contraction]) -> list[Contraction]:
        """Those of some products that ``targets`` and ``ignore`` mean."""
        return choose(list(products), _names, self.options.targets, self.options.ignore, self.options.title)

    def decided(self, program: Program, calibration: Calibration, weight_method: Method | None = None) -> Quantization:
        """Places, numbers and rounded weights of a prepared program."""
        options = self.options
        products = self.products(program)
        bits, _ = self.target.weight_bits(options.scheme)
        own = layouts(program, products, options.group_size)
        grids = {name: Grids(layout, bits, self.rules.zero_points) for name, layout in own.items()}
        if options.embeddings:
            grids |= {name: Grids(Layout(0), TABLE_BITS) for name in _tables(program, own)}
        if not grids:
            why = "targets and ignore leave no product, and no table of embeddings is asked for or there"
            raise GraphError("there is nothing to quantise", where=f"pass {options.title}", why=why)
        rounded = round_weights(program, products, grids, weight_method or options.weight_method, calibration)
        points = place(program, self.rules, products) if options.scheme.startswith("W8A8") else []
        return Quantization(
            program, self.rules, tuple(products), tuple(points), self._chosen(program, points, calibration), rounded
        )

    def _chosen(self, program: Program, points: Collection[Point], calibration: Calibration) -> Chosen:
        if self.options.scheme != "W8A8":
            return {point.group: None for point in points}
        return calibrate(program, list(points), calibration, self._observer, self.target.values)

    def _observer(self, name: str) -> Observer:
        method, values = METHODS[self.options.calibration_method], self.target.values
        more = {"percentile": self.options.percentile} if self.options.calibration_method == "percentile" else {}
        return method(name=name, levels=255 if values.symmetric else 256, symmetric=values.symmetric, **more)

    def _smoothed(self, program: Program) -> Program:
        """The program with ranges moved from values into weights as strongly as is best, or as was asked."""
        strength = self.options.smooth
        known = {node.name for node in layer_inputs(program)}
        inputs = {p.data.name for p in self.products(program) if not kind(p.node).startswith("conv")} & known
        if not self.options.scheme.startswith("W8A8") or not inputs or strength == 0:
            return program
        if strength == "auto" and 2 * len(inputs) < len({p.data.name for p in self.products(program)}):
            return program
        maxima = channel_maxima(program, self.calibration(), sorted(inputs))
        if strength != "auto":
            return smooth(program, maxima, strength)
        tried: dict[float, float] = {}
        programs: dict[float, Program] = {}
        for value in STRENGTHS:
            programs[value] = smooth(program, maxima, value) if value else program
            trial = self.decided(programs[value], self.calibration(TRIAL_SAMPLES), "round-to-nearest")
            tried[value] = self.accuracy(trial.simulated(), TRIAL_SAMPLES)
        best = max(tried, key=tried.__getitem__)
        figures = ", ".join(f"{value:g}: {found:.1f} dB" for value, found in tried.items())
        self.says.append(f"smoothed with strength {best:g} ({figures})")
        return programs[best]

    def accuracy(self, program: Program, samples: int | None = None) -> float:
        """How near a program's outputs are to those of the one that was given, in dB."""
        return output_sqnr(self.given, program, self.calibration(samples), "accuracy")

    def _guarded(self, found: Quantization) -> Quantization:
        """What hurts most stays in real numbers until the guard holds."""
        guard = self.guard()
        if guard is None:
            return found
        ranking = sensitivities(found, self.calibration(TRIAL_SAMPLES))
        found, figure, self.table = guarded(
            found, ranking, lambda q: guard.measure(self._corrected(q).simulated()), guard.holds, guard.what
        )
        kept = [row.module or row.node for row in self.table if row.kept]
        more = f"; in real numbers: {', '.join(kept)}" if kept else ""
        self.says.append(f"held {guard.what}: {figure:.4g} {guard.unit}{more}")
        return found

    def guard(self) -> Guard | None:
        """What the result has to hold, if anything was asked for.

        Raises:
            RecipeError: there is no metric.
        """
        options, evaluator, least = self.options, self.context.evaluator, self.options.min_sqnr_db
        if least is not None:
            return Guard(self.accuracy, lambda db: db >= least, f"{least:g} dB", "dB")
        if options.max_drop is None:
            return None
        if evaluator is None:
            hint = "add metric: accuracy and data: {eval: ...}, or take min_sqnr_db"
            raise RecipeError("max_drop needs a metric", where=f"pass {options.title}", hint=hint)
        allowed = allowed_drop(options.max_drop, evaluator.baseline, options.title)
        return Guard(
            evaluator.fresh,
            lambda now: evaluator.metric.drop(evaluator.baseline, now) <= (allowed or 0.0),
            f"a drop of {options.max_drop} of {evaluator.metric.name}",
            evaluator.metric.name,
        )


def _names(product: Contraction) -> list[str]:
    """How recipes may speak of a product: its node, its weight, and every module around it."""
    path = module_path(product.node)
    return [product.node.name, product.weight, *([path] if path else [])]


def _tables(program: Program, rounded: Collection[str]) -> list[str]:
    """Embedding tables that nothing else reads."""
    found: list[str] = []
    for node in program.graph.nodes:
        alone = node.users and all(kind(user) == "embedding" and user.args[0] is node for user in node.users)
        if node.op == "get_attr" and alone and str(node.target) not in rounded:
            found.append(str(node.target))
    return found
