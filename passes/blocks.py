"""Blocks that are alike: modules of one list, or regions, that do the same with tensors of their own.

Two blocks are alike if their graphs are isomorphic: walked backward from what leaves them, side by side, they
have the same ops with the same arguments, until both come to a tensor of the program, to a value from outside,
or to one and the same value. The walk tells which tensor of one is which tensor of the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map

from graphc.coupling import Analysis
from graphc.coupling.regions import Layer, alike, find_layers, own_tensors, parameter_dependent, stack_of
from graphc.ir.graph import attribute, module_path, source_line
from graphc.ir.text import operator_name

_NUMBER = re.compile(r"(^|\D)\d+$")


@dataclass(frozen=True)
class Block:
    """A region of the graph.

    Attributes:
        name: the module path, or ``entry..exit`` where no module is the region.
        nodes: its ops.
        exits: its values that are used outside, in graph order.
    """

    name: str
    nodes: frozenset[Node]
    exits: tuple[Node, ...]

    @property
    def stack(self) -> str:
        """What it has in common with those beside it, in whatever list that may be."""
        return "" if ".." in self.name else re.sub(r"\d+", "*", self.name)

    @property
    def is_compound(self) -> bool:
        """Do two ops or more read tensors of the program?"""
        return sum(any(n.op == "get_attr" for n in node.all_input_nodes) for node in self.nodes) > 1

    def layer(self) -> Layer:
        """The same as a layer, for criteria that score layers; it is not said that it can be stepped over."""
        outside = (n for node in self.nodes for n in node.all_input_nodes if n not in self.nodes)
        leave = self.exits[-1]
        return Layer(
            self.name, next((n for n in outside if alike(n, leave)), leave), leave, own_tensors(set(self.nodes))
        )


@dataclass(frozen=True)
class Family:
    """Blocks that are alike, in graph order.

    Attributes:
        blocks: two and more.
        tensors: for each the names of its tensors, by the names of the first block's; those that are
            one tensor in all of them are left out.
    """

    blocks: tuple[Block, ...]
    tensors: tuple[Mapping[str, str], ...]


class DifferenceError(Exception):
    """Two blocks are not alike; says where they first differ."""


def find_blocks(analysis: Analysis) -> list[Block]:
    """Every numbered module of the graph, of any depth; where there is none the layers that no module is."""
    dependent = parameter_dependent(analysis)
    found: dict[str, set[Node]] = defaultdict(set)
    for node in analysis.program.graph.nodes:
        parts = module_path(node).split(".") if node.op == "call_function" else []
        for i, part in enumerate(parts, 1):
            if _NUMBER.search(part):
                found[".".join(parts[:i])].add(node)
    if not found:
        order = dict(zip(dependent, range(len(dependent)), strict=True))
        for layer in find_layers(analysis):
            found[layer.name] = {n for n in dependent if order.get(layer.entry, -1) < order[n] <= order[layer.exit]}
    blocks = []
    for name, nodes in found.items():
        exits = [n for n in dependent if n in nodes and any(user not in nodes for user in n.users)]
        if exits:
            blocks.append(Block(name, frozenset(nodes), tuple(exits)))
    return sorted(blocks, key=lambda block: dependent[block.exits[-1]])


def outermost(blocks: Sequence[Block]) -> list[Block]:
    """Those that lie in no other one."""
    names = {block.name for block in blocks}
    return [b for b in blocks if not any(b.name.startswith(f"{name}.") for name in names)]


def families(analysis: Analysis, blocks: Sequence[Block]) -> list[Family]:
    """All families of two and more among blocks of one list each; of nested lists the outer ones.

    A single op with its tensors, such as a norm or a convolution, is no block here.
    """
    lists: dict[str, list[Block]] = defaultdict(list)
    for block in (block for block in blocks if block.is_compound):
        lists["" if ".." in block.name else stack_of(block.name)].append(block)
    found: list[Family] = []
    taken: set[str] = set()
    for _, members in sorted(lists.items(), key=lambda item: item[0].count(".")):
        free = [b for b in members if not any(b.name.startswith(f"{name}.") for name in taken)]
        for family in _classes(analysis, free):
            found.append(family)
            taken.update(block.name for block in family.blocks)
    return found


def family(analysis: Analysis, blocks: Sequence[Block]) -> Family:
    """Blocks as one family.

    Raises:
        DifferenceError: they are not alike.
    """
    return _family([(block, match(analysis, blocks[0], block)) for block in blocks])


def _family(members: Sequence[tuple[Block, Mapping[str, str]]]) -> Family:
    own = {name: name for _, names in members for name in names}
    return Family(tuple(block for block, _ in members), tuple({**own, **names} for _, names in members))


def _classes(analysis: Analysis, blocks: Iterable[Block]) -> Iterator[Family]:
    """Each block beside the first that it is like."""
    classes: list[list[tuple[Block, Mapping[str, str]]]] = []
    for block in blocks:
        for members in classes:
            try:
                members.append((block, match(analysis, members[0][0], block)))
                break
            except DifferenceError:
                continue
        else:
            classes.append([(block, {})])
    for members in classes:
        if any(names for _, names in members):
            yield _family(members)


def match(analysis: Analysis, first: Block, second: Block) -> dict[str, str]:
    """Which tensor of the second block each tensor of the first one is.

    What one of them computes for others too, as the first layer of a T5 does its position bias, and what goes
    into that, needs no counterpart.

    Raises:
        DifferenceError: they are not alike; says where they first differ, in graph order.
    """
    order = {node: i for i, node in enumerate(analysis.program.graph.nodes)}
    pairs = [(a, b, a) for a, b in zip(reversed(first.exits), reversed(second.exits), strict=False)]
    partners: tuple[dict[Node, Node], dict[Node, Node]] = ({}, {})
    differences: dict[Node, str] = {}
    names: dict[str, str] = {}
    while pairs:
        a, b, reader = pairs.pop()
        if a is b or (a not in first.nodes and b not in second.nodes and a.op != "get_attr"):
            continue
        known = _known(first, second, (a, b), partners)
        if known == "":
            continue
        difference = known or _difference(first, second, a, b)
        if difference and a.op == "get_attr":
            differences[reader] = difference  # says more than that the results differ
        elif difference:
            differences.setdefault(a, difference)
        if known or _form(a) != _form(b) or (a in first.nodes) != (b in second.nodes):
            continue
        partners[0][a], partners[1][b] = b, a
        if a.op == "get_attr":
            names[str(a.target)] = str(b.target)
        pairs += [(v, w, a) for v, w in zip(_operands(a), _operands(b), strict=True)]
    if differences:
        raise DifferenceError(differences[min(differences, key=order.__getitem__)])
    _check_left(analysis, first, set(partners[0]), second.name)
    _check_left(analysis, second, set(partners[1]), first.name)
    return names


def _known(
    first: Block, second: Block, pair: tuple[Node, Node], partners: tuple[dict[Node, Node], dict[Node, Node]]
) -> str | None:
    """None for two nodes that were not met; else what is wrong with their being a pair, if anything is."""
    a, b = pair
    if a not in partners[0] and b not in partners[1]:
        return None
    others = partners[0].get(a, b), partners[1].get(b, a)
    if others[0] is not b:
        return f"{_place(first, a)} stands for both {others[0].name} and {b.name}"
    return "" if others[1] is a else f"{_place(second, b)} stands for both {others[1].name} and {a.name}"


def _difference(first: Block, second: Block, a: Node, b: Node) -> str:
    """How two nodes differ; nothing if they do the same."""
    inside = (a in first.nodes, b in second.nodes)
    if a.op != b.op or (a.op != "get_attr" and (inside[0] != inside[1] or a.target is not b.target)):
        return f"{_place(first, a)} stands where {_place(second, b)} does"
    if _form(a) != _form(b):
        return f"{_place(first, a)} and {_place(second, b)} have other arguments: {a.args} and {b.args}"
    kinds = [_kind(node) for node in (a, b)]
    return "" if kinds[0] == kinds[1] else f"{_place(first, a)} is {kinds[0]}, {_place(second, b)} is {kinds[1]}"


def _operands(node: Node) -> list[Node]:
    """All values that it reads, one as often as it does."""
    return [value for value in tree_leaves((node.args, dict(node.kwargs))) if isinstance(value, Node)]


def _form(node: Node) -> object:
    """What it is, how its arguments are arranged, and what those are that are no values of the graph."""
    plain = tree_map(lambda v: Node if isinstance(v, Node) else v, (node.args, dict(node.kwargs)))
    return node.op, None if node.op == "get_attr" else node.target, plain


def _check_left(analysis: Analysis, block: Block, matched: set[Node], other: str) -> None:
    """No tensor is left over but for those that go into values for others.

    Raises:
        DifferenceError: one is.
    """
    for node in block.nodes - matched:
        for source in node.all_input_nodes:
            if source.op != "get_attr" or source in matched or _is_for_others(node, block, matched):
                continue
            if isinstance(attribute(analysis.program.module, str(source.target)), torch.Tensor):
                raise DifferenceError(f"{block.name} reads {source.target}, and {other} has nothing that stands for it")


def _is_for_others(node: Node, block: Block, matched: set[Node]) -> bool:
    """Does a value of a block come to be used outside?"""
    stack, seen = [node], {node}
    while stack:
        for user in stack.pop().users:
            if user not in block.nodes or user in matched:
                return True
            if user not in seen:
                seen.add(user)
                stack.append(user)
    return False


def _place(block: Block, node: Node) -> str:
    what = str(node.target) if node.op == "get_attr" else operator_name(node) if node.op == "call_function" else node.op
    line = source_line(node)
    return f"{what} ({node.name} of {block.name}{', ' + line if line else ''})"


def _kind(node: Node) -> str:
    """Type and shape of a value."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    return type(value).__name__


def divided(members: Sequence[Block], groups: int) -> Iterator[range]:
    """Places of consecutive blocks that share, as evenly as can be (Lan et al. 2020, ALBERT: ``num_hidden_groups``)."""
    for group in range(groups):
        found = [i for i in range(len(members)) if i * groups // len(members) == group]
        yield range(found[0], found[-1] + 1)
