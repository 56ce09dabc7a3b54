"""Processes: which of several, started together by a launcher, this one is."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Is this the only process, or the one of rank 0 among those that ``torchrun`` or ``accelerate launch`` started?"""
    return int(os.environ.get("RANK", "0")) == 0


def alone() -> bool:
    """Is this the only process?"""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1
