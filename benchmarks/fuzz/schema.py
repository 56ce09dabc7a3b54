"""Strategies from JSON schemas, as far as recipes use them.

An option whose schema leaves open what makes sense (a string that names a criterion) can have a strategy of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
Strategies = Mapping[str, st.SearchStrategy[Any]]
ODD = ["", "\0", "a" * 300, "re:(", "50%", "x:", ":x", ".a:b", "math:pi", "os:getcwd", "no.such:thing", "~/x.yaml"]
WORDS = st.one_of(
    st.sampled_from(["train", "calibration", "blocks.0", "re:.*"]), st.sampled_from(ODD), st.text(max_size=8)
)
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), WORDS, st.just([]), st.just({}))


def from_schema(schema: Schema, defs: Schema | None = None) -> st.SearchStrategy[Any]:
    """Values that a schema admits; ``defs``: what it refers to.

    Raises:
        NotImplementedError: it has a word that is not known here.
    """
    if "$ref" in schema:
        schema = (defs or {})[schema["$ref"].rpartition("/")[2]]
    schema = {word: _resolved(value, defs or {}) for word, value in schema.items()}
    for word, make in (("const", _const), ("enum", _enum), ("anyOf", _any_of), ("oneOf", _one_of)):
        if word in schema:
            return make(schema)
    if not schema.keys() - {"title", "description", "default"}:
        return ANYTHING
    kinds: Mapping[str, Any] = {
        "null": lambda schema: st.none(),
        "boolean": lambda schema: st.booleans(),
        "integer": _integer,
        "number": _number,
        "string": _string,
        "array": _array,
        "object": objects,
    }
    if schema.get("type") not in kinds:
        raise NotImplementedError(f"no strategy for {schema}")
    made: st.SearchStrategy[Any] = kinds[schema["type"]](schema)
    return made


def _resolved(value: Any, defs: Schema) -> Any:
    """A schema in which nothing refers to another."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            return _resolved(defs[value["$ref"].rpartition("/")[2]], defs)
        return {key: _resolved(part, defs) for key, part in value.items()}
    return [_resolved(part, defs) for part in value] if isinstance(value, list) else value


def objects(schema: Schema, own: Strategies | None = None, most: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with what is required and some of the rest; ``own`` strategies come before those of the schema."""
    properties: Schema = schema.get("properties", {})
    own = own or {}
    known = {name: own[name] if name in own else from_schema(part) for name, part in properties.items()}
    required = schema.get("required", [])
    if not known:
        extra = schema.get("additionalProperties", {})
        values = from_schema(extra) if isinstance(extra, Mapping) else ANYTHING
        return st.dictionaries(WORDS, values, min_size=schema.get("minProperties", 0), max_size=2)
    rest = [name for name in known if name not in required]
    chosen = st.lists(st.sampled_from(rest), max_size=most, unique=True) if rest else st.just([])
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: known[name] for name in [*required, *names]}))


def _const(schema: Schema) -> st.SearchStrategy[Any]:
    return st.just(schema["const"])


def _enum(schema: Schema) -> st.SearchStrategy[Any]:
    return st.sampled_from(schema["enum"])


def _any_of(schema: Schema) -> st.SearchStrategy[Any]:
    return st.one_of([from_schema(part) for part in schema["anyOf"]])


def _one_of(schema: Schema) -> st.SearchStrategy[Any]:
    return st.one_of([from_schema(part) for part in schema["oneOf"]])


def _integer(schema: Schema) -> st.SearchStrategy[int]:
    least = schema.get("minimum", -9)
    return st.integers(least, max(least + 12, 12))


def _number(schema: Schema) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -4.0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", max(4.0, least + 4)))
    open_ends = {"exclude_min": "exclusiveMinimum" in schema, "exclude_max": "exclusiveMaximum" in schema}
    return st.floats(least, most, allow_nan=False, width=32, **open_ends)


def _string(schema: Schema) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"], re.ASCII)).filter(lambda text: len(text) < 12)
    return WORDS


def _array(schema: Schema) -> st.SearchStrategy[list[Any]]:
    least = schema.get("minItems", 0)
    return st.lists(from_schema(schema.get("items", {})), min_size=least, max_size=max(2, least))
