"""Memory of this process."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

OWN, NOW = "VmHWM:", "VmRSS:"
"""Linux's lines for the peak of the program that runs, and for what it has now.

getrusage begins with the peak of the program that started it.
"""


def peak_bytes() -> int:
    """The most memory that this process has had in use so far, in bytes (resident set size)."""
    found = _line(OWN)
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def restart_peak() -> int:
    """Forget the peak so far, where the system can, and return what is in use now, in bytes.

    Where it cannot, both are the peak so far.
    """
    with contextlib.suppress(OSError):  # not Linux, or a container that does not let it be written
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _line(NOW) or peak_bytes()
    return peak_bytes()


def _line(label: str) -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    own = next((line for line in lines if line.startswith(label)), None)
    return None if own is None else int(own.split()[1]) * 1024
