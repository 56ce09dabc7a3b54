"""A training that was killed goes on to the same result, bit by bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from graphc.passes import Distill, Finetune, Hook
from graphc.passes.during import Actions
from pydantic import Field

import graphc
from tests.passes.training.tasks import classifier, eval_batches, train_batches

pytest.importorskip("accelerate", reason="training needs the extra `train`")


@dataclass(frozen=True, kw_only=True)
class Kill(Hook):
    """The process ends in the middle of an epoch, as by ``kill -9``, unless it is told not to."""

    type: ClassVar[str] = "kill"
    step: Annotated[int, Field(description="After which step.")]

    def start(self, program: graphc.Program) -> Actions:
        def after(step: int, steps: int) -> None:
            if step == self.step and "SPARE" not in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)

        return Actions(after=after)


def compiled(folder: Path | None, resume: bool = False) -> graphc.Compilation:
    """Distillation with a projection, then fine-tuning with gradual sparsity; 8 steps an epoch."""
    kill = {"type": "tests.passes.training.test_resume:Kill", "step": 13}
    passes: list[Any] = [
        Distill(epochs=2, learning_rate=0.01, losses=[{"type": "kl"}, {"type": "hint", "student": "first"}]),
        Finetune(
            epochs=3,
            learning_rate=0.01,
            checkpoint_every=5,
            during=[{"type": "gradual-sparsity", "sparsity": 0.5, "frequency": 2, "end": 0.5}, kill],
        ),
    ]
    return graphc.compile(
        classifier(dropout=0.3),
        passes=passes,
        data={"train": train_batches, "eval": eval_batches},
        metric="accuracy",
        output_dir=folder,
        resume=resume,
    )


def test_killed_and_resumed_is_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pathlib, sys; from tests.passes.training import test_resume as t; t.compiled(pathlib.Path(sys.argv[1]))"
    )
    start = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run(start, cwd=Path(__file__).parents[3], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not (tmp_path / "report.json").exists()
    monkeypatch.setenv("SPARE", "1")
    whole = compiled(None)
    resumed = compiled(tmp_path, resume=True)
    for name, value in whole.program.tensors().items():
        assert torch.equal(value, resumed.program.tensors()[name]), name
    told = [c.report["passes"][1]["facts"]["training"]["evaluations"] for c in (whole, resumed)]
    assert told[0] == told[1]
    rows = (tmp_path / "training" / "finetune.csv").read_text(encoding="utf-8").splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(25))


def test_a_finished_training_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARE", "1")
    first = compiled(tmp_path)
    seen: list[str] = []
    again = graphc.compile(
        classifier(dropout=0.3),
        passes=[Distill(epochs=2, learning_rate=0.01, losses=[{"type": "kl"}, {"type": "hint", "student": "first"}])],
        data={"train": train_batches, "eval": eval_batches},
        metric="accuracy",
        output_dir=tmp_path,
        resume=True,
        watch=lambda event, about: seen.append(event),
    )
    assert "progress" not in seen
    assert again.report["passes"][0]["facts"]["training"]["steps"] == 16
    assert first.report["passes"][0]["facts"]["metric"] == again.report["passes"][0]["facts"]["metric"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    def tune(rate: float, resume: bool) -> None:
        passes = [Finetune(epochs=1, learning_rate=rate)]
        graphc.compile(classifier(), passes=passes, data={"train": train_batches}, output_dir=tmp_path, resume=resume)

    tune(0.01, False)
    with pytest.raises(graphc.GraphError, match="the checkpoint is of another training"):
        tune(0.02, True)
    tune(0.02, False)
    shutil.rmtree(tmp_path / "cache")  # with the result itself there is no need of the checkpoint
    (tmp_path / "training" / "finetune.safetensors").write_bytes(b"broken")
    with pytest.raises(graphc.GraphError, match="cannot be read"):
        tune(0.02, True)


def test_resume_needs_a_folder() -> None:
    with pytest.raises(graphc.GraphError, match="nothing to resume from"):
        graphc.compile(classifier(), passes=[Finetune(epochs=1)], data={"train": train_batches}, resume=True)
