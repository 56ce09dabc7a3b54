"""Sub-networks as other projects write them: Once-for-All, AttentiveNAS and BigNAS, mmrazor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from graphc.errors import RecipeError, nearest

from .requests import Asked, Request
from .stagewise import attentive, mmrazor
from .supernet import Supernet

OFA = ("ks", "e", "d", "w")
ATTENTIVE = ("kernel_size", "expand_ratio", "depth", "width")
LISTS = ("depth_list", "width_mult_list")
RESOLUTION = ("r", "image_size", "resolution", "input_shape")
"""What inputs are like; the program has its own."""


def read_config(source: str | Mapping[str, Any], net: Supernet, where: str) -> Request:
    """What a sub-network of another project asks for.

    Args:
        source: a mapping, or the path of a YAML or JSON file with one: Once-for-All's ``{ks, e, d, w}``, with
            ``depth_list`` and ``width_mult_list`` where its numbers count from those; AttentiveNAS's ``{kernel_size,
            expand_ratio, depth, width}`` with one value a stage; mmrazor's ``{path: {chosen: value}}``.
        net: what it is for.
        where: for errors.

    Raises:
        RecipeError: the file cannot be read, the format is not known, or it is of another network.
    """
    values = _load(source, where) if isinstance(source, str) else source
    values = {str(key): value for key, value in values.items() if key not in RESOLUTION}
    if values and all(isinstance(value, Mapping) and "chosen" in value for value in values.values()):
        chosen = {key: value["chosen"] for key, value in values.items()}
        _check(chosen, where, lists=False)
        return mmrazor(chosen, net, where)
    for keys, read in (((*OFA, *LISTS), _ofa), (ATTENTIVE, attentive)):
        if values.keys() & set(keys):
            unknown = next((key for key in values if key not in keys), None)
            if unknown is not None:
                raise RecipeError(
                    f"the config has an unknown key {unknown!r}", where=where, hint=nearest(unknown, keys)
                )
            _check(values, where, single=read is _ofa)
            return read({key: value for key, value in values.items() if value is not None}, net, where)
    formats = f"{{{', '.join(OFA)}}}, {{{', '.join(ATTENTIVE)}}} or {{path: {{chosen: value}}}}"
    raise RecipeError("the config is of no known format", where=where, why=f"its keys are {list(values)}", hint=formats)


def _check(values: Mapping[str, Any], where: str, single: bool = True, lists: bool = True) -> None:
    """See that values are numbers, or lists with a number or null for each.

    Raises:
        RecipeError: one is something else.
    """
    for key, value in values.items():
        listed = isinstance(value, (list, tuple))
        parts = value if listed else [value]
        allowed = value is None or (lists if listed else single)
        if not allowed or not all(v is None or _is_number(v) for v in parts):
            hint = " or ".join(["a number"] * single + ["a list of numbers"] * lists)
            raise RecipeError(f"{key} of the config cannot be {value!r}", where=where, hint=f"it is {hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _load(path: str, where: str) -> Mapping[Any, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read the config {path!r}", where=where, why=str(error)) from error
    if not isinstance(values, Mapping):
        raise RecipeError(f"the config {path!r} is no mapping", where=where)
    return values


def _ofa(values: Mapping[str, Any], net: Supernet, where: str) -> Request:
    """Cai et al. 2020: lists by block and stage; of ResNets depths and widths count from lists of the supernet."""
    depth, width = values.get("d"), values.get("w")
    if depth is not None and net.stem:
        depth = _counted_down(depth, net, _list_of(values, "depth_list", "d", where), where)
    elif isinstance(depth, Sequence) and len(depth) == len(net.stages):
        sizes = [len(stage.names) for stage in net.stages]
        depth = [d if d is None else min(d, size) for d, size in zip(depth, sizes, strict=True)]
    if width is not None:
        width = _multiplied(width, net, _list_of(values, "width_mult_list", "w", where), where)
    return Request(values.get("ks"), values.get("e"), width, depth, where)


def _list_of(values: Mapping[str, Any], key: str, of: str, where: str) -> list[float]:
    found = values.get(key)
    if not isinstance(found, Sequence) or not found:
        why = f"the numbers under `{of}` count from what the supernet was built with"
        raise RecipeError(f"the config needs {key}", where=where, why=why, hint=f"{key}: [...], as in the constructor")
    return sorted(found)


def _counted_down(depth: Any, net: Supernet, choices: Sequence[float], where: str) -> Asked:
    """The first number is for the stem, which all but the most skip; the others count the blocks beyond the least."""
    sizes = [len(stage.names) for stage in net.stages]
    given = list(depth) if isinstance(depth, Sequence) else [depth] * (1 + len(sizes))
    if len(given) != 1 + len(sizes):
        why = f"the stem and {len(sizes)} stages take one number each"
        raise RecipeError(f"d is a list of {len(given)}", where=where, why=why)
    for value in given:
        if value is not None and value not in choices:
            raise RecipeError(f"d cannot be {value}", where=where, why=f"depth_list is {list(choices)}")
    most = choices[-1]
    stem = {} if given[0] in (None, most) else {layer.name: 0 for layer in net.stem}
    pairs = zip(net.stages, given[1:], strict=True)
    return {**stem, **{s.name: len(s.names) - int(most - d) for s, d in pairs if d is not None}}


def _multiplied(width: Any, net: Supernet, choices: Sequence[float], where: str) -> Asked:
    """Indices into the multipliers, as shares of what there is now."""
    count = len(net.streams)
    given = list(width) if isinstance(width, Sequence) else [width] * count
    for value in given:
        if value is not None and value not in range(len(choices)):
            raise RecipeError(f"w cannot be {value}", where=where, why=f"it is an index into {list(choices)}")
    return [None if i is None else choices[i] / choices[-1] for i in given]
