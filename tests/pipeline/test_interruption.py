"""Compiles that are killed, that meet each other, or that fill the disk leave nothing broken and say what is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, Sparsify
from graphc.passes.training import checkpoint

import graphc
from graphc.emitters import staging
from graphc.emitters.staging import NoRoomError, recover, staged
from graphc.errors import GraphError
from graphc.pipeline import lock
from graphc.pipeline.lock import locked
from tests import models

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
PASSES = PruneFilters(pruning_ratio=0.5), Sparsify(sparsity=0.5)


def forked(work: Callable[[], None], code: int) -> int:
    """The pid of a process that does this, and ends with a code if it is not killed before."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a fork of a process with threads may hang: then it fails
        torch.set_num_threads(1)  # those of torch are not there in it
        try:
            work()
        finally:
            os._exit(code)
    return child


def in_a_process(work: Callable[[], None]) -> int:
    """What a forked process ends with: a signal, negative, or an exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(work, 1), 0)[1])


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["pass 1", "pass 2", "emit", "emitted", "between two files"])
def test_killed_at_any_moment_and_resumed(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = models.residual()
    first, killed = tmp_path / "undisturbed", tmp_path / "killed"
    names = ["m.pt2", "m"]
    graphc.compile(program, passes=PASSES, emit=names, output_dir=first)
    killed.mkdir()
    (killed / "m.pt2").write_bytes(b"old")
    wanted, _, number = moment.partition(" ")
    seen: list[str] = []

    def watch(event: str, about: Any) -> None:
        seen.append(event)
        if event == wanted and seen.count(event) == int(number or 1):
            die()

    def work() -> None:
        if moment == "between two files":
            replace = os.replace
            moved: list[Any] = []

            def half(a: Any, b: Any) -> None:
                if str(a).endswith("m.pt2"):
                    die()
                moved.append(a)
                replace(a, b)

            monkeypatch.setattr(os, "replace", half)
        graphc.compile(program, passes=PASSES, emit=names, output_dir=killed, watch=watch)

    assert in_a_process(work) == -signal.SIGKILL
    assert (killed / "m.pt2").read_bytes() in (b"old", (first / "m.pt2").read_bytes())
    events: list[str] = []
    made = graphc.compile(
        program, passes=PASSES, emit=names, output_dir=killed, resume=True, watch=lambda e, _: events.append(e)
    )
    assert events.count("cached") == (0 if moment == "pass 1" else 1 if moment == "pass 2" else 2)
    for file in ("m.pt2", "m/model.py", "m/model.safetensors", "m/program.json"):
        assert (killed / file).read_bytes() == (first / file).read_bytes(), file
    assert made.report["artifacts"][0]["name"] == "m.pt2"
    assert not [p.name for p in killed.iterdir() if p.name.startswith(".graphc-")]


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_several_files_that_were_half_moved_are_moved_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    main, beside = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    main.write_text("old")
    beside.write_text("old data")

    def work() -> None:
        steps = [0]

        def counted(move: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any) -> Any:
                steps[0] += 1
                return die() if steps[0] > last else move(*arguments)

            return step

        with staged(main) as inside:
            inside.write_text("new")
            inside.with_name("m.onnx.data").write_text("new data")
            monkeypatch.setattr(os, "replace", counted(os.replace))
            monkeypatch.setattr(Path, "rename", counted(Path.rename))

    code = in_a_process(work)
    assert code == (-signal.SIGKILL if last < 3 else 1)
    seen = main.read_text() if main.exists() else "", beside.read_text()
    assert seen in [("old", "old data"), ("", "old data"), ("", "new data"), ("new", "new data")]  # never a mixture
    recover(tmp_path)
    assert (main.read_text(), beside.read_text()) == ("new", "new data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


def test_a_folder_that_was_put_aside_comes_back_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m"
    target.mkdir()
    (target / staging.MARK).write_text("old")

    def work() -> None:
        with staged(target) as inside:
            inside.mkdir()
            (inside / staging.MARK).write_text("new")
            monkeypatch.setattr(os, "replace", die)

    assert in_a_process(work) == -signal.SIGKILL
    assert not target.exists()
    recover(tmp_path)
    assert (target / staging.MARK).read_text() == "new"


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    for name in (f".graphc-{os.getppid()}-abc", ".graphc-x", ".graphc-1-"):
        (tmp_path / name).mkdir()
    with staged(tmp_path / "file") as inside:
        recover(tmp_path)
        assert inside.parent.exists()
        inside.write_text("x")
    assert len(list(tmp_path.glob(".graphc-*"))) == 3


def test_two_compiles_in_one_folder(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()

    def hold() -> None:
        with locked(tmp_path):
            os.write(ready[1], b"x")
            os.read(done[0], 1)

    child = forked(hold, 0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(GraphError, match="another compile") as caught:
            graphc.compile(models.residual(), output_dir=tmp_path)
        assert f"process {child}" in caught.value.why
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with locked(tmp_path) as cut_off:
        assert cut_off
        with pytest.raises(GraphError, match="another compile") as caught:
            lock.check_free(tmp_path)
        assert "this process" in caught.value.why
    with locked(tmp_path) as cut_off:
        assert not cut_off


def test_a_compile_that_was_cut_off_is_spoken_of(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).write_text(json.dumps({"pid": 1, "host": "gone", "since": 0}))
    events: list[str] = []
    graphc.compile(models.residual(), output_dir=tmp_path, watch=lambda event, _: events.append(event))
    assert events[0] == "cut off"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_old_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = models.residual()
    graphc.emit(program, tmp_path / "m.pt2")
    before = (tmp_path / "m.pt2").read_bytes()
    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(NoRoomError, match="no room left") as caught:
        graphc.emit(program, tmp_path / "m.pt2")
    assert "what was there before" in caught.value.hint
    assert (tmp_path / "m.pt2").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]


def test_a_full_disk_is_recognised_by_what_libraries_say_of_it(tmp_path: Path) -> None:
    for error in (RuntimeError("PytorchStreamWriter failed writing file data/0"), ValueError("x (os error 28)")):
        with pytest.raises(NoRoomError), staging.writing(tmp_path / "x"):
            raise error
    with pytest.raises(ValueError, match="other"), staging.writing(tmp_path / "x"):
        raise ValueError("other")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training" / "t.safetensors"
    checkpoint.save(path, "f", checkpoint.State(step=1), {"program": {"w": torch.ones(2)}})
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(NoRoomError):
        checkpoint.save(path, "f", checkpoint.State(step=2), {"program": {"w": torch.ones(2)}})
    monkeypatch.undo()
    found = checkpoint.load(path, "f")
    assert found is not None
    assert found.state.step == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]
