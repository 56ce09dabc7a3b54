"""Pieces of Markdown."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

SIGNS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}
LENGTHS = {"minItems": "at least {} of them", "minProperties": "at least {} of them"}


def docstring(thing: Any) -> str:
    """The docstring as Markdown, without the part that is for those who call it."""
    text = inspect.getdoc(thing) or ""
    return re.split(r"\n\n(?:Args|Attributes|Raises|Returns):\n", text)[0]


def heading(text: str) -> str:
    """The first line of a docstring, without its full stop."""
    return text.split("\n")[0].rstrip(".")


def code(value: Any) -> str:
    """As code, whatever is in it."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells may hold anything but lines."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def values(schema: Schema, definitions: Schema | None = None) -> str:
    """What a JSON schema accepts, in words."""
    known = definitions or {}
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(part, known) for part in schema["anyOf"]))
    kind = schema.get("type")
    limits = [words.format(schema[key]) for key, words in (SIGNS | LENGTHS).items() if key in schema]
    return " ".join([_kind(kind, schema, known), ", ".join(limits)]).strip()


def _kind(kind: Any, schema: Schema, known: Schema) -> str:
    if kind == "array":
        parts = schema.get("items") or {}
        return f"list of {values(parts, known)}" if parts else "list"
    if kind == "object":
        parts = schema.get("additionalProperties")
        return f"mapping of name to {values(parts, known)}" if isinstance(parts, Mapping) and parts else "mapping"
    return {"null": "`null`", "boolean": "`true`, `false`", None: "anything"}.get(kind, str(kind))


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return f"[{name}](#{name.lower()})"
