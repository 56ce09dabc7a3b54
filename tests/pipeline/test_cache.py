"""Results of passes are taken again exactly where nothing that they depend on has changed."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from graphc.passes import Finetune, PruneFilters, Sparsify

import graphc
from graphc.emitters.staging import NoRoomError
from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.pipeline import fingerprint, pruning, store
from graphc.pipeline.fingerprint import Mark, mark
from graphc.pipeline.store import results
from tests import models

RAN: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Shift(graphc.Pass):
    """Adds random numbers to all parameters, and says that it ran."""

    type: ClassVar[str] = "shift"
    amount: float = 0.1
    reads: str | None = None
    measures: bool = False
    stops: bool = False

    def run(self, program: graphc.Program, context: graphc.Context) -> graphc.Program:
        RAN.append(self.title)
        if self.stops:
            raise GraphError("stopped")
        total = sum(float(b.sum()) for b in context.loader(self.reads)) if self.reads else 0.0
        if self.measures:
            assert context.evaluator is not None
            total += context.evaluator(program)
        new = {
            name: torch.nn.Parameter(value + self.amount * torch.randn_like(value) + total * 1e-3)
            for name, value in program.tensors().items()
            if isinstance(value, torch.nn.Parameter)
        }
        context.record(self.title, {"says": [f"total {total:.1f}"]})
        return rebuild(program, tensors=new)


def original() -> graphc.Program:
    torch.manual_seed(0)
    return models.residual()


def compiled(folder: Path, *passes: graphc.Pass, **options: Any) -> tuple[list[str], graphc.Compilation]:
    """What ran, and the result."""
    RAN.clear()
    made = graphc.compile(original(), passes=passes, output_dir=folder, **options)
    return list(RAN), made


def same(first: graphc.Program, second: graphc.Program) -> None:
    assert str(first) == str(second)
    assert first.history == second.history
    one, two = first.tensors(), second.tensors()
    assert list(one) == list(two)
    for name, value in one.items():
        assert torch.equal(value, two[name])
        assert type(value) is type(two[name])
        assert value.requires_grad == two[name].requires_grad
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=True):
        assert (a.name, a.meta.get("nn_module_stack"), a.meta.get("stack_trace")) == (
            b.name,
            b.meta.get("nn_module_stack"),
            b.meta.get("stack_trace"),
        )


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A folder in which a compile stopped at its third pass."""
    with pytest.raises(GraphError, match="stopped"):
        compiled(tmp_path, PruneFilters(pruning_ratio=0.5), Shift(), Shift(name="last", stops=True))
    return tmp_path


def test_resume_takes_what_was_done_and_the_end_is_that_of_an_undisturbed_run(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events: list[tuple[str, Any]] = []
    passes = PruneFilters(pruning_ratio=0.5), Shift(), Shift(name="last")
    ran, made = compiled(interrupted, *passes, resume=True, watch=lambda *event: events.append(event), emit=["m.pt2"])
    assert ran == ["last"]
    assert [about.title for event, about in events if event == "cached"] == ["prune-filters", "shift"]
    assert [("cached" in step["facts"]) for step in made.report["passes"]] == [True, True, False]
    assert made.report["passes"][1]["facts"]["says"] == ["total 0.0"]
    other = tmp_path_factory.mktemp("undisturbed")
    ran, undisturbed = compiled(other, *passes, emit=["m.pt2"])
    assert ran == ["shift", "last"]
    same(made.program, undisturbed.program)
    assert (interrupted / "m.pt2").read_bytes() == (other / "m.pt2").read_bytes()


def test_without_resume_a_compile_begins_anew(interrupted: Path) -> None:
    ran, _ = compiled(interrupted, PruneFilters(pruning_ratio=0.5), Shift())
    assert ran == ["shift"]
    assert len(results(interrupted / "cache")) == 2


@pytest.mark.parametrize(
    "change",
    [{"amount": 0.2}, {"name": "other"}, {"seed": 1}, {"data": {"new": [torch.ones(1)]}}],
    ids=lambda change: next(iter(change)),
)
def test_what_has_changed_runs_again(interrupted: Path, change: dict[str, Any]) -> None:
    options = {key: change.pop(key) for key in ("seed", "data") if key in change}
    ran, _ = compiled(interrupted, PruneFilters(pruning_ratio=0.5), Shift(**change), resume=True, **options)
    assert ran == [change.get("name", "shift")]


def test_another_model_makes_everything_anew(interrupted: Path) -> None:
    RAN.clear()
    before = original()
    new = {name: value + 1 for name, value in before.tensors().items() if not isinstance(value, torch.nn.Parameter)}
    graphc.compile(
        rebuild(before, tensors=new),
        passes=[PruneFilters(pruning_ratio=0.5), Shift()],
        output_dir=interrupted,
        resume=True,
    )
    assert RAN == ["shift"]


def test_a_damaged_result_is_made_anew_and_said(interrupted: Path) -> None:
    for path in results(interrupted / "cache"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    told: list[str] = []
    ran, _ = compiled(
        interrupted,
        PruneFilters(pruning_ratio=0.5),
        Shift(),
        resume=True,
        watch=lambda event, about: told.append(about[1]) if event == "not cached" else None,
    )
    assert ran == ["shift"]
    assert len(told) == 2
    assert "cannot be read" in told[0]


def batches(value: float) -> list[torch.Tensor]:
    return [torch.full((4,), value)]


def test_a_shared_cache_takes_results_where_the_data_that_was_read_is_the_same(tmp_path: Path) -> None:
    shared = tmp_path / "shared"

    def run(folder: str, **data: float) -> list[str]:
        loaders = {name: batches(value) for name, value in data.items()}
        return compiled(tmp_path / folder, Shift(reads="train"), cache_dir=shared, data=loaders)[0]

    assert run("a", train=1.0, other=1.0) == ["shift"]
    assert run("b", train=1.0, other=2.0) == []  # what it does not read does not matter
    assert run("c", train=2.0, other=1.0) == ["shift"]
    assert run("d", train=2.0, other=1.0) == []
    assert len(results(shared)) == 2


def test_data_that_cannot_be_known_is_not_trusted_but_in_the_same_run(tmp_path: Path) -> None:
    def run(**options: Any) -> list[str]:
        return compiled(
            tmp_path / "out",
            Shift(reads="train"),
            cache_dir=tmp_path / "shared",
            data={"train": lambda: iter(batches(1.0))},
            **options,
        )[0]

    told: list[str] = []
    assert run(watch=lambda event, about: told.append(about[1]) if event == "not cached" else None) == ["shift"]
    assert "cannot be known" in told[0]
    assert run() == ["shift"]
    assert run(resume=True) == []


def test_the_metric_counts_for_passes_that_take_it(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    inputs = models.image()

    def run(measures: bool, scale: float) -> list[str]:
        data = {"eval": [inputs * scale]}
        return compiled(tmp_path / "o", Shift(measures=measures), cache_dir=shared, data=data, metric="cosine")[0]

    assert run(False, 1.0) == ["shift"]
    assert run(False, 2.0) == []
    assert run(True, 1.0) == ["shift"]
    assert run(True, 2.0) == ["shift"]
    assert run(True, 1.0) == []


def test_large_data_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LARGEST", 100)
    read: list[int] = []

    class Large:
        def __len__(self) -> int:
            return 1000

        def __iter__(self) -> Iterator[torch.Tensor]:
            for i in range(1000):
                read.append(i)
                yield torch.zeros(4)

    assert fingerprint.content_of(Large()) is None
    assert read == [0]


def test_reading_data_does_not_disturb_what_is_drawn() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fingerprint.content_of(torch.rand(1) for _ in range(3))
    assert torch.equal(torch.rand(2), expected)


def test_a_long_text_is_no_path() -> None:
    assert mark("a sentence. " * 100) == mark("a sentence. " * 100)
    assert mark("a/" + "b" * 300) != mark("a/" + "c" * 300)


def test_marks_tell_options_apart(tmp_path: Path) -> None:
    file = tmp_path / "target.yaml"
    file.write_text("a")
    before = mark({"target": str(file)})
    file.write_text("b")
    assert before.known
    assert mark({"target": str(file)}) != before
    assert mark(PruneFilters(pruning_ratio=0.5)) != mark(PruneFilters(pruning_ratio=0.25))
    assert mark(torch.ones(2)) != mark(torch.zeros(2))
    assert mark(1) != mark(1.0) != mark(True)
    assert mark([[1], 2]) != mark([[1, 2]])
    assert not mark(object()).known
    assert not mark([object(), 1]).known
    assert mark([object(), 1]) != mark([object(), 2])  # what is not known does not hide the rest
    assert mark(batches) == Mark(mark(batches).text, True)
    assert not mark(lambda: 1).known


def test_code_of_a_target_and_of_what_it_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cached_a.py").write_text("def f():\n    from cached_b import g\n    return g()\n")
    (tmp_path / "cached_b.py").write_text("def g():\n    return 1\n")
    before = mark("cached_a:f")
    assert before.known
    assert mark("cached_a:f") == before
    (tmp_path / "cached_b.py").write_text("def g():\n    return 2\n")
    assert mark("cached_a:f") != before
    assert not mark("cached_nowhere:f").known


def test_a_full_disk_costs_the_cache_but_not_the_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "save_file", full)
    told: list[str] = []
    ran, _ = compiled(
        tmp_path, Shift(), watch=lambda event, about: told.append(about[1]) if event == "not cached" else None
    )
    assert ran == ["shift"]
    assert "no room left" in told[0]
    assert results(tmp_path / "cache") == []


def test_room_is_looked_for_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoRoomError, match="results"):
        store.room(tmp_path, 2**62, "results of passes")


def test_pruning(interrupted: Path) -> None:
    found = pruning.listing(interrupted)
    assert {entry.title for entry in found.entries} == {"prune-filters", "shift"}
    assert found.entries[0].recipe == "Program"
    old = next(entry for entry in found.entries if entry.title == "prune-filters").path
    os.utime(old, (0, 0))
    assert pruning.prune(interrupted, recipe="another").removed == ()
    assert pruning.prune(interrupted, max_bytes=10**12).removed == ()
    assert pruning.prune(interrupted, older_than=3600).removed == (old.name,)
    (interrupted / "cache" / old.name).write_bytes(b"nothing")
    assert pruning.listing(interrupted).damaged == (old,)
    assert pruning.prune(interrupted, max_bytes=10**12).removed == (old.name,)
    gone = pruning.prune(interrupted)
    assert len(gone.removed) == 1
    assert gone.freed > 0
    assert results(interrupted / "cache") == []


def test_entries_are_no_pickle_and_say_what_they_are(interrupted: Path) -> None:
    from safetensors import safe_open

    for path in results(interrupted / "cache"):
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["graphc"])
        assert content["title"] in ("prune-filters", "shift")
        assert content["program"]["nodes"]
    assert dataclasses.is_dataclass(store.Entry)


def test_training_comes_from_the_cache_too(tmp_path: Path) -> None:
    inputs = models.image(6)
    data = {"train": [(inputs, torch.zeros(6, dtype=torch.long))]}
    passes = Finetune(epochs=1), Sparsify(sparsity=0.5)
    _, first = compiled(tmp_path, *passes, data=data)
    _, second = compiled(tmp_path, *passes, data=data, resume=True)
    same(first.program, second.program)
    assert all("cached" in step["facts"] for step in second.report["passes"])
    told = [step["facts"]["training"] for made in (first, second) for step in made.report["passes"][:1]]
    assert told[0] == told[1]
