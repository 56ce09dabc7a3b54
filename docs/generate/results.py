"""Pages of benchmarks/results, each with the command that makes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from generate.text import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MODULES = {
    "coverage/timm": "coverage",
    "coverage/torchvision": "coverage",
    "coverage/transformers": "coverage",
}
"""Benchmarks of results that do not have their name."""


def pages() -> dict[str, str]:
    """Markdown by path."""
    found = {path.relative_to(RESULTS).with_suffix("").as_posix(): path for path in sorted(RESULTS.rglob("*.md"))}
    made = {f"results/{name}.md": _page(name, path) for name, path in found.items()}
    rows = [(f"[{name}]({name}.md)", _about(name)) for name in found]
    intro = (
        "Every table is what one command wrote; nothing in it is typed by hand. Benchmarks print machine, versions, "
        "threads and seeds, and end with 1 if a claim does not hold. They need `pip install -e '.[bench]'` in a "
        "checkout."
    )
    return {"results/index.md": f"# Results\n\n{intro}\n\n{table(('result', 'what it measures'), rows)}\n", **made}


def module_of(name: str) -> Path:
    """The benchmark that a result comes from.

    Raises:
        FileNotFoundError: there is none, so that a result without a command fails the build.
    """
    wanted = MODULES.get(name, name)
    for folder in ("", "quality", "peers", "fuzz"):
        for file in (f"{wanted}.py", f"{wanted}/__main__.py"):
            path = ROOT / "benchmarks" / folder / file
            if path.is_file():
                return path
    raise FileNotFoundError(f"no benchmark makes benchmarks/results/{name}.md: add a row to {__name__}.MODULES")


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(module_of(name).read_text(encoding="utf-8"))) or ""


def _about(name: str) -> str:
    return _docstring(name).split("\n")[0]


def _page(name: str, path: Path) -> str:
    title, _, body = path.read_text(encoding="utf-8").partition("\n")
    about = _docstring(name)
    commands = re.findall(r"^ {4}(python -m .*)$", about, re.MULTILINE)
    shown = "\n".join(commands) or f"python -m {_dotted(module_of(name))}"
    return f"{title}\n\n{_about(name)}\n\n```console\n{_prompted(shown)}\n```\n{body}"


def _prompted(commands: str) -> str:
    return "\n".join(f"$ {line}" for line in commands.splitlines())


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
