"""Origins: which ops of an ONNX file each op is made of that onnxruntime runs, and of which modules those are.

torch.onnx notes with every op the path of the module that it is of. onnxruntime fuses ops and notes nothing: but
values that are still there after it keep their names, so that an op which gives a value does the work of all ops
between that value and the others that are still there.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence

from onnx import GraphProto, NodeProto

from graphc.measure.placement import PRODUCT

SCOPES = "pkg.torch.onnx.name_scopes"
"""The key under which torch.onnx notes paths: of every module around an op, and the op's own name at the end."""
BLOCKED = "_nchwc"
"""What onnxruntime adds to the name of a value for the op that gives it with its channels in blocks."""


def origins(original: GraphProto, optimised: GraphProto) -> dict[str, tuple[NodeProto, ...]]:
    """For each op that runs, by name, the ops of the file that it does the work of; those that multiply come first."""
    makers = {name: node for node in original.node for name in node.output if name}
    named = {node.name: node for node in original.node}
    nodes = list(walk_nodes(optimised))
    there = {value for node in nodes for value in _values(node, makers)}
    found = {}
    for node in nodes:
        ends = [makers[value] for value in _values(node, makers)]
        ends = ends or ([named[node.name]] if node.name in named else [])
        inside = _between(ends, there, makers)
        found[node.name] = tuple(sorted(inside, key=lambda n: not PRODUCT.search(n.op_type)))
    return found


def walk_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every op, also of graphs in others."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from walk_nodes(inner)


def _values(node: NodeProto, makers: Mapping[str, NodeProto]) -> list[str]:
    """The values of the file that an op gives."""
    if node.op_type == "ReorderOutput":  # it only changes the layout of what another op has computed
        return []
    plain = node.name.removesuffix(BLOCKED)
    return [*dict.fromkeys(name for name in (plain, *node.output) if name in makers and _is_value(name, node))]


def _is_value(name: str, node: NodeProto) -> bool:
    return name in node.output or node.name == name + BLOCKED


def _between(ends: Sequence[NodeProto], there: set[str], makers: Mapping[str, NodeProto]) -> list[NodeProto]:
    """Some ops, and those that they read whose values are not there any more."""
    found: dict[int, NodeProto] = {}
    left = list(ends)
    while left:
        node = left.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        left += [makers[name] for name in node.input if name in makers and name not in there]
    return list(found.values())


def module_of(node: NodeProto) -> str:
    """The path of the module that an op is of; of a file that notes none, what its name says of it."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
    if noted is None:
        return node.name.strip("/").rpartition("/")[0].replace("/", ".")
    scopes = [str(scope) for scope in ast.literal_eval(noted)]
    path = scopes[-2] if len(scopes) > 1 else ""
    return "" if path.startswith("_empty_nn_module_stack") else path


def modules_of(nodes: Sequence[NodeProto], parameters: Collection[str]) -> tuple[str, ...]:
    """Paths of modules, each once, without the root; given the names of parameters that one op alone reads.

    An op is of the modules that its parameters are of, too: a convolution that a norm was folded into is noted as
    the norm.
    """
    paths = []
    for node in nodes:
        paths += [name.rpartition(".")[0] for name in node.input if name in parameters]
        paths.append(module_of(node))
    return tuple(dict.fromkeys(filter(None, paths)))
