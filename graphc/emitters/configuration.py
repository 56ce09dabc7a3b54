"""The config of a Hugging Face model: fields that make the sizes that its tensors now have, found by building it."""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from graphc.emitters.layers import Kept, renamed

BUILDS = 120
"""How many models (on the meta device, without memory) are built before giving up."""

Path = tuple[str | int, ...]
"""Where a value stands in a config: names of attributes; a last int is a place in a list."""
Move = tuple[tuple[Path, Any], ...]
"""New values of fields that change together."""
Shapes = Mapping[str, tuple[int, ...]]


def is_configured(module: nn.Module) -> bool:
    """Is this a model whose class makes it from a config, as Hugging Face's do?"""
    return all(hasattr(module, name) for name in ("from_pretrained", "save_pretrained")) and hasattr(
        getattr(module, "config", None), "to_dict"
    )


def fit_configs(module: nn.Module, original: nn.Module, kept: Kept) -> None:
    """Set fields of configs so that their classes make exactly the sizes that the models have.

    The number of layers, and lists with an entry for each, follow the layers that stay. Sizes follow
    where some values of the fields make all of them; else they stay as they are.

    Args:
        module: the copy, filled and restated; a Hugging Face model or what has some inside. Only
            configs are changed.
        original: what it is a copy of.
        kept: the layers that were taken out.
    """
    fitted: list[str] = []
    for path, part in original.named_modules():
        if is_configured(part) and renamed(path, kept) is not None and not _within(path, fitted):
            fitted.append(path)
            _fit(module.get_submodule(renamed(path, kept) or ""), _depths(original, kept, path))


def _within(path: str, outer: list[str]) -> bool:
    return any(not above or path.startswith(f"{above}.") for above in outer)


def _fit(module: nn.Module, depths: Sequence[Sequence[bool]]) -> None:
    moves, _ = _search(module, lambda config, found, wanted: _depth_moves(config, depths))
    for move in moves:
        _apply(module.config, move)
    moves, found = _search(module, lambda config, found, wanted: _size_moves(module, config, found, wanted))
    for move in moves if found == _shapes(module) else ():
        _apply(module.config, move)


def misfits(module: nn.Module) -> list[str]:
    """Sizes that the class makes otherwise whatever the config says, in words; empty if there are none."""
    _, found = _search(module, lambda config, found, wanted: _size_moves(module, config, found, wanted))
    if found is None:
        return [f"{type(module).__name__} cannot be made from its config alone"]
    return list(_in_words(found, _shapes(module)))


def _search(
    module: nn.Module, moves: Callable[[Any, Shapes, Shapes], Iterator[Move]]
) -> tuple[list[Move], Shapes | None]:
    """Moves of which each made fewer sizes misfit, and the shapes that the class makes after them."""
    wanted, trial = _shapes(module), copy.deepcopy(module.config)
    found, done, left = _built(module, trial), list[Move](), BUILDS
    improved = found is not None
    while improved and found is not None and _misfit(found, wanted):
        improved = False
        for move in itertools.islice(moves(trial, found, wanted), left):
            left -= 1
            attempt = copy.deepcopy(trial)
            made = _built(module, attempt) if _apply(attempt, move) else None
            if made is not None and _misfit(made, wanted) < _misfit(found, wanted):
                trial, found, done, improved = attempt, made, [*done, move], True
                break
    return done, found


def _in_words(found: Shapes, wanted: Shapes) -> Iterator[str]:
    """Sizes that differ, those of the same part of several layers together."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            key = (re.sub(r"\.\d+\.", ".*.", name), _size(wanted.get(name)), _size(found.get(name)))
            alike.setdefault(key, []).append(".".join(re.findall(r"\.(\d+)\.", name)))
    for (name, has, makes), places in alike.items():
        of = f" (* = {', '.join(places)})" if "*" in name else ""
        yield f"{name}{of} is {has}, the config makes {makes}"


def _size(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))


def _shapes(module: nn.Module) -> Shapes:
    """The shape of every tensor that is saved, by name."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _built(module: nn.Module, config: Any) -> Shapes | None:
    """The shapes that the module's class makes from a config as it is read back; None if either refuses it."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return _shapes(type(module)(type(config).from_dict(copy.deepcopy(config.to_dict()))))
    except Exception:  # noqa: BLE001 - a class may refuse a config, or not be made from one, in any way
        return None


def _misfit(found: Shapes, wanted: Shapes) -> int:
    """How many sizes differ; a tensor that only one of them has counts with all its dims and one more."""
    count = 0
    for name in {**found, **wanted}:
        a, b = found.get(name), wanted.get(name)
        if a is None or b is None or len(a) != len(b):
            count += 1 + len(a or b or ())
        else:
            count += sum(x != y for x, y in zip(a, b, strict=True))
    return count


def _depths(original: nn.Module, kept: Kept, within: str) -> list[list[bool]]:
    """For each list in a part of the model that lost layers, which stay."""
    lists = (path for path in kept if isinstance(original.get_submodule(path), (nn.ModuleList, nn.Sequential)))
    return [[name is not None for name in kept[path].values()] for path in lists if _within(path, [within])]


def _depth_moves(config: Any, depths: Sequence[Sequence[bool]]) -> Iterator[Move]:
    """Fewer layers, and of every list with an entry for each layer those of the layers that stay."""
    for stay in depths:
        lists = [
            (path, [v for v, s in zip(value, stay, strict=True) if s]) for path, value in _lists(config, len(stay))
        ]
        for path, value in _numbers(config):
            if value == len(stay):
                yield ((path, sum(stay)), *lists)


def _size_moves(module: nn.Module, config: Any, found: Shapes, wanted: Shapes) -> Iterator[Move]:
    """Changes that may help, the likeliest first.

    What the model's parts hold under the field's name (or under ``head_dim``, which many a config
    may have besides its own fields); sizes in proportion to what misfits most; fields left open.
    """
    fields = list(_numbers(config))
    common = [name for name in wanted if len(found.get(name, ())) == len(wanted[name])]
    pairs = Counter((a, b) for name in common for a, b in zip(found[name], wanted[name], strict=True) if a != b)
    for name, value in _held_by_all(module) if pairs else ():
        if getattr(config, name, None) != value:
            yield (((name,), value),)
    for ratio in dict.fromkeys(Fraction(b, a) for (a, b), _ in pairs.most_common()):
        for path, value in fields:
            new = value * ratio
            if isinstance(value, float) or new.denominator == 1:
                yield ((path, float(new) if isinstance(value, float) else int(new)),)
    for size in dict.fromkeys(b for (_, b), _ in pairs.most_common()):
        for path in _empty(config):
            yield ((path, size),)


def renumbered_fields(before: Any, after: Any) -> set[tuple[Any, Any]]:
    """(old, new) value of every number that two configs of the same fields hold differently."""
    old = dict(_numbers(before))
    return {(old[path], value) for path, value in _numbers(after) if path in old and old[path] != value}


def _numbers(config: Any, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Ints and floats, no tokens, that may be sizes or their ratios, in the config, its lists and inner configs."""
    for name, value in vars(config).items():
        if name.startswith("_") or name.endswith("_id"):
            continue
        if hasattr(value, "to_dict"):
            yield from _numbers(value, (*above, name))
        entries = enumerate(value) if isinstance(value, list) else ()
        for place, entry in (((*above, name), value), *(((*above, name, i), e) for i, e in entries)):
            if type(entry) in (int, float) and entry >= 1:
                yield place, entry


def _lists(config: Any, length: int, above: Path = ()) -> Iterator[tuple[Path, list[Any]]]:
    """Lists with an entry for each layer: kinds of layers, windows."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _lists(value, length, (*above, name))
        elif isinstance(value, list) and len(value) == length and not name.startswith("_"):
            yield (*above, name), value


def _held_by_all(module: nn.Module) -> list[tuple[str, int]]:
    """Ints that the model's own parts hold under one name, where all that have the name agree."""
    held: dict[str, set[int]] = {}
    for part in module.modules():
        for name, value in () if type(part).__module__.startswith("torch.") else vars(part).items():
            if type(value) is int and value > 0 and not name.startswith("_"):
                held.setdefault(name, set()).add(value)
    return [(name, values.pop()) for name, values in held.items() if len(values) == 1]


def _empty(config: Any) -> Iterator[Path]:
    """Fields without a value, which is then worked out from others."""
    names = (name for name, value in vars(config).items() if value is None)
    yield from ((name,) for name in names if not name.startswith("_") and not name.endswith("_id"))


def _apply(config: Any, move: Move) -> bool:
    """Set fields of a config, which may refuse a value."""
    try:
        for (*above, name), value in move:
            holder = config
            for step in above:
                holder = getattr(holder, str(step))
            if isinstance(holder, list):
                holder[int(name)] = value
            else:
                setattr(holder, str(name), value)
    except Exception:  # noqa: BLE001 - a config may check what is set, and refuse in any way
        return False
    return True
