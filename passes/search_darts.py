"""search-darts: train a supernet and its architecture parameters together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch.nn import Parameter

from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.ir.program import Program

from .discretize.choice import Rule
from .discretize.genotype import described
from .discretize.space import find_space
from .finetune import Finetune
from .training.bilevel import Bilevel
from .training.feed import Endless
from .training.loop import Loop
from .training.optimisation import OPTIMIZERS, check_options, with_options
from .training.rehearsal import check_labels
from .training.train import copied


@dataclass(frozen=True, kw_only=True)
class SearchDarts(Finetune):
    """Search an architecture by gradients: a step of the architecture parameters before each of the weights.

    First-order DARTS (Liu et al. 2019): the weights descend the loss on training data, the architecture parameters
    that on validation data, by an optimiser of their own; the defaults are the paper's. What the architecture
    parameters are is found in the graph, as ``discretize`` finds it; tensors that the model keeps beside its parameters
    become parameters. Let ``discretize`` follow. The metric is that of the supernet, so the last weights are
    kept. Otherwise as ``finetune``.
    """

    type: ClassVar[str] = "search-darts"
    optimizer: Annotated[str, Field(description=f"Of the weights: {', '.join(sorted(OPTIMIZERS))}.")] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, description="Of the weights: the greatest.")] = 0.025
    weight_decay: Annotated[float, Field(ge=0, description="Of matrices and kernels.")] = 3e-4
    optimizer_options: Annotated[dict[str, Any], Field(description="More arguments of the weights' optimizer.")] = (
        field(default_factory=lambda: {"momentum": 0.9})
    )
    max_grad_norm: Annotated[float | None, Field(gt=0, description="Gradients of weights are scaled to it.")] = 5.0
    keep: Annotated[Literal["best", "last"], Field(description="Weights to keep, by the supernet's metric.")] = "last"
    validation_data: Annotated[str, Field(description="Which of the recipe's data the architecture is trained on.")] = (
        "validation"
    )
    architecture_optimizer: Annotated[str, Field(description="Of the architecture parameters.")] = "adam"
    architecture_learning_rate: Annotated[float, Field(gt=0, le=1e6, description="Constant.")] = 3e-4
    architecture_weight_decay: Annotated[float, Field(ge=0, le=1e6, description="Of all architecture parameters.")] = (
        1e-3
    )
    architecture_options: Annotated[
        dict[str, Any], Field(description="More arguments of the architecture's optimizer.")
    ] = field(default_factory=lambda: {"betas": (0.5, 0.999)})
    architecture_after: Annotated[
        float, Field(ge=0, description="Only weights are trained before: a share of all steps if below 1, else steps.")
    ] = 0.0

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_options(self.architecture_optimizer, self.architecture_options)

    def needs_data(self) -> Mapping[str, str]:
        """What to train on, weights and architecture."""
        return {**super().needs_data(), self.validation_data: "to train the architecture on"}

    def requires(self, program: Program) -> None:
        """There is something to search, and a device to do it on.

        Raises:
            GraphError: the program mixes no candidates, or its architecture has no parameters.
        """
        super().requires(program)
        if not find_space(program).architecture():
            why = "the weights of the candidates are computed from no tensor of more than one number"
            raise GraphError("the program has no architecture parameters", where=f"pass {self.title}", why=why)

    def prepared(self, program: Program) -> Program:
        """The program with tensors of its own, the architecture's among its parameters."""
        own = copied(program)
        tensors = own.tensors()
        names = find_space(program).architecture()
        return rebuild(own, tensors={name: Parameter(tensors[name].detach().clone()) for name in names})

    def make_loop(self, **parts: Any) -> Loop:
        """Bilevel training."""
        program: Program = parts["program"]
        tensors, context, feed = program.tensors(), parts["context"], parts["feed"]
        found = (tensors[name] for name in find_space(program).architecture())
        architecture = [tensor for tensor in found if isinstance(tensor, Parameter)]
        own = {"lr": self.architecture_learning_rate, "weight_decay": self.architecture_weight_decay}
        searcher = with_options(self.architecture_optimizer, architecture, {**own, **self.architecture_options})
        validation = replace(feed, load=partial(context.loader, self.validation_data), seed=feed.seed + 1)
        check_labels(parts["stage"], next(Endless(validation)), self.title)
        return Bilevel(
            **parts,
            architecture=architecture,
            searcher=searcher,
            validation=validation,
            after=self.architecture_after,
        )

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """The genotype that ``discretize`` would make of it."""
        space = find_space(after)
        found = described(space.choose(Rule()), space.cones)
        return {name: found[name] for name in ("genotype", "choices") if name in found}
