"""Memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

OWN = "VmHWM:"
"""Linux's line for the peak of the program that runs; getrusage begins with that of the one that started it."""


def peak_bytes() -> int:
    """The most memory that this process has had in use so far, in bytes (resident set size)."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    own = next((line for line in lines if line.startswith(OWN)), None)
    if own is not None:
        return int(own.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
