"""Names of values survive in artifacts: torch.export numbers them anew each time that it traces."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from difflib import SequenceMatcher

from torch.fx import GraphModule, Node

from graphc.ir.edit import unused_name
from graphc.ir.graph import copy_graph, module_path
from graphc.ir.program import Program
from graphc.ir.text import operator_name


def names_of(program: Program) -> list[list[str]]:
    """Of each computed value, in graph order: its name, the path of its module, its op."""
    return [[node.name, *_kind(node)] for node in _computed(program)]


def renamed(program: Program, recorded: Sequence[Sequence[str]]) -> Program:
    """The program whose values have the names that were recorded of it before it was written.

    Values are known by their order, module and op. Where the format says an op in others, the last of these has its
    name, and the others, which stand for no value of the recorded program, get names that no value had.

    Args:
        program: as it was read.
        recorded: what ``names_of`` gave; may be empty.
    """
    if not recorded:
        return program
    names = _aligned([_kind(node) for node in _computed(program)], recorded)
    taken = {name for name in names if name} | {str(entry[0]) for entry in recorded}
    found: dict[str, str] = {}
    for node, name in zip(_computed(program), names, strict=True):
        found[node.name] = name or unused_name(f"{node.name}_written", taken)
        taken.add(found[node.name])
    for node in program.graph.nodes:
        if node.name not in found and node.name in taken:
            found[node.name] = unused_name(node.name, taken)

    def rename(old: Node, new: Node) -> None:
        new.name = found.get(old.name, old.name)

    graph = copy_graph(copy_graph(program.graph, rename))  # the second copy also knows that the names are taken
    return dataclasses.replace(program, module=GraphModule(program.module, graph, "Program"))


def _computed(program: Program) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _kind(node: Node) -> tuple[str, str]:
    return module_path(node), operator_name(node)


def _aligned(kinds: Sequence[tuple[str, str]], recorded: Sequence[Sequence[str]]) -> list[str]:
    """For each value that was read its recorded name, or nothing."""
    before = [(path, op) for _, path, op in recorded]
    names = [""] * len(kinds)
    matcher = SequenceMatcher(None, before, list(kinds), autojunk=False)
    for tag, i, end, j, stop in matcher.get_opcodes():
        if tag == "equal":
            names[j:stop] = [str(entry[0]) for entry in recorded[i:end]]
        elif tag == "replace":
            names[stop - 1] = str(recorded[end - 1][0])
    return names
