"""Train: everything that a training needs, made from a pass's options and checked before it starts."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from graphc.errors import GraphError, RecipeError
from graphc.ir.edit import rebuild, set_training
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from .checkpoint import State, digest
from .feed import Feed
from .loop import Loop
from .processes import find_accelerate, make_accelerator
from .recompute import recomputed
from .rehearsal import rehearse
from .settings import Settings
from .stage import Stage
from .teacher import Nobody, Teach, Teacher, on
from .terms import find_lessons, find_terms

FOLDER = "training"
"""Where checkpoints and logs go, in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """A pass that trains the program; subclasses say who teaches."""

    @abstractmethod
    def teacher_program(self, student: Program, context: Context) -> Program | None:
        """The teacher in evaluation mode; None without one."""

    def teach(self, teacher: Teacher, folder: Path | None) -> Teach:
        """How the teacher's values come; a folder of this process alone, if something may be kept."""
        return teacher

    def prepared(self, program: Program) -> Program:
        """The program to train, with tensors of its own."""
        return copied(program)

    def make_loop(self, **parts: Any) -> Loop:
        """The training, of the parts that every training has."""
        return Loop(**parts)

    def requires(self, program: Program) -> None:
        """Accelerate is there, and something can be trained."""
        find_accelerate()
        if not any(p.requires_grad for p in program.parameters()):
            raise GraphError(f"{self.type} finds nothing to train", where=f"pass {self.title}")

    def run(self, program: Program, context: Context) -> Program:
        """Train a copy of the program."""
        for option in ("max_drop", "patience"):
            if getattr(self, option) is not None and context.evaluator is None:
                hint = "add metric: accuracy and data: {eval: ...}"
                raise RecipeError(f"{option} needs a metric", where=f"pass {self.title}", hint=hint)
        accelerator = make_accelerator(context.device)
        student = on(self.prepared(program), accelerator.device)
        flags = {name: value.requires_grad for name, value in student.tensors().items()}
        loop, unused = self._loop(student, context, accelerator)
        start = time.perf_counter()
        state = loop.run()
        student = loop.program
        for name, value in student.tensors().items():
            value.requires_grad_(flags.get(name, value.requires_grad))
            value.grad = None
        for hook in sorted(loop.hooks, key=lambda hook: hook.final):
            student = hook.finish(student)
        self._report(loop, state, time.perf_counter() - start, unused, context)
        result = on(student, next(iter(program.tensors().values())).device)
        self._guard(result, state, context)
        return result

    def ensures(self, before: Program, after: Program) -> None:
        """All that was finite still is: the last step, whose loss nobody took, may have been one too far."""
        super().ensures(before, after)
        finite = {name for name, value in before.tensors().items() if bool(value.isfinite().all())}
        for name, value in after.tensors().items():
            if name in finite and not bool(value.isfinite().all()):
                hint = "lower learning_rate, add warmup or max_grad_norm"
                raise GraphError(f"{name} is not finite after training", where=f"pass {self.title}", hint=hint)

    def _loop(self, student: Program, context: Context, accelerator: Any) -> tuple[Loop, list[str]]:
        """The training of a student whose tensors are its own, rehearsed; and what no loss depends on."""
        hooks = self.hooks()
        for hook in hooks:
            student = hook.prepare(student, context)
        training = set_training(student, True)
        teacher = self.teacher_program(student, context)
        terms = find_terms(self.terms(), training, teacher)
        terms += find_lessons([loss for hook in hooks for loss in hook.lessons()], training)
        stage = Stage(training, terms)
        path = self._path(context)
        teach: Teach = Nobody(terms)
        if teacher is not None:
            kept = path.with_suffix(f".teacher-{accelerator.process_index}") if path is not None else None
            teach = self.teach(Teacher(teacher, terms, accelerator.device), kept)
        ranks = accelerator.process_index, accelerator.num_processes, accelerator.device
        feed = Feed(student, partial(context.loader, self.data), context.seed, self.labels, *ranks)
        own = student.tensors()
        statistics = {n: (t, own[n]) for n, t in training.tensors().items() if t is not own[n]}
        frozen = frozenset[str]().union(*(hook.frozen(student) for hook in hooks))
        unused = rehearse(stage, teach, feed, statistics, own, frozen, self.title)
        if self.gradient_checkpointing:
            stage.student = recomputed(stage.student, training)
        if self.compile:
            stage.student = torch.compile(stage.student)  # type: ignore[assignment] # a module that stands for it
        loop = self.make_loop(
            settings=self,
            program=student,
            statistics=statistics,
            stage=stage,
            teach=teach,
            hooks=hooks,
            feed=feed,
            length=feed.length(),
            accelerator=accelerator,
            context=context,
            path=path,
            fingerprint=digest(self.note(), str(context.seed), str(student), tensors=own.values()),
        )
        return loop, unused

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
        says += loop.teach.told()
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
