"""Torchvision's detectors: what cannot be traced whole is compressed part by part.

    python -m benchmarks.detection [DETECTOR ...]

For each of the eight, untrained: graphc.capture refuses the whole and names its parts; every part is
captured and put back uncompressed, and the boxes are those of the original. A random 30 % of every
axis that is neither pinned nor mixed is cut: the detector with sliced parts gives the boxes of the
detector with masked parts. All this at the captured size, at other sizes of images and for other
batches, and in double precision, where no rounding can tip a threshold or a rank. Then the passes
remove 30 % of the filters and widths by their norms, the detector runs and gives boxes, and every
part is emitted to ONNX and proven equal.

Weights are scaled layer by layer on an image, so that boxes and scores differ from place to place
(Mishkin and Matas 2016); batch norms have random statistics.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from graphc.passes import PruneFilters, PruneWidth
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import graphc
from benchmarks.models import randomise
from benchmarks.soundness import SEED
from graphc.axes.axis import Axis
from graphc.errors import CaptureError
from graphc.measure.environment import environment
from graphc.pipeline.base import Pass

DETECTORS = """
fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_resnet50_fpn retinanet_resnet50_fpn ssdlite320_mobilenet_v3_large
fcos_resnet50_fpn ssd300_vgg16 maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn
""".split()

SIZES: tuple[Sequence[tuple[int, int]], ...] = (
    [(96, 128), (96, 128), (80, 112)],
    [(112, 80)],
    [(64, 96), (96, 96), (128, 80), (80, 80)],
)
"""Heights and widths of the images of each batch; the first is captured."""

RATIO = 0.3
ENOUGH = 10
"""Boxes, over all batches, below which a comparison of boxes says too little."""

Detections = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Result:
    """What was seen for one detector.

    Attributes:
        name: the detector.
        parts: its parts.
        refused: capture of the whole was refused, and the error names the first part.
        same: largest relative error of any output, parts put back uncompressed against the original.
        axes: free axes of all parts that were cut.
        error: the same with sliced parts against masked ones.
        cut: boxes of the detector with sliced parts, over all batches.
        moved: relative change of the first part's outputs by that cut.
        boxes: boxes of the detector after the passes, over all batches.
        params: share of the parameters that the passes leave.
        onnx: largest relative error of an emitted part.
        seconds: for all of it.
    """

    name: str
    parts: Sequence[str]
    refused: bool
    same: float
    axes: int
    error: float
    cut: int
    moved: float
    boxes: int
    params: float
    onnx: float
    seconds: float


def images(sizes: Sequence[tuple[int, int]], seed: int = SEED) -> list[Tensor]:
    """Images of soft blobs, ``[3, height, width]``, in [0, 1], double precision."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.rand(1, 3, h // 16, w // 16, generator=generator, dtype=torch.float64) for h, w in sizes]
    return [nn.functional.interpolate(c, size, mode="bilinear")[0] for c, size in zip(coarse, sizes, strict=True)]


def build(name: str) -> nn.Module:
    """A detector of torchvision, untrained, for small images, in double precision."""
    from torchvision.models import detection

    torch.manual_seed(SEED)
    options: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    if "rcnn" in name:
        least = 0.0 if name.startswith("keypoint") else 1e-4  # of two classes a cut can leave next to nothing to one
        options |= {"box_detections_per_img": 8, "box_score_thresh": least, "rpn_post_nms_top_n_test": 200}
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    model = randomise(model).double().eval()
    liven(model, images(SIZES[0]))
    return model


def liven(model: nn.Module, given: list[Tensor]) -> None:
    """Scale every convolution and linear layer, in the order of their calls, so that its outputs vary by one."""
    done: set[nn.Module] = set()

    def once(layer: Any, args: Any, result: Tensor) -> Tensor | None:
        if layer in done:
            return None
        done.add(layer)
        over = [i for i in range(result.dim()) if i != 1]
        mean = result.mean(over, keepdim=True) if layer.bias is not None else torch.zeros(1, dtype=result.dtype)
        scale = (result - mean).std().clamp(min=1e-6)
        layer.weight.div_(scale)
        if layer.bias is not None:
            layer.bias.sub_(mean.flatten()).div_(scale)
        return (result - mean) / scale

    hooks = [m.register_forward_hook(once) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(given)
    for hook in hooks:
        hook.remove()


def detect(model: nn.Module) -> list[Detections]:
    """What a detector gives for each batch."""
    kind = next(model.parameters()).dtype
    with torch.no_grad():
        return [model([image.to(kind) for image in images(sizes)]) for sizes in SIZES]


def count(found: Sequence[Detections]) -> int:
    """Boxes in all images of all batches."""
    return sum(len(one["boxes"]) for batch in found for one in batch)


def gap(wanted: Sequence[Detections], found: Sequence[Detections]) -> float:
    """Largest relative error of boxes, scores, labels, masks and keypoints; infinite if their numbers differ."""
    worst = 0.0
    for first, second in zip(wanted, found, strict=True):
        for one, other in zip(first, second, strict=True):
            if len(one["scores"]) != len(other["scores"]):
                return math.inf
            here, there = settled(one), settled(other)
            for key, value in here.items():
                if value.shape != there[key].shape:
                    return math.inf
                distance = float((value.double() - there[key].double()).norm())
                worst = max(worst, distance / max(float(value.double().norm()), 1e-12))
    return worst


def settled(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detections in an order that rounding does not change, without those that score as the last one.

    A detector keeps a fixed number of the best; which of equals are the last of them is chance.
    """
    scores, boxes = one["scores"].tolist(), one["boxes"].tolist()
    above = [i for i, score in enumerate(scores) if score > scores[-1] * (1 + 1e-9)]
    above.sort(key=lambda i: (-round(scores[i], 9), [round(x, 6) for x in boxes[i]]))
    return {key: value[above] for key, value in one.items()}


def some(program: graphc.Program) -> dict[Axis, list[int]]:
    """A random share of the units of each axis on which masking and slicing are the same."""
    generator = torch.Generator().manual_seed(SEED)
    axes = [a for a in graphc.find_axes(program) if a.pinned is None and not a.mixed]
    keep = {axis: max(1, round((1 - RATIO) * axis.size)) for axis in axes}
    return {a: sorted(torch.randperm(a.size, generator=generator)[:n].tolist()) for a, n in keep.items()}


def moved(before: graphc.Program, after: graphc.Program) -> float:
    """Relative change of a program's outputs by a cut."""
    args, kwargs = before.example()
    with torch.no_grad():
        pairs = [torch.utils._pytree.tree_leaves(program(*args, **kwargs)) for program in (before, after)]
    first, second = (torch.cat([value.flatten() for value in values]) for values in pairs)
    return float((first - second).norm() / first.norm())


def compressed(program: graphc.Program) -> graphc.Program:
    """A part after the passes that have something to cut in it."""
    roles = [a.roles for a in graphc.find_axes(program) if a.pinned is None and not a.mixed]
    passes: list[Pass] = []
    if any(role & {"filters", "groups"} for role in roles):
        passes.append(PruneFilters(pruning_ratio=RATIO))
    if any("width" in role and not role & {"filters", "groups"} for role in roles):
        passes.append(PruneWidth(pruning_ratio=RATIO))
    return graphc.compile(program, passes=passes).program


def refused(model: nn.Module, first: str) -> bool:
    """Does capture of the whole detector say which part to capture?"""
    try:
        with warnings.catch_warnings(action="ignore"):
            graphc.capture(model, (images(SIZES[0]),), dynamic={})
    except CaptureError as error:
        return f"graphc.capture_part(model, {first!r}" in error.hint and "number of boxes" in error.why
    return False


def emitted(parts: Mapping[str, graphc.Program]) -> float:
    """Largest relative error of any part as an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        return max(graphc.emit(part, Path(folder) / f"{path}.onnx").error for path, part in parts.items())


def prove(name: str, only: Sequence[str] = (), quick: bool = False) -> Result:
    """All proofs for one detector.

    Args:
        only: the parts to take; all, if none is given.
        quick: leave out the refusal of the whole and ONNX.
    """
    start = time.perf_counter()
    model = build(name)
    given = (images(SIZES[0]),)
    paths = only or graphc.find_parts(model, given)
    parts = {path: graphc.capture_part(model, path, given) for path in paths}
    same = gap(detect(model), detect(graphc.put_parts(model, parts)))
    kept = {path: some(part) for path, part in parts.items()}
    sliced = {path: graphc.slice(parts[path], kept[path]) for path in paths}
    masked = {path: graphc.mask(parts[path], kept[path]) for path in paths}
    cut = detect(graphc.put_parts(model, sliced))
    error = gap(detect(graphc.put_parts(model, masked)), cut)
    no = quick or refused(model, paths[0])

    single = copy.deepcopy(model).float()
    given = ([image.float() for image in given[0]],)
    smaller = {path: compressed(graphc.capture_part(single, path, given)) for path in paths}
    detector = graphc.put_parts(single, smaller)
    params = [sum(p.numel() for p in m.parameters()) for m in (detector, single)]
    return Result(
        name=name,
        parts=paths,
        refused=no,
        same=same,
        axes=sum(map(len, kept.values())),
        error=error,
        cut=count(cut),
        moved=moved(parts[paths[0]], sliced[paths[0]]),
        boxes=count(detect(detector)),
        params=params[0] / params[1],
        onnx=0.0 if quick else emitted(smaller),
        seconds=time.perf_counter() - start,
    )


def good(result: Result) -> bool:
    """Does a result hold? A detector without boxes, or a cut that moves nothing, would prove nothing."""
    gaps = result.same <= 1e-9 and result.error <= 1e-9 and result.onnx <= 1e-4
    return gaps and result.refused and result.moved >= 1e-3 and min(result.cut, result.boxes) >= ENOUGH


def main() -> int:
    """Prove all detectors, or those whose names begin with a word given; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("detectors", nargs="*")
    chosen = parser.parse_args().detectors
    console = Console(width=190)
    console.print(environment(), f"seed {SEED}")
    columns = (
        "whole refused",
        "put back",
        "axes",
        "sliced vs masked",
        "boxes",
        "cut moved",
        "pruned: boxes",
        "params",
        "ONNX",
        "s",
    )
    table = Table("detector", "parts", *columns)
    results: list[Result] = []
    for name in (n for n in DETECTORS if not chosen or any(n.startswith(word) for word in chosen)):
        console.print(name)
        results.append(prove(name))
    for r in results:
        table.add_row(
            r.name,
            ", ".join(r.parts),
            "yes" if r.refused else "NO",
            f"{r.same:.1e}",
            f"{r.axes}",
            f"{r.error:.1e}",
            f"{r.cut}",
            f"{r.moved:.0%}",
            f"{r.boxes}",
            f"{r.params:.0%}",
            f"{r.onnx:.1e}",
            f"{r.seconds:.0f}",
        )
    console.print(table)
    console.print(f"{sum(map(good, results))} of {len(results)} hold")
    return 0 if results and all(map(good, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
