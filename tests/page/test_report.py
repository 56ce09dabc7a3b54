"""The page of a report: everything that is in the report can be read there, and nothing in it is more than text."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from graphc.passes import PruneFilters, PruneHeads

import graphc
from graphc.measure import Step, report
from graphc.page.report import report_page
from graphc.pipeline.recipe import Bench
from graphc.pipeline.store import Entry
from tests import models
from tests.page.reading import read, rows, table

EVIL = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)> \" ' & \x00 {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, graphc.Compilation]:
    folder = tmp_path_factory.mktemp("report")
    passes = [PruneFilters(pruning_ratio=0.5), PruneFilters(pruning_ratio=0.25, name="again")]
    done = graphc.compile(
        models.residual(), passes=passes, emit=["net.onnx"], output_dir=folder, bench=Bench(warmup=1, repeat=5)
    )
    return folder, done


def test_a_compile_writes_a_page_of_its_report(compiled: tuple[Path, graphc.Compilation]) -> None:
    folder, done = compiled
    page = read((folder / "report.html").read_text(encoding="utf-8"))
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["name"] == page.all("h1")[0].text
    links = [a.attributes["href"] for a in page.all("nav")[0].all("a")]
    assert links == [f"#{s.attributes['id']}" for s in page.all("section")]
    cards = {card.all("dt")[0].text: card.all("strong")[0].text for card in page.all("div", **{"class": "card"})}
    assert cards["Parameters"] == str(done.report["after"]["params"])
    assert cards["Median latency of net.onnx"].endswith(" ms")
    titles = [article.all("h3")[0].text.split(" ")[:2] for article in page.section("passes").all("article")]
    assert titles == [["1", "prune-filters"], ["2", "again"]]


def test_each_pass_tells_what_it_changed(compiled: tuple[Path, graphc.Compilation]) -> None:
    folder, done = compiled
    page = read((folder / "report.html").read_text(encoding="utf-8"))
    first, second = page.section("passes").all("article")
    assert ["conv1", "weight 24x12x3x3 ⇒ 12x6x3x3bias 24 ⇒ 12"] in rows(table(first, "Layers before and after"))
    assert ["conv1.out", "24", "12"] in rows(table(first, "Axes that became smaller"))
    assert ["conv1.out", "12", "9"] in rows(table(second, "Axes that became smaller"))
    (params,) = (r for r in rows(table(second, "Cost before and after again")) if r[0] == "Parameters")
    before, after = (step["params"] for step in done.report["passes"])
    assert params[3] == f"\N{MINUS SIGN}{100 * (before - after) / before:.1f} %"
    drawn = [figure.all("figcaption")[0].text for figure in first.all("figure")]
    assert "Coupling of conv1.out" in drawn


def test_latency_fidelity_limits_and_environment(compiled: tuple[Path, graphc.Compilation]) -> None:
    folder, done = compiled
    page = read((folder / "report.html").read_text(encoding="utf-8"))
    (onnx,) = done.report["artifacts"]
    latency = onnx["latency"]
    assert len(latency["before_samples_ms"]) == len(latency["after_samples_ms"]) == 5
    assert f"{latency['ratio']:.2f} ({latency['low']:.2f} to {latency['high']:.2f})" in page.section("artifacts").text
    spread = page.section("latency").all("figure")
    assert [f.all("figcaption")[0].text for f in spread] == [
        "Latency of the program in eager, run by run",
        "Latency of net.onnx in onnxruntime, run by run",
    ]
    assert len(spread[1].all("circle")) == 2 * 10  # two widths of ten runs
    (moved,) = rows(table(page.section("quality"), "How far outputs moved on the example inputs"))
    assert moved[1] == f"{done.report['fidelity'][0]['relative_error']:.4g}"
    limits = rows(table(page.section("limits"), "Axes of the captured model that cannot be cut"))
    assert ["dim 1 of output output", "head.out"] in limits
    assert done.report["environment"]["cpu"] in page.section("environment").text
    assert "called from Python" in page.section("recipe").text


def test_work_is_that_of_the_program(compiled: tuple[Path, graphc.Compilation]) -> None:
    _, done = compiled
    for side in ("before", "after"):
        assert sum(row[side] for row in done.report["work"]) == done.report[side]["macs"]
    assert {row["module"] for row in done.report["work"]} >= {"stem", "conv1", "head"}


def _spoiled(value: Any) -> Any:
    """Every text and every name of a fact with something evil in it."""
    if isinstance(value, dict):
        return {key: _spoiled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_spoiled(part) for part in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


def test_what_a_report_holds_is_text_and_nothing_more(compiled: tuple[Path, graphc.Compilation]) -> None:
    content = _spoiled(json.loads(json.dumps(compiled[1].report)))
    content["passes"][0]["facts"]["says"] = [EVIL]
    content["recipe"] = {EVIL: EVIL}
    content["hindrances"]["pins"] = {EVIL: [EVIL]}
    content["artifacts"][0]["latency"]["warnings"] = [EVIL]
    content["metric"] = {"name": EVIL, "retained": 0.5}
    content["before"]["metric"], content["after"]["metric"] = 1.0, 0.5
    page = read(report_page(content))
    assert EVIL.replace("\x00", "\ufffd").split("</style>")[1][:30] in page.all("h1")[0].text
    assert "49" not in page.section("summary").all("div", **{"class": "note"})[0].text


def test_a_report_of_little() -> None:
    program = models.residual()
    page = read(report_page(report(program, program)))
    assert "No pass ran" in page.text
    assert not page.all("section", id="latency")
    content = report(program, program, steps=[Step("cast", 0.0, program, program, {})])
    content["fidelity"] = [{"name": "x", "relative_error": None, "max_abs": None, "cosine": 0.0}]
    page = read(report_page(content))
    assert rows(table(page.section("quality"), "How far outputs moved on the example inputs"))[0][1] == "not finite"
    assert "No layer changed" in page.section("passes").text
    content["fidelity"] = []
    assert "Outputs were not compared" in read(report_page(content)).text


def test_training_metric_cache_and_facts_are_told(tmp_path: Path) -> None:
    (tmp_path / "entry.result").touch()
    entry = Entry(tmp_path / "entry.result", 1, 0.0, "tune", "a model", 12.5, {}, {}, "tune(...)")
    program = models.residual()
    told = [{"step": 1, "loss": 0.5, "metric": 0.25}, {"step": 2, "loss": 0.25, "metric": 0.75}]
    facts = {
        "type": "finetune",
        "options": {"epochs": 2, "losses": [{"type": "cross-entropy"}]},
        "training": {"steps": 2, "evaluations": told},
        "metric": 0.75,
        "cached": entry.to_dict(),
        "chosen": {"a": [1, 2]},
        "latency_target": {"before_ms": 2.0, "asked_ms": 1.0},
    }
    content = report(
        program, program, steps=[Step("tune", 0.1, program, program, facts)], metric=("accuracy", 0.8, 0.75)
    )
    page = read(report_page(content))
    (tune,) = page.section("passes").all("article")
    assert "from the cache (it took 12.5 s)" in tune.text
    assert rows(table(tune, "Evaluations while it trained")) == [["1", "0.5", "0.25"], ["2", "0.25", "0.75"]]
    assert "asked_ms: 1.0" in tune.text
    assert "chosen:" in tune.text
    assert "losses: [{type: cross-entropy}]" in tune.text
    (chart,) = (f for f in page.section("quality").all("figure"))
    assert "as captured: 0.8000; tune: 0.7500" in chart.all("desc")[0].text


def test_what_grows_is_told_as_that() -> None:
    small, large = models.residual(), models.residual()
    small = graphc.slice(small, {"conv1.out": range(8)})
    page = read(report_page(report(small, large, steps=[Step("grow", 0.1, small, large, {})])))
    (row,) = (r for r in rows(table(page, "Cost before and after grow")) if r[0] == "Parameters")
    assert row[3].startswith("+")


def test_alike_axes_and_layers_are_one_row(tmp_path: Path) -> None:
    model, inputs = models.tiny_bert("sdpa")
    done = graphc.compile(model, (), inputs, passes=[PruneHeads(pruning_ratio=0.5)], output_dir=tmp_path, bench=None)
    page = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    cuts = rows(table(page, "Axes that became smaller"))
    assert len(done.report["passes"][0]["cuts"]) > len(cuts) == 1
    assert cuts[0][0].startswith("bert.encoder.layer.{0..1}.attention.self.heads")
    (figure,) = (f for f in page.section("passes").all("figure"))
    assert figure.all("figcaption")[0].text == "Coupling of bert.encoder.layer.0.attention.self.heads"
    names = [text.text for text in figure.all("text")]
    assert {"self.query", "self.key", "self.value", "output.dense"} <= set(names)


def test_a_page_needs_no_program(compiled: tuple[Path, graphc.Compilation]) -> None:
    content = copy.deepcopy(compiled[1].report)
    assert not read(report_page(content)).section("passes").all("figure")


def test_a_large_coupling_is_not_drawn() -> None:
    program = models.transformer()
    wide = next(a for a in graphc.find_axes(program) if a.pinned is None and len(a.members) > 12)
    after = graphc.slice(program, {wide.name: range(wide.size - 1)})
    content = report(program, after, steps=[Step("cut", 0.1, program, after, {})])
    page = read(report_page(content, [Step("cut", 0.1, program, after, {})]))
    assert wide.name in page.section("passes").text
    assert not page.section("passes").all("figure")
