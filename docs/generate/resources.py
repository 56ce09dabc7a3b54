"""A page may link to elsewhere, but loads nothing from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
LOADING = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
NAMING = frozenset({"canonical", "alternate", "prev", "next", "license", "author"})
"""Relations of a link element that a browser does not load."""
URL = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.style = tag == "style"
        if tag == "link" and not set(given.get("rel", "").split()) & NAMING:
            self.found.append(given.get("href", ""))
        for name in LOADING.get(tag, ()):
            self.found += [part.split()[0] for part in given.get(name, "").split(",") if part.strip()]
        self.found += URL.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.style:
            self.found += URL.findall(data)


def external(folder: Path) -> Iterator[str]:
    """``page: address`` of everything that pages and styles load from elsewhere."""
    for path in sorted(folder.rglob("*")):
        found: list[str] = []
        if path.suffix == ".html":
            reader = _Reader()
            reader.feed(path.read_text(encoding="utf-8"))
            found = reader.found
        elif path.suffix == ".css":
            found = URL.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(folder)}: {address}" for address in found if ELSEWHERE.match(address))
