"""Hook: what happens to a program beside its training: before it, after every step, at the end."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphc.ir.program import Program
from graphc.pipeline.base import Context
from graphc.pipeline.checked import Checked, find_class, make

from ..losses import Loss

HOOKS: dict[str, type[Hook]] = {}
"""All hooks by type; a subclass of Hook with a type is known once its module is imported."""


Action = Callable[[int, int], None]
"""Called with the number of optimiser steps done and of all, without gradients."""


def _nothing(step: int, steps: int) -> None:
    pass


@dataclass(frozen=True)
class Variant:
    """One of several forms in which a program sees each batch of a step; gradients are the mean over all.

    Attributes:
        begin: makes the program so; called without gradients.
        taught: it learns from the first variant, by the hook's lessons in place of the losses of the pass.
        counted: running statistics are those of this variant too.
    """

    begin: Callable[[], None]
    taught: bool = False
    counted: bool = True


Variants = Callable[[int, int, int], Sequence[Variant]]
"""Called with the seed, the number of optimiser steps done and of all, without gradients."""


@dataclass(frozen=True)
class Actions:
    """What a hook does at every step.

    Attributes:
        before: called before the forward pass.
        after: called after the optimiser's step.
        variants: the forms in which the step trains the program, one at least; None leaves it as it is.
    """

    before: Action = _nothing
    after: Action = _nothing
    variants: Variants | None = None


@dataclass(frozen=True, kw_only=True)
class Hook(Checked, abc.ABC):
    """Something that accompanies training. Subclasses are frozen dataclasses with ``type`` set.

    What a hook does at a step follows from the step and from the tensors, so that an interrupted
    training that goes on is the same training. All methods do nothing by default.
    """

    kind: ClassVar[str] = "hook"
    final: ClassVar[bool] = False
    """Does ``finish`` leave a program that other hooks no longer know, so that it comes after theirs?"""
    alone: ClassVar[bool] = False
    """Must no other hook rewrite the program beside it?"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the hook known by its type."""
        super().__init_subclass__(**kwargs)
        if cls.type:
            HOOKS[cls.type] = cls

    def prepare(self, program: Program, context: Context) -> Program:
        """The program to train: rewritten, or the given one. Its tensors belong to the training.

        Raises:
            GraphError: the hook cannot do its work on this program.
        """
        return program

    def frozen(self, program: Program) -> frozenset[str]:
        """Names of parameters that are not to be trained."""
        return frozenset()

    def lessons(self) -> Sequence[Loss]:
        """Losses by which the first variant of a step teaches those that are taught."""
        return ()

    def start(self, program: Program) -> Actions:
        """What to do at each step.

        Args:
            program: as ``prepare`` left it. Its tensors are those being trained, and may be written into.
        """
        return Actions()

    def settled(self, step: int, steps: int) -> bool:
        """Is the program after so many steps what it is meant to become, so that its weights may be kept?"""
        return True

    def finish(self, program: Program) -> Program:
        """The trained program as later passes take it."""
        return program


def find_hook(name: str) -> type[Hook]:
    """The hook of this type, or the subclass of Hook at ``package.module:Class``.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    return find_class(name, HOOKS, Hook, "during")


def make_hook(spec: Mapping[str, Any], where: str) -> Hook:
    """A hook from its YAML form ``{type: gradual-sparsity, sparsity: 0.8}``.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    return make(spec, find_hook, where, Hook.kind, "{type: freeze, ...}")
