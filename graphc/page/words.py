"""Words: numbers as people read them, and many names of one form as one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
UNITS = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))


@dataclass(frozen=True)
class Family:
    """Names that differ in nothing but the numbers in them.

    Attributes:
        text: all of them as one: ``layer.{0..5}.query``.
        names: each.
    """

    text: str
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.names)


def count(value: float) -> str:
    """Three digits: ``22.7 M``."""
    return _with_unit(value).rstrip()


def memory(value: float) -> str:
    """Three digits of bytes: ``90.9 MB``."""
    return f"{_with_unit(value)}B"


def share(value: float) -> str:
    """``74.9 %``."""
    return f"{100 * value:.1f} %"


def milliseconds(value: float) -> str:
    """Three digits: ``8.27 ms``."""
    return f"{_digits(value)} ms"


def number(value: float) -> str:
    """A number of any size, short."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def change(before: float, after: float, write: Callable[[float], str]) -> str:
    """How much more or less: ``-1.18 M``, with a sign of its own."""
    if before == after:
        return "no change"
    return f"{MINUS if after < before else '+'}{write(abs(after - before))}"


def times(value: float) -> str:
    """A ratio: ``x 0.62``."""
    return f"{TIMES} {value:.3g}"


def interval(latency: Mapping[str, Any]) -> str:
    """A ratio of times with its interval."""
    return f"{TIMES} {latency['ratio']:.2f} ({latency['low']:.2f} to {latency['high']:.2f})"


def families(names: Iterable[str]) -> list[Family]:
    """Names that differ in numbers alone, folded; in the order of the first of each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(NUMBER.sub("#", name), []).append(name)
    return [Family(_folded(form, group), tuple(group)) for form, group in groups.items()]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most so many and two at least."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * k for k in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * k) <= most)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _folded(form: str, group: Sequence[str]) -> str:
    """``layer.#.query`` with the numbers that stand there, if these are all that could be made of them."""
    found = [tuple(map(int, NUMBER.findall(name))) for name in group]
    columns = list(zip(*found, strict=True))
    own = {column: sorted(set(column)) for column in columns}  # numbers that are always the same count once
    whole = math.prod(map(len, own.values())) == len(set(zip(*own, strict=True))) if own else True
    texts = iter([str(own[c][0]) if len(own[c]) == 1 else f"{{{_ranges(own[c])}}}" if whole else "*" for c in columns])
    if form.count("#") != len(columns):
        return group[0]
    return re.sub("#", lambda _: next(texts), form)


def _ranges(values: Sequence[int]) -> str:
    """``0..3,5`` of sorted numbers."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def _with_unit(value: float) -> str:
    name, unit = next((u for u in reversed(UNITS) if abs(value) >= u[1]), UNITS[0])
    return f"{_digits(value / unit)} {name}"


def _digits(value: float) -> str:
    """Three digits, or all of a whole number below a thousand."""
    if value == 0 or (float(value).is_integer() and abs(value) < 1000):
        return f"{value:.0f}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"
