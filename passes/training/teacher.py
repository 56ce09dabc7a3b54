"""Teacher: the program that a student learns from, frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from graphc.errors import GraphError, RecipeError
from graphc.ir.capture import capture
from graphc.ir.edit import rebuild, set_training
from graphc.ir.program import Program
from graphc.pipeline.base import Context
from graphc.pipeline.batches import Batch, taken_by
from graphc.pipeline.targets import load_model

from .stage import Teachings, apart
from .terms import Reader, Term

ORIGINAL = "original"


class Teach(Protocol):
    """Gives what a teacher has for a batch."""

    def __call__(self, batch: Batch) -> Teachings:
        """For each term and each of its places what the teacher has there."""

    def told(self) -> list[str]:
        """Lines for the report."""


def find_teacher(choice: str | Mapping[str, Any], student: Program, context: Context) -> Program:
    """The program that a recipe's ``teacher`` speaks of, in evaluation mode.

    Args:
        choice: ``original``, the name of an earlier pass, or a model target ``{target: ..., kwargs: ...}``.
        student: whose inputs the teacher takes too.
        context: has the programs.

    Raises:
        RecipeError: the target is none, or does not take the student's inputs.
    """
    if choice == ORIGINAL:
        return set_training(context.original, False)
    if isinstance(choice, str):
        return set_training(context.states[choice], False)
    model = load_model(str(choice.get("target")), choice.get("kwargs", {}), "teacher")
    if isinstance(model, Program):
        found = model
    else:
        args, kwargs = student.example()
        try:
            found = capture(model, args, kwargs, dynamic=student.contract.dynamic)
        except GraphError as error:
            hint = "a teacher takes the inputs of the student, by the same names"
            raise RecipeError("the teacher cannot be captured", where="teacher", why=str(error), hint=hint) from error
    given, wanted = ([(s.name, s.dtype) for s in p.contract.inputs] for p in (found, student))
    bound = [(one.spec.name, one.spec.dtype) for one in student.contract.bound]
    if [spec for spec in given if spec not in bound] != wanted:
        why = f"it takes {given}, the student takes {wanted}"
        raise RecipeError("the teacher has other inputs than the student", where="teacher", why=why)
    return set_training(found, False)


class Nobody:
    """No teacher: nothing for each term.

    Args:
        terms: the losses.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    def __call__(self, batch: Batch) -> Teachings:
        """Nothing."""
        return [[] for _ in self.terms]

    def told(self) -> list[str]:
        """Nothing to say."""
        return []


class Teacher:
    """Runs a teacher without gradients and reads what the terms compare with.

    Args:
        program: in evaluation mode.
        terms: whose places of the teacher are read.
        device: where it runs.
    """

    def __init__(self, program: Program, terms: Sequence[Term], device: torch.device) -> None:
        self.program = on(program, device)
        self.terms = tuple(terms)
        self.reader = Reader(self.program, [place for term in terms for place in term.teacher])

    def __call__(self, batch: Batch) -> Teachings:
        """What it has at the places of each term."""
        args, kwargs = taken_by(self.program, batch)
        with torch.no_grad():
            outputs, values = self.reader.module(*args, **kwargs)
        found = self.reader.read(outputs, values, batch.size)
        return apart(found, [len(term.teacher) for term in self.terms])

    def told(self) -> list[str]:
        """Nothing that the report does not say."""
        return []


def on(program: Program, device: torch.device) -> Program:
    """The program with its tensors on a device; itself if they are there."""
    tensors = program.tensors()
    if all(value.device == device for value in tensors.values()):
        return program
    moved = {
        name: torch.nn.Parameter(value.detach().to(device), value.requires_grad)
        if isinstance(value, torch.nn.Parameter)
        else value.to(device)
        for name, value in tensors.items()
    }
    return rebuild(program, tensors=moved)
