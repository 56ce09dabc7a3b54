"""Half of a classifier's channels removed, by graphc or by Torch-Pruning: what it took and what came of it.

Both score units by the sum of absolute weights, rank them within their layer, and keep the better
half of all that is neither an input nor a class; neither is told anything else about the model.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from graphc.passes.importance import score
from graphc.passes.ranking import rank
from torch._subclasses.fake_tensor import FakeTensorMode

import graphc
from benchmarks.soundness import macs_of
from graphc.coupling import analyze
from graphc.measure.memory import peak_bytes

RATIO = 0.5
CLASSES = 1000
OTHER = 2
"""Images in the run that shows that the result works; the tools see 1 (Torch-Pruning) and 3 (graphc)."""

Timed = Callable[[str], AbstractContextManager[None]]
"""Measures the stage that it is given the name of."""

Tool = Callable[[torch.nn.Module, torch.Tensor, Timed], Callable[..., Any]]
"""Prunes a module; takes it and an image, gives what runs instead."""


@dataclass
class Pruned:
    """What is known of one model and one tool so far.

    Attributes:
        model, tool: their names.
        stage: the last stage that was begun; "done" at the end.
        failed: the error of the stage, one line; empty if there was none.
        seconds: processor time by stage, so that other work on the machine does not count.
        grown: the process's peak resident memory less what it used before the first stage, in bytes.
        params: before and after.
        macs: of one image, before and after.
    """

    model: str
    tool: str
    stage: str = "model"
    failed: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    grown: int = 0
    params: tuple[int, ...] = ()
    macs: tuple[int, ...] = ()

    @property
    def done(self) -> bool:
        """Was something pruned, and does the result run?"""
        return self.stage == "done"


def graphc_half(module: torch.nn.Module, image: torch.Tensor, timed: Timed) -> Callable[..., Any]:
    """Capture, analyse, score and rank, slice."""
    with timed("capture"):
        program = graphc.capture(module, (image.expand(3, -1, -1, -1).contiguous(),))
    with timed("analyse"):
        analysis = analyze(program)
    with timed("choose"):
        free = [axis for axis in analysis.axes if axis.pinned is None and axis.roles.isdisjoint({"heads", "repeat"})]
        ranking = rank(score(analysis, free, "l1"), {axis: axis.name for axis in free})
        kept = ranking.keep(ranking.by_ratio(dict.fromkeys(free, RATIO)))
    with timed("slice"):
        return graphc.slice(program, kept)


def torch_pruning_half(module: torch.nn.Module, image: torch.Tensor, timed: Timed) -> Callable[..., Any]:
    """Build the dependency graph, prune, as the README of Torch-Pruning does."""
    import torch_pruning

    with timed("build"):
        pruner = torch_pruning.pruner.MagnitudePruner(
            module,
            image,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=RATIO,
            ignored_layers=[m for m in module.modules() if _width(m) == CLASSES],
        )
    with timed("prune"):
        pruner.step()
    return module


def _width(module: torch.nn.Module) -> int:
    """Channels that a layer makes; 0 for what is not a layer."""
    if isinstance(module, torch.nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, torch.nn.Conv2d) else 0


TOOLS: dict[str, Tool] = {"torch-pruning": torch_pruning_half, "graphc": graphc_half}


def prune(name: str, tool: str, pixels: int, report: Callable[[Pruned], None]) -> Pruned:
    """Prune one model with one tool; an error ends it and is kept.

    Args:
        name: a classifier of torchvision; its weights are random.
        tool: one of ``TOOLS``.
        pixels: width and height of the images.
        report: called with what is known whenever a stage begins, and at the end.
    """
    found = Pruned(name, tool)

    @contextlib.contextmanager
    def timed(stage: str) -> Iterator[None]:
        found.stage = stage
        report(found)
        start = time.process_time()
        yield
        found.seconds[stage] = time.process_time() - start

    try:
        _warm_up(TOOLS[tool])
        module = classifier(name)
        before = entries(module)
        gc.collect()
        gc.freeze()  # a collection during the run would walk through all that was imported, at no fault of the tool
        resident = resident_bytes()
        pruned = TOOLS[tool](module, torch.randn(1, 3, pixels, pixels), timed)
        found.grown = peak_bytes() - resident
        found.stage = "check"
        report(found)
        after = entries(pruned)
        if after >= before:
            raise ValueError("nothing was pruned")
        found.params, found.macs = (before, after), (_macs(name, pixels), _run(pruned, pixels))
        found.stage = "done"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is to be found
        found.failed = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    report(found)
    return found


def classifier(name: str) -> torch.nn.Module:
    """An untrained classifier of torchvision, in evaluation mode."""
    from torchvision import models

    torch.manual_seed(0)
    fast = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: torch.nn.Module = models.get_model(name, weights=None, **fast)
    return module.eval()


def entries(model: Any) -> int:
    """Entries of all parameters."""
    return sum(p.numel() for p in model.parameters())


def resident_bytes() -> int:
    """Memory that this process has in use now, in bytes (resident set size, as Linux tells it)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


def _warm_up(tool: Tool) -> None:
    """Let a tool import what it needs and build its tables, on a small net."""
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)]
    tool(torch.nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8), lambda _: contextlib.nullcontext())


def _run(pruned: Callable[..., Any], pixels: int) -> int:
    """Run a pruned model at another batch size: MACs of one image."""
    return macs_of(pruned, torch.randn(OTHER, 3, pixels, pixels)) // OTHER


def _macs(name: str, pixels: int) -> int:
    """MACs of one image before anything is pruned; nothing is computed for it."""
    module = classifier(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return macs_of(module, torch.randn(1, 3, pixels, pixels))
