"""SVG, made as XML elements: whatever a text holds, it stays a text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

from markupsafe import Markup

UNREADABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML may hold."""
WIDTH = 0.58
"""Of a letter, in units of the size of the font: a little more than that of most."""
NARROW = 330
"""Of a drawing for a phone."""

Element = ET.Element
Place = dict[str, str | float]
"""Attributes of an element."""


def picture(key: str, width: float, height: float, title: str, description: str) -> Element:
    """An image with a title and a description, which screen readers tell.

    Args:
        key: unique within its page.
        width, height: in pixels at its natural size.
        title: what it is.
        description: what is to be seen.
    """
    labels = (f"{key}-title", f"{key}-text")
    size = {"viewBox": f"0 0 {_text(width)} {_text(height)}", "width": _text(width), "height": _text(height)}
    root = Element("svg", {**size, "role": "img", "aria-labelledby": " ".join(labels)})
    for tag, label, text in zip(("title", "desc"), labels, (title, description), strict=True):
        add(root, tag, text, id=label)
    return root


def add(parent: Element, tag: str, text: str = "", /, **attributes: str | float) -> Element:
    """A new element; ``_`` in names of attributes stands for ``-``, and at their end for nothing."""
    named = {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()}
    child = ET.SubElement(parent, tag, named)
    child.text = UNREADABLE.sub("\ufffd", text) or None
    return child


def markup(root: Element) -> Markup:
    """As HTML takes it: all texts in it are escaped."""
    return Markup(ET.tostring(root, encoding="unicode"))


def both(key: str, width: float, draw: Callable[[str, float], Element]) -> Markup:
    """A drawing at two widths, of which a page shows that which fits: letters keep their size.

    Args:
        key: unique within the page.
        width: of the wide one.
        draw: makes it, of a key and a width.
    """
    parts = (("wide", width), ("narrow", float(NARROW)))
    return Markup("").join(
        Markup('<div class="{}">{}</div>').format(n, markup(draw(f"{key}-{n}", w))) for n, w in parts
    )


def width_of(text: str, size: float = 13) -> float:
    """About how wide a text is."""
    return WIDTH * size * len(text)


def shortened(text: str, width: float, size: float = 13) -> str:
    """A text that fits; of a path its end is left."""
    count = max(4, int(width / (WIDTH * size)))
    return text if len(text) <= count else f"\u2026{text[1 - count :]}"


def _text(value: str | float) -> str:
    return UNREADABLE.sub("\ufffd", value) if isinstance(value, str) else f"{round(value, 1):g}"
