"""Train: everything that a training needs, made from a pass's options and checked before it starts."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from graphc.errors import GraphError, RecipeError
from graphc.ir.edit import rebuild, set_training
from graphc.ir.program import Program
from graphc.pipeline.base import Context
from graphc.pipeline.batches import Batch

from .checkpoint import State, digest
from .feed import Feed, seed_all
from .loop import Loop
from .processes import find_accelerate, make_accelerator
from .recompute import recomputed
from .settings import Settings
from .stage import Stage, Teachings
from .teacher import Teacher, on
from .terms import Term, find_terms

FOLDER = "training"
"""Where checkpoints and logs go, in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """A pass that trains the program; subclasses say who teaches."""

    @abstractmethod
    def teacher_program(self, student: Program, context: Context) -> Program | None:
        """The teacher in evaluation mode; None without one."""

    def teach(self, teacher: Teacher, context: Context) -> Callable[[Batch], Teachings]:
        """How the teacher's values come."""
        return teacher

    def requires(self, program: Program) -> None:
        """Accelerate is there, and something can be trained."""
        find_accelerate()
        if not any(p.requires_grad for p in program.parameters()):
            raise GraphError(f"{self.type} finds nothing to train", where=f"pass {self.title}")

    def run(self, program: Program, context: Context) -> Program:
        """Train a copy of the program."""
        if self.max_drop is not None and context.evaluator is None:
            hint = "add metric: accuracy and data: {eval: ...}"
            raise RecipeError("max_drop needs a metric", where=f"pass {self.title}", hint=hint)
        accelerator = make_accelerator(context.device)
        student = on(copied(program), accelerator.device)
        hooks = self.hooks()
        for hook in hooks:
            student = hook.prepare(student, context)
        training = set_training(student, True)
        teacher = self.teacher_program(student, context)
        terms = find_terms(self.terms(), training, teacher)
        stage = Stage(training, terms)
        teach = _nothing(terms)
        if teacher is not None:
            teach = self.teach(Teacher(teacher, terms, accelerator.device), context)
        feed = Feed(
            student,
            partial(context.loader, self.data),
            context.seed,
            self.labels,
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.device,
        )
        own = student.tensors()
        statistics = {n: (t, own[n]) for n, t in training.tensors().items() if t is not own[n]}
        frozen = frozenset[str]().union(*(hook.frozen(student) for hook in hooks))
        flags = {name: value.requires_grad for name, value in own.items()}
        unused = rehearse(stage, teach, feed, statistics, frozen, own, self.title, context.seed)
        if self.gradient_checkpointing:
            stage.student = recomputed(stage.student, training)
        if self.compile:
            stage.student = torch.compile(stage.student)  # type: ignore[assignment] # a module that stands for it
        fingerprint = digest(self.note(), str(context.seed), str(student), tensors=own.values())
        loop = Loop(
            self, student, statistics, stage, teach, hooks, feed, feed.length(), accelerator, context,
            self._path(context), fingerprint,
        )  # fmt: skip
        start = time.perf_counter()
        state = loop.run()
        for name, value in own.items():
            value.requires_grad_(flags[name])
            value.grad = None
        for hook in hooks:
            student = hook.finish(student)
        self._report(loop, state, time.perf_counter() - start, unused, context)
        result = on(student, next(iter(program.tensors().values())).device)
        self._guard(result, state, context)
        return result

    def _path(self, context: Context) -> Path | None:
        if context.run_dir is None:
            return None
        return context.run_dir / FOLDER / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.title)}.safetensors"

    def _report(self, loop: Loop, state: State, seconds: float, unused: Sequence[str], context: Context) -> None:
        rows = state.evaluations
        says = [f"{state.step} steps" + (f", stopped early of {loop.steps}" if state.step < loop.steps else "")]
        if state.best is not None and context.evaluator is not None:
            says.append(f"{context.evaluator.metric.name} {state.best:.4f} after step {state.best_step}")
        if unused:
            says.append(f"{len(unused)} parameters that no loss depends on are not trained: {', '.join(unused[:3])}")
        told = {"seconds": seconds, "steps": state.step, "evaluations": rows, "not_trained": list(unused)}
        context.record(self.title, {"says": says, "training": told})

    def _guard(self, result: Program, state: State, context: Context) -> None:
        """Hold ``max_drop``.

        Raises:
            GraphError: the metric is worse by more.
        """
        evaluator = context.evaluator
        if evaluator is None or self.max_drop is None:
            return
        before, now = evaluator.baseline, evaluator(result)
        allowed, drop = self.allowed_drop(before), evaluator.metric.drop(before, now)
        if allowed is not None and drop > allowed:
            raise GraphError(
                f"{evaluator.metric.name} fell by {drop:.4f}, more than the {allowed:.4f} that max_drop allows",
                where=f"pass {self.title}",
                why=f"it was {before:.4f} for the original and is {now:.4f} after {state.step} steps",
                hint="compress less, train longer, or allow more",
            )


def copied(program: Program) -> Program:
    """The program with tensors of its own."""
    own = {
        name: Parameter(value.detach().clone(), value.requires_grad) if isinstance(value, Parameter) else value.clone()
        for name, value in program.tensors().items()
    }
    return rebuild(program, tensors=own)


def _nothing(terms: Sequence[Term]) -> Callable[[Batch], Teachings]:
    """No teacher: nothing for each term."""
    return lambda batch: [[] for _ in terms]


def rehearse(
    stage: Stage,
    teach: Callable[[Batch], Teachings],
    feed: Feed,
    statistics: Mapping[str, tuple[Tensor, Tensor]],
    frozen: frozenset[str],
    own: Mapping[str, Tensor],
    title: str,
    seed: int,
) -> list[str]:
    """One step on the first batch that changes nothing: makes projections, finds what no loss depends on.

    Such parameters, and frozen ones, take no gradients from then on.

    Returns:
        Names of the parameters that no loss depends on.

    Raises:
        GraphError: a batch does not fit, labels are missing, values cannot be compared, or nothing is left to train.
    """
    batch = next(feed.epoch(0))
    for term in stage.terms:
        if term.loss.needs_labels and batch.labels is None:
            hint = "give batches of (inputs, labels) or a dict with `labels`, or leave the loss out"
            raise RecipeError(f"the loss {term.name} needs labels", where=f"data of {title}", hint=hint)
    for name in frozen:
        own[name].requires_grad_(False)
    kept = [(trained, trained.clone()) for trained, _ in statistics.values()]
    seed_all(seed)
    teachings = teach(batch)
    with torch.no_grad():
        stage.fit(batch, stage.read(batch), teachings)
    values = stage(batch, teachings, [1.0] * len(stage.terms))
    if not values.requires_grad:
        raise GraphError("no loss depends on a parameter that is trained", where=f"pass {title}")
    values.sum().backward()
    with torch.no_grad():
        for trained, before in kept:
            trained.copy_(before)
    unused = [n for n, p in own.items() if isinstance(p, Parameter) and p.requires_grad and p.grad is None]
    for name in unused:
        own[name].requires_grad_(False)
    for parameter in stage.parameters():
        parameter.grad = None
    return unused
