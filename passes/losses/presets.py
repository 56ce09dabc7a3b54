"""Presets: the terms of known methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "hinton": (
        {"type": "kl", "temperature": 4.0, "weight": 0.5},
        {"type": "cross-entropy", "weight": 0.5},
    ),
    "distilbert": (
        {"type": "kl", "temperature": 2.0, "weight": 0.5},
        {"type": "cross-entropy", "weight": 0.5},
        {"type": "cosine", "pairs": "last", "weight": 0.1},
    ),
    "causal-lm": (
        {"type": "token-kl", "weight": 0.5},
        {"type": "cross-entropy", "shift": True, "weight": 0.5},
    ),
}
"""``hinton``: Hinton et al. 2015. ``distilbert``: the triple loss of Sanh et al. 2019 on masked language modelling
(labels of -100 do not count). ``causal-lm``: of each next token, the teacher's distribution and the label."""
