"""Finding an emitter, writing without traces, refusing what is not equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import graphc
from graphc.emitters import Artifact, Emitter, base, emit, load, register_emitter
from graphc.emitters.staging import check_writable
from graphc.errors import EmitError
from graphc.ir.edit import set_training
from tests.emitters.programs import program


@dataclass(frozen=True, kw_only=True)
class Pickled(Emitter):
    """A user's format: outputs of the example, and a factor that makes them wrong."""

    suffix: ClassVar[str] = ".mine"
    factor: float = 1.0
    interrupt: bool = False

    def write(self, program: graphc.Program, path: Path) -> None:
        path.write_text(str(self.factor))
        path.with_name(path.name + ".more").write_text("1234")
        if self.interrupt:
            raise KeyboardInterrupt

    def open(self, program: graphc.Program, path: Path) -> Any:
        factor = float(path.read_text())
        return lambda args, kwargs: program(*args, **kwargs) * factor


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_registered", dict(base._registered))
    register_emitter(".mine", Pickled)


@pytest.mark.usefixtures("mine")
def test_an_emitter_of_a_user(tmp_path: Path) -> None:
    artifact = emit(program("residual"), tmp_path / "deep" / "x.mine")
    assert artifact == Artifact(tmp_path / "deep" / "x.mine", 7, ".mine", 0.0, ({"batch": 4}, {"batch": 3}))
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["x.mine", "x.mine.more"]
    with pytest.raises(EmitError, match="write-only"):
        load(tmp_path / "deep" / "x.mine")


def test_an_emitter_of_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_registered", {})
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[graphc.emitters]\n.other = other_emitter:Other\n.gone = other_emitter:No\n"
    )
    (tmp_path / "site" / "other_emitter.py").write_text(
        "from graphc.emitters.pytorch import ExportedEmitter\nclass Other(ExportedEmitter):\n    suffix = '.other'\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert emit(program("residual"), tmp_path / "x.other").kind == ".other"
    with pytest.raises(EmitError, match="does not load"):
        emit(program("residual"), tmp_path / "x.gone")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("fault", [{"factor": 1.001}, {"factor": float("nan")}, {"interrupt": True}])
def test_a_failure_leaves_what_was_there(tmp_path: Path, fault: dict[str, Any]) -> None:
    emit(program("residual"), tmp_path / "x.mine")
    (tmp_path / "x.mine").write_text("old")
    with pytest.raises((EmitError, KeyboardInterrupt)) as caught:
        emit(program("residual"), tmp_path / "x.mine", **fault)
    if "factor" in fault:
        assert "output 'output' of x.mine at {'batch': 4}" in str(caught.value)
    assert (tmp_path / "x.mine").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mine", "x.mine.more"]


@pytest.mark.usefixtures("mine")
def test_a_tolerance_is_an_option(tmp_path: Path) -> None:
    assert emit(program("residual"), tmp_path / "x.mine", factor=1.001, tolerance=0.01).error == pytest.approx(
        0.001, 0.1
    )


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("x.onx", {}, "did you mean '.onnx'"),
        ("x.onnx", {"opset": 18}, "did you mean 'opset_version'"),
        ("x.onnx", {"opset_version": 3}, "give a number from"),
        ("file/x.onnx", {}, "cannot be written there"),
        ("full/", {}, "did not write"),
        ("x" * 300, {}, "cannot be written there"),
        ("x\0.pt2", {}, "cannot be written there"),
    ],
)
def test_refused_before_any_work(tmp_path: Path, path: str, options: dict[str, Any], text: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(EmitError, match=text):
        emit(program("residual"), f"{tmp_path}/{path}", **options)
    assert (tmp_path / "full" / "precious").exists()


def test_check_writable_makes_the_folder_and_nothing_else(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b.onnx")
    assert not list((tmp_path / "a").iterdir())


def test_wrong_emitters_are_refused() -> None:
    with pytest.raises(EmitError, match="no suffix"):
        register_emitter("onnx", Pickled)
    with pytest.raises(EmitError, match="no emitter"):
        register_emitter(".x", dict)  # type: ignore[arg-type] # the mistake under test


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2", "folder"])
def test_nothing_to_load(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmitError, match="nothing to load"):
        load(tmp_path / name)


def test_not_ours_to_load(tmp_path: Path) -> None:
    for name in ("x.onnx", "x.pt2"):
        (tmp_path / name).write_text("junk")
    with pytest.raises(EmitError, match="write-only"):
        load(tmp_path / "x.onnx")
    with pytest.raises(EmitError, match=r"no file of torch\.export"):
        load(tmp_path / "x.pt2")
    with pytest.raises(EmitError, match="no folder of graphc"):
        load(tmp_path)


def test_a_program_in_training_mode_is_written_in_evaluation_mode(tmp_path: Path) -> None:
    emit(set_training(program("residual"), True), tmp_path / "x.pt2")
    x = program("residual").contract.args[0]
    assert torch.equal(load(tmp_path / "x.pt2")(x), program("residual")(x))


def test_fixed_sizes_are_checked_once(tmp_path: Path) -> None:
    fixed = graphc.capture(torch.nn.Linear(3, 2).eval(), (torch.randn(4, 3),), dynamic={})
    assert emit(fixed, tmp_path / "x.pt2").sizes == ({},)
