"""Work in a process of its own, with a time limit: it says what it knows as lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run(module: str, words: Sequence[str], limit: float) -> tuple[dict[str, Any] | None, str]:
    """Run ``python -m module words`` in one thread; end it after ``limit`` seconds.

    Returns:
        The last line of JSON that it printed (None if there is none), and why the process may not
        have come to its end: its exit code and last words, or that it took too long.
    """
    command = [sys.executable, "-m", module, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=env, check=False)
        why = f"process ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
        lines = done.stdout
    except subprocess.TimeoutExpired as error:
        why = f"not done after {limit:.0f} s"
        lines = (error.stdout or b"").decode()
    told = [line for line in lines.splitlines() if line.startswith("{")]
    return (json.loads(told[-1]) if told else None), why
