"""The command ``bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graphc as package
from tests import models
from tests.commands import command

QUICK = ("--repeat", "3", "--warmup", "1", "--no-memory")


@pytest.fixture
def graphc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return command(monkeypatch, capsys, "bench")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(package.emit(models.residual(), tmp_path_factory.mktemp("cli") / "small.pt2").path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_without_a_cuda_device_there_is_one_clear_line_and_exit_code_2(graphc: Any, file: str) -> None:
    code, out, err = graphc(file, "--device", "cuda")
    assert code == 2
    assert out == ""
    assert err.splitlines() == ["error: cannot benchmark on 'cuda': torch finds no CUDA device; ask for 'cpu'"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(graphc: Any, file: str) -> None:
    code, out, _ = graphc(file, "--device", "cuda,cpu", *QUICK, "--profile", "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert [row["device"] for row in found["results"]] == ["cuda", "cpu"]
    assert all(row["p50_ms"] > 0 for row in found["results"])
    assert any(op["ms"] > 0 for op in found["profiles"][0]["ops"])


def test_tables_and_files(graphc: Any, file: str, tmp_path: Path) -> None:
    files = {option: tmp_path / f"out{suffix}" for option, suffix in (("--json", ".json"), ("--csv", ".csv"))}
    words = [str(word) for pair in files.items() for word in pair]
    code, out, _ = graphc(file, file, "--batch", "1,2", *QUICK, *words, "--markdown", str(tmp_path / "out.md"))
    assert code == 0
    assert "batch 2, 1 thread, cpu" in out
    assert "eager" in out
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(row["batch"], len(row["samples_ms"])) for row in found["results"]] == [(1, 3), (1, 3), (2, 3), (2, 3)]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5
    assert "| artifact | backend |" in (tmp_path / "out.md").read_text()


def test_json_on_standard_output_is_alone_there(graphc: Any, file: str) -> None:
    code, out, err = graphc(file, *QUICK, "--json", "-")
    assert code == 0
    assert json.loads(out)["results"][0]["artifact"] == "small.pt2"
    assert "small.pt2" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dims", "batch"), "'batch' are no whole numbers"),
        (("--batch", "1;2"), "write --batch 1,8"),
        (("--threads", "two"), "write --threads 1,2"),
        (("--dims", "tokens=3"), "has no dynamic dim 'tokens'"),
        (("--json", "small.pt2"), "--json writes a .json file"),
        (("--backend", "torch"), "there is no backend 'torch'"),
    ],
)
def test_what_is_wrong_is_said_and_exits_with_2(graphc: Any, file: str, words: tuple[str, ...], said: str) -> None:
    code, _, err = graphc(file, *QUICK, *words)
    assert code == 2
    assert said in " ".join(err.split())
