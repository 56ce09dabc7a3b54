"""The pages that a compile and a search write, in a browser.

    python -m benchmarks.report_pages [--output-dir FOLDER] [--pages FILE ...]

Compiles examples/minilm.yaml and searches examples/search.yaml (or takes the pages given), opens both pages in headless
Chromium at 1280 and 390 pixels, light and dark, writes a screenshot of each, and checks that nothing is requested from
anywhere, that nothing is wider than the screen, and that axe-core finds no serious violation. Needs Chromium, and
playwright and axe-playwright-python from the extra `test`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphc.measure.environment import environment

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = {1280: 800, 390: 844}
"""Of the screens, with their heights."""
GRAVE = ("serious", "critical")
"""Impacts, as axe-core calls them, that fail."""
TRIALS = 12
"""Of the search: enough for a page."""


@dataclass(frozen=True)
class Look:
    """A page on one screen.

    Attributes:
        requests: what was asked for beside the page itself.
        overflow: by how many pixels the page is wider than the screen.
        violations: of axe-core, of any impact: (impact, id, places).
        errors: what the browser's console told.
    """

    requests: list[str] = field(default_factory=list)
    overflow: int = 0
    violations: list[tuple[str, str, list[str]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def grave(self) -> list[tuple[str, str, list[str]]]:
        """The violations that fail."""
        return [found for found in self.violations if found[0] in GRAVE]

    @property
    def holds(self) -> bool:
        """Is all as it should be?"""
        return not self.requests and self.overflow <= 0 and not self.grave and not self.errors


def find_browser() -> str | None:
    """Where Chromium is; None if it is not installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)


@contextlib.contextmanager
def browser(path: str) -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def look(opened: Any, page: Path, width: int, scheme: str = "light", picture: Path | None = None) -> Look:
    """Open a page on a screen and examine it.

    Args:
        opened: the browser.
        page: its file.
        width: of the screen in pixels.
        scheme: ``light`` or ``dark``.
        picture: where a screenshot of the whole page goes.
    """
    from axe_playwright_python.sync_playwright import Axe

    requests: list[str] = []
    errors: list[str] = []
    screen = {"width": width, "height": WIDTHS.get(width, 800)}
    shown = opened.new_page(viewport=screen, color_scheme=scheme, reduced_motion="reduce")
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: errors.append(message.text))
    address = page.resolve().as_uri()
    shown.goto(address)
    overflow = shown.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if picture is not None:
        shown.screenshot(path=str(picture), full_page=True)
    shown.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    opened_wide = shown.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    found = Axe().run(shown).response["violations"]
    shown.close()
    violations = [(v["impact"], v["id"], [str(n["target"]) for n in v["nodes"]]) for v in found]
    asked = [url for url in requests if url != address and not url.startswith("data:")]
    return Look(asked, max(overflow, opened_wide), violations, errors)


def made(folder: Path) -> list[Path]:
    """The pages of the compile and of the search, each by its command."""
    runs = {
        "report.html": ["compile", str(ROOT / "examples" / "minilm.yaml")],
        "search.html": ["search", str(ROOT / "examples" / "search.yaml"), "--trials", str(TRIALS)],
    }
    for words in runs.values():
        target = folder / words[0]
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "graphc.cli", *words, "-o", str(target)], check=True)
    return [folder / words[0] / name for name, words in runs.items()]


def main() -> int:
    """Print what was seen; 1 if something does not hold, 2 if there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=None, help="Folder of pages and screenshots.")
    parser.add_argument("--pages", type=Path, nargs="+", default=None, help="Pages to take instead of new ones.")
    given = parser.parse_args()
    console = Console(width=120)
    path = find_browser()
    if path is None:
        console.print(f"no browser: none of {', '.join(BROWSERS)} is installed")
        return 2
    console.print(environment())
    folder = given.output_dir or Path(tempfile.mkdtemp(prefix="graphc-pages-"))
    folder.mkdir(parents=True, exist_ok=True)
    pages = given.pages or made(folder)
    table = Table("page", "screen", "requests", "too wide", "axe: serious", "axe: other", "console")
    holds = True
    with browser(path) as opened:
        console.print(f"Chromium {opened.version}")
        for page in pages:
            for width in WIDTHS:
                for scheme in ("light", "dark"):
                    picture = folder / f"{page.stem}-{width}-{scheme}.png"
                    found = look(opened, page, width, scheme, picture)
                    holds &= found.holds
                    others = [v[1] for v in found.violations if v not in found.grave]
                    figures = (len(found.requests), max(found.overflow, 0), len(found.grave))
                    row = (*map(str, figures), ", ".join(others) or "0", str(len(found.errors)))
                    table.add_row(page.name, f"{width} {scheme}", *row)
                    for told in (*found.requests, *found.grave, *found.errors):
                        console.print(told)
    console.print(table)
    console.print(f"screenshots are in {folder}")
    console.print("all hold" if holds else "something does not hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
