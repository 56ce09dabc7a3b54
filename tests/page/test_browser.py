"""Both pages in headless Chromium: nothing is requested, nothing is too wide, axe-core finds nothing serious."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphc
from benchmarks.report_pages import browser, find_browser, look
from graphc.measure import Step, report
from graphc.measure.environment import environment
from graphc.page.report import report_page
from graphc.page.search import search_page
from tests import models
from tests.page.test_search import found

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt install chromium)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    before = models.residual()
    after = graphc.slice(before, {"conv1.out": range(8)}, "conv1.out 24 -> 8")
    times = {"backend": "eager", "before_ms": 2.0, "after_ms": 1.5, "ratio": 0.75, "low": 0.7, "high": 0.8}
    runs = {"before_samples_ms": [2.0, 1.9, 9.0, 2.1, 2.0], "after_samples_ms": [1.5, 1.4, 1.6, 1.5, 1.5]}
    facts = {"type": "prune-filters", "options": {"targets": ["a" * 99]}, "latency": {**times, **runs}}
    steps = [Step("a pass with quite a long name that goes on and on", 1.0, before, after, facts)]
    artifact = {
        "name": f"{'n' * 60}.onnx",
        "kind": ".onnx",
        "bytes": 5,
        "relative_error": 1e-7,
        "checked_at": [{"batch": 2}],
    }
    artifacts = [{**artifact, "latency": {**facts["latency"], "bytes_before": 9, "warnings": ["slow " * 30]}}]
    content = report(before, after, name="b" * 90, steps=steps, artifacts=artifacts, metric=("accuracy", 0.9, 0.8))
    (folder / "report.html").write_text(report_page(content, steps), encoding="utf-8")
    recipe = {"passes": [{"type": "prune-heads", "a very long option that has no spaces": "x" * 200}]}
    search = folder / "search.html"
    search.write_text(search_page(found().to_dict(), recipe, environment(), "a" * 120), encoding="utf-8")
    loud = folder / "loud.html"
    text = (folder / "report.html").read_text(encoding="utf-8")
    wide = '<p style="width: 2000px; color: #999">pale<img src="https://example.invalid/x.png"></p></main>'
    loud.write_text(text.replace("</main>", wide), encoding="utf-8")
    return {"report": folder / "report.html", "search": search, "loud": loud}


def test_pages_hold_on_every_screen(pages: dict[str, Path]) -> None:
    pytest.importorskip("playwright", reason="needs the extra `test`")
    assert BROWSER is not None
    with browser(BROWSER) as opened:
        for name, width, scheme in (("report", 1280, "light"), ("report", 390, "dark"), ("search", 390, "light")):
            seen = look(opened, pages[name], width, scheme)
            assert seen.holds, (name, width, scheme, seen)
        loud = look(opened, pages["loud"], 390)
    assert loud.overflow > 300
    assert {rule for _, rule, _ in loud.grave} >= {"color-contrast", "image-alt"}
    assert loud.errors  # the page's own policy forbids the request, and the browser says so
