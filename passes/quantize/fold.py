"""Batch norms in evaluation are affine: they become part of the convolution or linear layer beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from graphc.ir.edit import STATISTICS, TRAINING_FLAG, rebuild, unused_name
from graphc.ir.program import Program

from ..affine import ADDMM, CONV, LINEAR, Affine, affine, constant, read_once

BATCH_NORM = torch.ops.aten.batch_norm.default


def fold_batch_norms(program: Program) -> Program:
    """The same function with batch norms folded into weights and biases, computed in double precision.

    A norm in evaluation whose input is a convolution, a transposed one or a linear layer is folded into
    that; else one that a linear layer or a convolution without padding reads, into the reader. The
    value between the two must have no other reader, and the weight no other use. Masks stay on their
    weights: scaled zeros are zeros. Weights keep their names; a bias where there was none is called
    ``<module>.bias``. Norms that stay are those for which this does not hold.
    """
    folding = _Folding(program, program.tensors())
    return rebuild(program, folding.edit, tensors=folding.tensors)


@dataclass
class _Folding:
    program: Program
    tensors: dict[str, torch.Tensor]

    def edit(self, graph: Graph) -> None:
        once = read_once(graph)
        for fold in (self._into_maker, self._into_reader):
            for node in list(graph.nodes):
                if node.target is BATCH_NORM and _is_affine(node) and fold(node, once):
                    node.replace_all_uses_with(node.args[0])
                    graph.erase_node(node)

    def _into_maker(self, norm: Node, once: set[str]) -> bool:
        layer = self._layer(norm.args[0], once)
        if layer is None or layer.dim != 1 or len(layer.node.users) != 1:
            return False
        gain, shift = self._gain_and_shift(norm)
        self._put(layer, layer.scale_rows(self._double(layer.weight), gain), self._bias(layer) * gain + shift, once)
        return True

    def _into_reader(self, norm: Node, once: set[str]) -> bool:
        layer = self._layer(next(iter(norm.users), None), once)
        if layer is None or layer.dim != 1 or len(norm.users) != 1 or layer.data is not norm or not _is_even(layer):
            return False
        gain, shift = self._gain_and_shift(norm)
        weight = layer.by_row(constant(layer.operand, self.tensors).double())
        bias = self._bias(layer) + torch.einsum("goik, gi -> go", weight, shift.reshape(layer.groups, -1)).flatten()
        self._put(layer, layer.scale_columns(self._double(layer.weight), gain), bias, once)
        return True

    def _layer(self, node: object, once: set[str]) -> Affine | None:
        """A layer that can take a norm: it can have a bias by unit, and its weight is its own."""
        layer = affine(self.program, node) if isinstance(node, Node) else None
        if layer is None or layer.form.bias is None or layer.weight not in once:
            return None
        bias = layer.bias
        return layer if bias is None or (bias.op == "get_attr" and self.tensors[str(bias.target)].dim() == 1) else None

    def _gain_and_shift(self, norm: Node) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm as ``gain * x + shift``, both ``[channels]``."""
        weight, bias, mean, variance = (self._double(a.target) if isinstance(a, Node) else None for a in norm.args[1:5])
        assert mean is not None
        assert variance is not None
        gain = (variance + norm.args[7]).rsqrt()  # type: ignore[operator] # eps, a number
        gain = gain if weight is None else gain * weight
        return gain, -mean * gain if bias is None else bias - mean * gain

    def _bias(self, layer: Affine) -> torch.Tensor:
        zero = self._double(layer.weight).new_zeros(layer.node.meta["val"].shape[layer.dim])
        return zero if layer.bias is None else zero + self._double(layer.bias.target)

    def _double(self, name: object) -> torch.Tensor:
        return self.tensors[str(name)].detach().double()

    def _put(self, layer: Affine, weight: torch.Tensor, bias: torch.Tensor, once: set[str]) -> None:
        """Give a layer its new tensors; a bias that others read stays theirs."""
        old = self.tensors[layer.weight]
        name = str(layer.bias.target) if layer.bias is not None else ""
        if name not in once:
            name = unused_name(".".join([*layer.weight.split(".")[:-1], "bias"]), self.tensors)
            once.add(name)
            with layer.node.graph.inserting_before(layer.node):
                layer.put_bias(layer.node.graph.create_node("get_attr", name, name=name.replace(".", "_")))
        self.tensors[layer.weight] = torch.nn.Parameter(weight.to(old.dtype), old.requires_grad)
        self.tensors[name] = torch.nn.Parameter(bias.to(old.dtype), old.requires_grad)


def _is_affine(norm: Node) -> bool:
    """Is it in evaluation, with statistics, and are all of its tensors the program's own?"""
    training = norm.args[TRAINING_FLAG[BATCH_NORM]]
    statistics = [norm.args[i] for i in STATISTICS[BATCH_NORM]]
    tensors = [a for a in norm.args[1:5] if a is not None]
    return not training and None not in statistics and all(isinstance(a, Node) and a.op == "get_attr" for a in tensors)


def _is_even(layer: Affine) -> bool:
    """Does each place of the result see the same weights? Not at the borders of a padded image."""
    if layer.form is not CONV:
        return layer.form in (LINEAR, ADDMM)
    padding = layer.node.args[4] if len(layer.node.args) > 4 else 0
    return padding in ("valid", 0) or (isinstance(padding, (list, tuple)) and not any(padding))
