from __future__ import annotations

from typing import Any

from graphc.measure.environment import environment
from graphc.page.search import search_page
from graphc.pipeline.search_result import Candidate, Found
from tests.page.reading import Page, read, rows, table


def found(**change: Any) -> Found:
    def candidate(number: int, metric: float, macs: float, **more: Any) -> Candidate:
        figures = {"metric": metric, "macs": macs, "params": macs / 10, "bytes": macs}
        return Candidate(number, {"prune.pruning_ratio": number / 10}, figures, {"macs": macs / 500 - 1}, **more)

    candidates = (
        candidate(0, 0.9, 400, pareto=True, recipe="pareto/0.yaml"),
        candidate(1, 0.7, 200, pareto=True, recipe="pareto/1.yaml"),
        candidate(2, 0.6, 300),
        Candidate(3, {"prune.pruning_ratio": 0.3}, {"macs": 800}, {"macs": 0.6}),
        Candidate(4, {"prune.pruning_ratio": 0.4}, {}, {}, refused="<b>no axis</b> of 'x'"),
    )
    base = {"metric": 0.95, "macs": 1000, "params": 100, "bytes": 1000}
    values: dict[str, Any] = {"metric": "accuracy", "objectives": {"metric": True, "macs": False}, "baseline": base}
    return Found(**{**values, "limits": {"macs": 500.0}, "candidates": candidates, **change})


def page(result: Found) -> Page:
    return read(search_page(result.to_dict(), {"passes": [{"type": "prune"}]}, environment(), "a & b"))


def test_all_candidates_are_told() -> None:
    text = page(found())
    best = rows(table(text, "Candidates that none is better than"))
    assert [row[0].split()[0] for row in best] == ["as", "1", "0"]
    assert best[1][1:3] == ["0.7", "20020.0 %"]
    others = rows(table(text, "Candidates that others are better than, or that are above a limit"))
    assert [row[0].split()[0] for row in others] == ["2", "3"]
    assert others[1][1] == "not taken"
    assert "above the limit" in others[1][2]
    ((_, why),) = rows(table(text, "Candidates that cannot be"))
    assert why == "<b>no axis</b> of 'x'"
    assert "5 candidates tried, 3 within the limits, 2 that none is better than" in text.text
    assert text.all("h1")[0].text == "a & b"


def test_the_chart_has_points_front_and_limit() -> None:
    wide, narrow = page(found()).section("best").all("figure")[0].all("svg")
    for drawing in (wide, narrow):
        kinds = [e.attributes["class"] for e in drawing.all("circle")]
        assert sorted(kinds) == ["best", "best", "fits"]
        assert len(drawing.all("line", **{"class": "limit"})) == 1
        (front,) = drawing.all("path", **{"class": "front"})
        assert front.attributes["d"].count("H") == 1
        assert "candidate 0: accuracy 0.9, multiply-accumulates 400" in drawing.all("desc")[0].text
        labels = {text.text for text in drawing.all("text")}
        assert {"0", "1", "as captured"} <= labels


def test_a_search_that_found_nothing() -> None:
    refused = Candidate(0, {"x": None}, {}, {}, refused="it cannot be")
    text = page(found(candidates=(refused,), metric=None, objectives={"macs": False}))
    assert "No candidate is within the limits" in text.text
    assert "it cannot be" in text.section("refused").text
