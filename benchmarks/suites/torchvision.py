"""Every classification, segmentation, video and optical-flow model of torchvision, untrained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch

from benchmarks.models import Case

WHOLE = ("vit_", "maxvit_t", "alexnet", "vgg", "inception_v3", "googlenet")
"""Names that begin so are made for one image size, or for none below 128."""

PIXELS = {"vit_h_14": 224, "inception_v3": 128, "googlenet": 128, "alexnet": 128, "vgg": 64}
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
"""Frames and pixels of video models that do not take (8, 64)."""


def cases(only: str = "") -> list[Case]:
    """All models of the four kinds, in the order of their names, or the one of this name."""
    from torchvision import models

    kinds: list[tuple[ModuleType, Callable[[str], Case]]] = [
        (models, _classifier),
        (models.segmentation, _segmentation),
        (models.video, _video),
        (models.optical_flow, _flow),
    ]
    names = [(case, name) for module, case in kinds for name in models.list_models(module=module)]
    return [case(name) for case, name in names if only in ("", name)]


def _build(name: str, **options: Any) -> torch.nn.Module:
    from torchvision import models

    built: torch.nn.Module = models.get_model(name, weights=None, **options)
    return built


def _images(*names: str, shape: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "inputs": {name: torch.randn(3, *shape) for name in names},
        "dynamic": {name: {0: "batch"} for name in names},
        "other": {"batch": 5},
    }


def _classifier(name: str) -> Case:
    pixels = next((size for start, size in PIXELS.items() if name.startswith(start)), None)
    pixels = pixels or (224 if name.startswith(WHOLE) else 96)
    fast = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return Case(name, partial(_build, name, **fast), **_images("x", shape=(3, pixels, pixels)))


def _segmentation(name: str) -> Case:
    argument = "input" if name.startswith("lraspp") else "x"
    return Case(name, partial(_build, name, weights_backbone=None), **_images(argument, shape=(3, 96, 96)))


def _video(name: str) -> Case:
    frames, pixels = CLIPS.get(name, (8, 64))
    return Case(name, partial(_build, name), **_images("x", shape=(3, frames, pixels, pixels)))


def _flow(name: str) -> Case:
    return Case(name, partial(_build, name), **_images("image1", "image2", shape=(3, 128, 128)))
