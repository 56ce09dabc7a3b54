"""What people read of the cache: what came from it, what is in it, what is gone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc.errors import GraphError
from graphc.pipeline.pruning import Listing, listing, prune
from graphc.pipeline.store import Entry

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def event(console: Console, name: str, about: Any) -> None:
    """One event of a compile that is about the cache; others say nothing."""
    if name == "cut off":
        why = "the last compile in this folder was cut off"
        console.print(f"[yellow]{why}; this one begins anew[/yellow] (--resume goes on)", soft_wrap=True)
    elif name == "cached":
        assert isinstance(about, Entry)
        text = f"{about.title} is taken from the cache: made {age(about.age)} ago in {about.seconds:.1f} s"
        console.print(f"[bold cyan]cached[/bold cyan]  {escape(text)}", soft_wrap=True)
    elif name == "not cached":
        title, why = about
        console.print(f"[yellow]the result of {escape(title)} is not kept[/yellow]: {escape(why)}", soft_wrap=True)


def asked(
    folders: Sequence[Path], removing: bool, recipe: str | None, older_than: str | None, max_size: str | None
) -> list[Listing]:
    """What is in folders, after what a user wants removed is gone.

    Raises:
        GraphError: a folder or an option is wrong, or says what to remove where nothing is to be.
    """
    if not removing:
        if recipe or older_than or max_size:
            raise GraphError("these options say what to remove", where="graphc cache", hint="add --prune")
        return [listing(folder) for folder in folders]
    seconds = seconds_of(older_than) if older_than is not None else None
    most = bytes_of(max_size) if max_size is not None else None
    return [prune(folder, recipe, seconds, most) for folder in folders]


def listings(console: Console, found: Sequence[Listing]) -> None:
    """Results by folder, the last used first."""
    for one in found:
        table = Table("pass", "recipe", "size", "unused for", "took", box=None)
        for entry in one.entries:
            table.add_row(
                escape(entry.title), escape(entry.recipe), size(entry.bytes), age(entry.age), f"{entry.seconds:.1f} s"
            )
        console.print(f"[bold]{escape(str(one.folder))}[/bold]  {len(one.entries)} results, {size(one.bytes)}")
        if one.entries:
            console.print(table)
        for path in one.damaged:
            console.print(f"  [yellow]damaged[/yellow]: {escape(path.name)} (--prune removes it)", soft_wrap=True)
        if one.removed:
            console.print(f"  removed {len(one.removed)}, {size(one.freed)}")


def size(count: int) -> str:
    """``12.3 MB``."""
    unit = next((unit for unit in ("GB", "MB", "KB") if count >= UNITS[unit]), "B")
    return f"{count / UNITS[unit]:.1f} {unit}" if unit != "B" else f"{count} B"


def age(seconds: float) -> str:
    """``3 h``."""
    unit = next((unit for unit in ("d", "h", "m") if seconds >= SECONDS[unit]), "s")
    return f"{seconds / SECONDS[unit]:.0f} {unit}"


def bytes_of(text: str) -> int:
    """The number that ``10GB`` means.

    Raises:
        GraphError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip(), re.IGNORECASE)
    if found is None:
        raise GraphError(f"{text!r} is no size", where="--max-size", hint="write 500MB or 10GB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def seconds_of(text: str) -> float:
    """The seconds that ``7d`` means.

    Raises:
        GraphError: it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if found is None:
        raise GraphError(f"{text!r} is no time", where="--older-than", hint="write 12h or 7d")
    return float(found[1]) * SECONDS[found[2]]
