"""Reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.cli import get_docs_for_click

from graphc.cli import app

EXITS = """
## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | an error inside graphc; please report it |
| 2 | something to put right: the message says what, where, why, and what to do |
| 130 | interrupted |
"""


def pages() -> dict[str, str]:
    """Markdown by path."""
    command = typer.main.get_command(app)
    with typer.Context(command, info_name="graphc") as context:
        text = get_docs_for_click(obj=command, ctx=context, name="graphc", title="Command line")
    text = re.sub(r"^## `(graphc .*)`$", r"## \1", text, flags=re.MULTILINE)
    for name, one in command.commands.items():
        text = re.sub(rf"^\* `{name}`: .*$", f"* [`{name}`](#graphc-{name}): {_about(one)}", text, flags=re.MULTILINE)
    return {"reference/cli.md": text.replace("```console", "```text") + EXITS}


def _about(command: Any) -> str:
    """The first line of its help."""
    return str(command.help).split("\n")[0]
