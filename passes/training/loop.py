"""Loop: the steps of a training, with checkpoints, evaluations and hooks, in one process or several."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.pipeline.base import Context
from graphc.pipeline.batches import Batch

from ..during import Hook
from .checkpoint import Saved, State, load, optimizer_tensors, restore_optimizer, save
from .feed import Feed
from .log import Log, make_log
from .optimisation import make_optimizer, make_schedule
from .settings import Settings
from .stage import Stage
from .teacher import Teach
from .variants import each, factors_of, figures_of, variants_of


@dataclass
class Loop:
    """A training that is ready to run.

    Attributes:
        settings: the pass.
        program: the student in evaluation mode; its tensors are trained.
        statistics: running statistics in training mode, and where their values go in ``program``.
        stage: the student in training mode with its losses.
        teach: gives the teacher's values for a batch.
        hooks: what goes on beside.
        feed: batches.
        length: batches in an epoch.
        accelerator: of accelerate: devices and processes.
        context: of the compile.
        path: of the checkpoint; None keeps none.
        fingerprint: of this training.
    """

    settings: Settings
    program: Program
    statistics: Mapping[str, tuple[Tensor, Tensor]]
    stage: Stage
    teach: Teach
    hooks: Sequence[Hook]
    feed: Feed
    length: int
    accelerator: Any
    context: Context
    path: Path | None
    fingerprint: str

    def __post_init__(self) -> None:
        """Optimiser, schedule, state: as a checkpoint left them, if one is to be gone on from."""
        groups = math.ceil(self.length / self.settings.accumulate)
        self.steps = self.settings.steps or groups * (self.settings.epochs or 1)
        self.tensors = self.program.tensors()
        self.parameters = self.trained()
        self.actions = [hook.start(self.program) for hook in self.hooks]
        self.best: dict[str, Tensor] = {}
        self.state = State()
        s = self.settings
        optimizer = make_optimizer(
            s.optimizer, self.parameters.values(), s.learning_rate, s.weight_decay, s.optimizer_options
        )
        self._resume(optimizer)
        self.module, self.optimizer = self.accelerator.prepare(self.stage, optimizer)
        self.schedule = make_schedule(optimizer, s.schedule, s.warmup, self.steps, self.state.step)
        self.log: Log = make_log(s.log, self.path if self.first else None, self.state.step)

    def trained(self) -> dict[str, Parameter]:
        """What the optimiser has."""
        return {n: p for n, p in self.stage.named_parameters() if p.requires_grad}

    @property
    def first(self) -> bool:
        """Is this the process that writes?"""
        return bool(self.accelerator.is_main_process)

    def run(self) -> State:
        """Train; afterwards ``program`` has the weights to keep.

        Raises:
            GraphError: the loss or the metric is not finite, or a batch does not fit.
        """
        if self.state.done:
            return self.state
        if self.state.step == 0:
            self._evaluate(math.nan)
        self.started, self.start_step = time.perf_counter(), self.state.step
        while self.state.step < self.steps and not self._stopped():
            self._epoch()
        if self.best and self.settings.keep == "best":
            _copy(self.best, self.tensors)
        else:
            self._statistics()
        self.state.done = True
        self._save()
        return self.state

    def _epoch(self) -> None:
        """What is left of an epoch."""
        batches = self.feed.epoch(self.state.epoch, self.state.batch)
        loss = math.nan
        while group := list(islice(batches, self.settings.accumulate)):
            loss = self._step(group)
            self.state.batch += len(group)
            every = self.settings.evaluate_every
            if self.state.step == self.steps or (every and self.state.step % every == 0):
                self._evaluate(loss)
            if self.settings.checkpoint_every and self.state.step % self.settings.checkpoint_every == 0:
                self._save()
            if self.state.step == self.steps or self._stopped():
                return
        if not self.settings.evaluate_every and self.settings.steps is None:
            self._evaluate(loss)
        self.state.epoch, self.state.batch = self.state.epoch + 1, 0
        if not self.settings.checkpoint_every:
            self._save()

    def _step(self, group: Sequence[Batch]) -> float:
        """One step of the optimiser; the loss, over all processes."""
        for action in self.actions:
            with torch.no_grad():
                action.before(self.state.step, self.steps)
        values = torch.zeros(len(self.stage.terms), device=self.accelerator.device)
        factors = self._factors(group)
        variants = variants_of(self.actions, self.context.seed, self.state.step, self.steps)
        moving = [trained for trained, _ in self.statistics.values()]
        with drawing(self.context.seed, self.state.step, self.feed.rank, self.accelerator.device):
            for i, batch in enumerate(group):
                teachings = self.teach(batch)
                for j, variant in enumerate(each(variants, moving)):
                    last = i == len(group) - 1 and j == len(variants) - 1
                    own = factors_of(variant, self.stage.terms, factors[i], variants)
                    with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module), self._autocast():
                        found = self.module(batch, teachings, own)
                    self.accelerator.backward(found.sum())
                    values += found.detach()
        values = self.accelerator.reduce(values, "mean") if self.feed.world > 1 else values
        self._check(values)
        figures = {"learning_rate": float(self.schedule.get_last_lr()[0]), "loss": float(values.sum())}
        figures |= figures_of(self.stage.terms, values, variants)
        if self.settings.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.settings.max_grad_norm)
            figures["grad_norm"] = float(norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.state.step += 1
        for action in self.actions:
            with torch.no_grad():
                action.after(self.state.step, self.steps)
        self._tell(figures, sum(batch.size for batch in group))
        return figures["loss"]

    def _factors(self, group: Sequence[Batch]) -> list[list[float]]:
        """What the terms of each batch are multiplied by, so that the step has the mean over all of them."""
        terms = self.stage.terms
        own = torch.tensor([self.stage.counts(batch) for batch in group], dtype=torch.float64)
        total = own.sum(0)
        if self.feed.world > 1:
            total = self.accelerator.reduce(total.to(self.accelerator.device), "sum").to(own.device)
        weights = torch.tensor([term.loss.weight for term in terms], dtype=torch.float64)
        shares = torch.where(total > 0, own / total.clamp(min=1), 0.0)
        found: list[list[float]] = (shares * weights * self.feed.world).tolist()
        return found

    def _autocast(self) -> Any:
        return torch.autocast(
            self.accelerator.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        )

    def _check(self, values: Tensor) -> None:
        if bool(torch.isfinite(values).all()):
            return
        kept = f"; the last good checkpoint is {self.path}" if self.path is not None and self.path.exists() else ""
        told = ", ".join(f"{t.name} {float(v):.6g}" for t, v in zip(self.stage.terms, values, strict=True))
        raise GraphError(
            f"the loss is not finite at step {self.state.step + 1} of {self.steps}",
            where=f"pass {self.settings.title}",
            why=told,
            hint=f"lower learning_rate, add warmup or max_grad_norm{kept}",
        )

    def _tell(self, figures: dict[str, float], samples: int) -> None:
        """Log and progress."""
        self.log.add(self.state.step, figures)
        seconds = (time.perf_counter() - self.started) / (self.state.step - self.start_step)
        left = int(seconds * (self.steps - self.state.step))
        last = self.state.evaluations[-1].get("metric") if self.state.evaluations else None
        metric = (
            f", {self.context.evaluator.metric.name} {last:.4f}" if last is not None and self.context.evaluator else ""
        )
        text = f"loss {figures['loss']:.4f}{metric}, {samples * self.feed.world / seconds:.1f} samples/s"
        self.context.progress(
            self.state.step, self.steps, f"{self.settings.title}: {text}, {left // 60}:{left % 60:02d} left"
        )

    def _evaluate(self, loss: float) -> None:
        """Take the metric; remember the weights if it is the best and nothing is still to come."""
        row = {"step": float(self.state.step), **({} if math.isnan(loss) else {"loss": loss})}
        evaluator = self.context.evaluator
        if evaluator is not None:
            self._statistics()
            value = [evaluator.fresh(self.program) if self.first else math.nan]
            if self.feed.world > 1:
                torch.distributed.broadcast_object_list(value)
            row["metric"] = value[0]
            settled = all(h.settled(self.state.step, self.steps) for h in self.hooks) or self.state.step == self.steps
            if settled:
                self._better(evaluator.metric.drop, value[0])
            self.log.add(self.state.step, {"metric": value[0]})
        self.state.evaluations.append(row)

    def _better(self, drop: Callable[[float, float], float], value: float) -> None:
        if self.state.best is None or drop(self.state.best, value) < 0:
            self.state.best, self.state.best_step, self.state.waited = value, self.state.step, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        else:
            self.state.waited += 1

    def _stopped(self) -> bool:
        return self.settings.patience is not None and self.state.waited >= self.settings.patience

    def _statistics(self) -> None:
        """Bring the running statistics to where evaluation reads them."""
        with torch.no_grad():
            for trained, read in self.statistics.values():
                read.copy_(trained)

    def _save(self) -> None:
        if self.path is None or not self.first:
            return
        self.log.flush()
        groups: dict[str, Mapping[str, Tensor]] = {"program": self.tensors}
        numbers: Any = None
        if not self.state.done:
            more, numbers = self.to_go_on()
            groups |= more
        save(self.path, self.fingerprint, self.state, groups, numbers)

    def to_go_on(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """What a checkpoint needs besides the program: tensors in groups, and plain numbers."""
        tensors, numbers = optimizer_tensors(self.optimizer)
        statistics = {name: trained for name, (trained, _) in self.statistics.items()}
        own = {name: p for name, p in self.parameters.items() if name.startswith("projections.")}
        return {"optimizer": tensors, "statistics": statistics, "projections": own, "best": self.best}, numbers

    def _resume(self, optimizer: torch.optim.Optimizer) -> None:
        if self.path is None:
            return
        if not self.context.resume:
            if self.first:
                self.path.unlink(missing_ok=True)
            return
        saved = load(self.path, self.fingerprint)
        if saved is None:
            return
        self.state = saved.state
        _copy(saved.groups["program"], self.tensors)
        if not self.state.done:
            self.go_on(saved, optimizer)

    def go_on(self, saved: Saved, optimizer: torch.optim.Optimizer) -> None:
        """Take what ``to_go_on`` gave."""
        _copy(saved.groups.get("statistics", {}), {n: trained for n, (trained, _) in self.statistics.items()})
        _copy(saved.groups.get("projections", {}), self.parameters)
        self.best = dict(saved.groups.get("best", {}))
        restore_optimizer(optimizer, saved.groups.get("optimizer", {}), saved.more)


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)


@contextlib.contextmanager
def drawing(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Random numbers of a step (dropout) follow from seed, step and process; those of the loader go on undisturbed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) * 1009 + rank)
        yield
