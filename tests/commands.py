"""The command line, run in the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from graphc import cli

Run = Callable[..., tuple[int, str, str]]
"""Takes words; gives the exit code and what was printed to stdout and stderr."""


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *first: str) -> Run:
    """Runs ``graphc`` with some words before those that it is given."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graphc", *first, *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), out.out, out.err

    return run
