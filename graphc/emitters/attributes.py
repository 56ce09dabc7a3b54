"""Attributes that repeat sizes under any name: candidates are read off the two graphs, and the comparison decides."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphc.emitters.restate import Rename
from graphc.ir.capture import capture, evaluating
from graphc.ir.graph import module_path
from graphc.ir.program import Program

ATTEMPTS = 64
"""How many combinations of values are compared before giving up."""
CANDIDATES = 3
"""How many values are considered for one attribute, the most frequent ones."""

Pairs = list[tuple[int, int]]
"""Sizes in the original and what became of each."""


@dataclass(frozen=True)
class Group:
    """One attribute of all modules, or of all configs, of one class.

    Attributes:
        name: the attribute's name.
        options: ways of setting it, best first; each gives a value for every holder.
        kept: the option that leaves it as it was.
    """

    name: str
    options: tuple[tuple[tuple[Any, Any], ...], ...]
    kept: int

    def choose(self, option: int) -> None:
        """Set the attribute everywhere."""
        for holder, value in self.options[option]:
            setattr(holder, self.name, value)


class Evidence:
    """Which attributes a model's forward reads, and what became of sizes; gathered once, if at all."""

    def __init__(self, program: Program, original: nn.Module) -> None:
        self.program, self.original = program, original

    @cached_property
    def reads(self) -> list[tuple[Any, list[str], str]]:
        """(a module or its config, paths of the modules that have it, name) of every attribute that forward reads."""
        return _reads(self.program, self.original)

    @cached_property
    def pairs(self) -> Mapping[str, Pairs]:
        """By module path, the sizes in the module's own ops and tensors, before and after."""
        return _pairs(self.program, self.original)


def settle(module: nn.Module, evidence: Evidence, rename: Rename, proves: Callable[[], bool]) -> bool:
    """Find values of attributes with which the copy computes the program.

    Only attributes that forward reads, whose value is a size (or in proportion to one) in the ops
    of their own module, and that the comparison needs to be changed, are changed.

    Args:
        module: the copy, changed in place; is left in an undefined state if nothing is found.
        proves: whether the copy as it is now equals the program.

    Returns:
        Whether it does.
    """
    groups = list(_groups(module, evidence, rename))
    for chosen in itertools.islice(_combinations([len(group.options) for group in groups]), ATTEMPTS):
        for group, option in zip(groups, chosen, strict=True):
            group.choose(option)
        if proves():
            _undo_needless(groups, chosen, proves)
            return True
    return False


def _combinations(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All choices of one option for each, the first options first, then what differs at ever more places."""
    for differing in range(len(counts) + 1):
        for places in itertools.combinations(range(len(counts)), differing):
            ranges = [range(1, n) if i in places else range(1) for i, n in enumerate(counts)]
            yield from itertools.product(*ranges)


def _undo_needless(groups: Sequence[Group], chosen: Sequence[int], proves: Callable[[], bool]) -> None:
    """Put back what need not have changed: it only happened to be equal to a size."""
    for group, option in zip(groups, chosen, strict=True):
        group.choose(group.kept)
        if not proves():
            group.choose(option)


def _groups(module: nn.Module, evidence: Evidence, rename: Rename) -> Iterator[Group]:
    """Attributes that may need another value."""
    found: dict[tuple[type, str], list[tuple[Any, Any, list[Any]]]] = defaultdict(list)
    for holder, paths, name in evidence.reads:
        target = _counterpart(holder, paths, module, evidence.original, rename)
        if target is not None and name in vars(target):
            old = vars(holder)[name]
            values = _candidates(old, [pair for path in paths for pair in evidence.pairs.get(path, ())])
            found[type(target), name].append((target, old, values))
    for (_, name), holders in found.items():
        count = max(len(values) for *_, values in holders)
        if count:
            now = tuple((target, getattr(target, name)) for target, *_ in holders)
            new = [
                tuple(
                    (target, values[i] if i < len(values) else getattr(target, name)) for target, _, values in holders
                )
                for i in range(count)
            ]
            restated = any(getattr(target, name) != old for target, old, _ in holders)
            yield Group(name, (now, *new) if restated else (*new, now), 0 if restated else count)


def _counterpart(holder: Any, paths: Sequence[str], module: nn.Module, original: nn.Module, rename: Rename) -> Any:
    """The same module, or the same config, in the copy; None if it went with a layer."""
    path = next((path for path in paths if rename(path) is not None), None)
    if path is None:
        return None
    owner = module.get_submodule(rename(path) or "")
    return owner if original.get_submodule(path) is holder else getattr(owner, "config", None)


def _candidates(value: Any, pairs: Pairs) -> list[Any]:
    """What an int (or each int of a tuple or list) may have become: what its size did, else in proportion."""
    if isinstance(value, (tuple, list)) and value and all(type(v) is int for v in value):
        new = [next(iter(_candidates(v, [p for p in pairs if p[0] == v])), v) for v in value]
        return [type(value)(new)] if new != list(value) else []
    if type(value) is not int or value < 2:
        return []
    equal = Counter(b for a, b in pairs if a == value)
    scaled = Counter(value * b // a for a, b in pairs if a and value * b % a == 0)
    ordered = [*(b for b, _ in equal.most_common()), *(b for b, _ in scaled.most_common())]
    return [b for b in dict.fromkeys(ordered) if b not in (value, 0)][:CANDIDATES]


def _reads(program: Program, original: nn.Module) -> list[tuple[Any, list[str], str]]:
    """As ``Evidence.reads``; modules of torch itself are left out."""
    holders: dict[int, tuple[Any, list[str]]] = {}
    for path, module in original.named_modules(remove_duplicate=False):
        if not type(module).__module__.startswith("torch."):
            for holder in (module, getattr(module, "config", None)):
                if hasattr(holder, "__dict__"):
                    holders.setdefault(id(holder), (holder, []))[1].append(path)
    args, kwargs = program.example()
    kinds: set[Any] = {nn.Module}
    kinds |= {type(holder) for holder, _ in holders.values() if not isinstance(holder, nn.Module)}
    with evaluating(original), _watched(kinds) as log:
        original(*args, **kwargs)
    reads: dict[tuple[int, str], tuple[Any, list[str], str]] = {}
    for key, name in log:
        if key in holders:
            holder, paths = holders[key]
            name = getattr(type(holder), "attribute_map", {}).get(name, name)
            if name in vars(holder) and not name.startswith("_"):
                reads[key, name] = (holder, paths, name)
    return list(reads.values())


@contextlib.contextmanager
def _watched(kinds: set[Any]) -> Iterator[dict[tuple[int, str], None]]:
    """Note each attribute that is read from an instance of the classes, as (id, name), in order."""
    log: dict[tuple[int, str], None] = {}
    own = {kind: vars(kind).get("__getattribute__") for kind in kinds}

    def noting(plain: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def read(self: Any, name: str) -> Any:
            log[id(self), name] = None
            return plain(self, name)

        return read

    for kind in kinds:
        kind.__getattribute__ = noting(kind.__getattribute__)
    try:
        yield log
    finally:
        for kind, method in own.items():
            if method is None:
                del kind.__getattribute__
            else:
                kind.__getattribute__ = method


def _pairs(program: Program, original: nn.Module) -> Mapping[str, Pairs]:
    args, kwargs = program.example()
    dynamic = {name: dims for name, dims in program.contract.dynamic.items() if dims is not None}
    before, after = _sizes(capture(original, args, kwargs, dynamic=dynamic)), _sizes(program)
    found: dict[str, Pairs] = defaultdict(list)
    for (path, what), old in before.items():
        new = after.get((path, what), [])
        if len(old) == len(new):
            found[path] += [(a, b) for a, b in zip(old, new, strict=True) if type(a) is int is type(b)]
    return found


def _sizes(program: Program) -> dict[tuple[str, str], list[Any]]:
    """By module path and op (or tensor), all arguments and sizes of results, in the order of the graph."""
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        sizes = list(value.shape) if isinstance(value, torch.Tensor) else []
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            found[path, name] += sizes
        elif node.op == "call_function":
            found[module_path(node), str(node.target)] += [*pytree.tree_leaves((node.args, node.kwargs)), *sizes]
    return found
