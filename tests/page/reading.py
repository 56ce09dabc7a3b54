"""Reads a page as a browser does, and holds what any page of graphc must have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

VOID = ("meta", "link", "wbr", "br", "img", "input")
FOREIGN = ("src", "srcset", "action", "data", "poster", "xlink:href")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    words: list[str] = field(default_factory=list)
    inside: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, **attributes: str) -> list[Element]:
        found = [x for x in self.inside if x.tag == tag and attributes.items() <= x.attributes.items()]
        return found + [y for x in self.inside for y in x.all(tag, **attributes)]


class Page(HTMLParser):
    """The tree of a page; whatever is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {}, None)
        self.at = self.root
        self.order: list[Element] = []
        self.feed(text)
        self.close()
        assert self.at is self.root, f"{self.at.tag} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        new = Element(tag, {k: v or "" for k, v in attrs}, self.at)
        self.at.inside.append(new)
        self.order.append(new)
        if tag not in VOID:
            self.at = new

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"{tag} closes {self.at.tag}"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        at: Element | None = self.at
        while at is not None:
            at.words.append(data)
            at = at.parent

    @property
    def text(self) -> str:
        return self.root.all("body")[0].text

    def section(self, name: str) -> Element:
        (found,) = self.root.all("section", id=name)
        return found

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return self.root.all(tag, **attributes)


def read(text: str) -> Page:
    """Parse a page, and see that it is one of ours."""
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html")[0].attributes["lang"] == "en"
    _alone(page)
    _accessible(page)
    return page


def _alone(page: Page) -> None:
    assert not page.all("script")
    assert not page.all("iframe")
    for element in page.order:
        assert not any(name.startswith("on") for name in element.attributes), element
        assert not set(FOREIGN) & set(element.attributes), element
        assert element.attributes.get("href", "#").startswith(("#", "data:,")), element
    (style,) = (e.text for e in page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'")


def _accessible(page: Page) -> None:
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(tag)) == 1, tag
    levels = [int(e.tag[1]) for e in page.order if e.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = Counter(e.attributes["id"] for e in page.order if "id" in e.attributes)
    assert set(ids.values()) <= {1}, [name for name, count in ids.items() if count > 1]
    for element in page.order:
        wanted: list[str] = element.attributes.get("aria-labelledby", "").split()
        wanted += [element.attributes["href"][1:]] if element.attributes.get("href", "").startswith("#") else []
        assert set(wanted) <= set(ids), element
        if element.tag == "th":
            assert element.attributes["scope"] in ("row", "col")
        if element.tag == "table":
            assert element.inside[0].tag == "caption"
        if element.tag == "svg" and element.attributes.get("aria-hidden") != "true":
            assert element.attributes["role"] == "img"
            assert [x.tag for x in element.inside[:2]] == ["title", "desc"]
            assert all(x.text for x in element.inside[:2])


def rows(table: Element) -> list[list[str]]:
    """Texts of the cells of its body."""
    return [[cell.text for cell in row.inside] for row in table.all("tbody")[0].inside]


def table(where: Any, caption: str) -> Element:
    """The table of this caption."""
    (found,) = (t for t in where.all("table") if t.inside[0].text == caption)
    result: Element = found
    return result
