"""Templates: files of this package; every value in them is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graphc.page import words


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template with values."""
    return _environment().get_template(template).render(values)


def source(name: str) -> str:
    """A file of templates as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("graphc.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("count", "memory", "share", "milliseconds", "number", "interval")
    made.filters |= {name: getattr(words, name) for name in names}
    made.filters["arrows"] = lambda text: text.replace(" => ", " \N{RIGHTWARDS DOUBLE ARROW} ")
    made.filters |= {
        "breaks": breaks,
        "yaml": as_yaml,
        "plain": as_words,
    }
    return made


def breaks(name: str) -> Markup:
    """A name of many words that may be broken between them."""
    return Markup("<wbr>").join(re.split(r"(?<=[._:/}])(?=\w)", name))


def as_words(value: Any) -> str:
    """A value as it stands in a recipe, in one line."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def as_yaml(value: Any) -> str:
    """Plain data as people write it; empty for none."""
    return (
        yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88) if value else ""
    )
