"""Sources: the code that a compile runs, as one text that changes when the code does."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from graphc.ir.digest import digest

OWN = "graphc"
SUFFIXES = (".py", ".yaml")
"""Files of graphc that say what a pass does."""


@cache
def versions() -> str:
    """Python, its platform, and every installed distribution with its version."""
    found = sorted(f"{one.name} {one.version}" for one in importlib.metadata.distributions())
    return "\n".join([platform.python_version(), platform.platform(), *found])


@cache
def own_code() -> str:
    """The sources of graphc and of its passes: in a development install their version does not tell."""
    specs = [spec for name in (OWN, f"{OWN}.passes") if (spec := _spec(name)) is not None]
    roots = [Path(folder) for spec in specs for folder in spec.submodule_search_locations or ()]
    files = sorted({file for root in roots for file in root.rglob("*") if file.suffix in SUFFIXES})
    return digest(*(text for file in files for text in (file.name, file.read_text(encoding="utf-8"))))


def code_of(modules: Iterable[str]) -> str | None:
    """A hash of modules and of all that they import, but for what is installed; None if one cannot be found.

    Imports are read from the text, those in functions too; nothing is imported.
    """
    seen: dict[str, str] = {}
    left = sorted(set(modules))
    if any(_source(name) is None for name in left):
        return None
    while left:
        name = left.pop()
        text = _source(name)
        if name in seen or text is None or name.partition(".")[0] == OWN:
            continue
        seen[name] = text
        left += _imports(name, text)
    return digest(*(text for pair in sorted(seen.items()) for text in pair))


@cache
def _places() -> tuple[Path, ...]:
    """Where what is installed, and Python itself, has its files."""
    paths = sysconfig.get_paths()
    return tuple({Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def installed(file: Path) -> bool:
    """Is this the file of something whose version tells its content?"""
    return any(file.resolve().is_relative_to(place) for place in _places())


def _imports(name: str, text: str) -> set[str]:
    """Names of modules that a module may import, and of the package that it is in."""
    spec = _spec(name)
    package = name if spec is not None and spec.submodule_search_locations else name.rpartition(".")[0]
    found = {name.rpartition(".")[0]} - {""}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def _source(name: str) -> str | None:
    """The source of a module, which is not imported; empty if it is installed or no Python, None if there is none."""
    if name == "__main__":
        path = getattr(sys.modules[name], "__file__", None)
        return Path(path).read_text(encoding="utf-8") if path and Path(path).suffix == ".py" else None
    spec = _spec(name)
    if spec is None:
        return None
    file = Path(spec.origin or "")
    return "" if file.suffix != ".py" or installed(file) else file.read_text(encoding="utf-8")


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Of a module, going down its packages by their folders."""
    parent = name.rpartition(".")[0]
    if not parent or parent in sys.modules:  # what is asked then imports nothing
        try:
            return importlib.util.find_spec(name)
        except (ValueError, ImportError):  # it was put together by hand, or its parent is no package
            return None
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return importlib.machinery.PathFinder.find_spec(name, list(above.submodule_search_locations))
