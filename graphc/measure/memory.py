"""Memory of this process."""

from __future__ import annotations

import resource
import sys


def peak_bytes() -> int:
    """The most memory that this process has had in use so far, in bytes (resident set size)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
