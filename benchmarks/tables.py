"""Tables of a benchmark as files: CSV for programs, Markdown for people."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def write(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], out: Path) -> None:
    """``out/TITLE.csv``, and ``out/TITLE.md`` with the notes below the table; makes the folder."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{title}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    lines = ["| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *rows]]
    text = "\n".join([f"# {title}", "", *lines, "", *(f"- {note}" for note in notes), ""])
    (out / f"{title}.md").write_text(text, encoding="utf-8")
