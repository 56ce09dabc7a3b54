"""Layers that stay in real numbers beside integers: onnxruntime must not make integers of their weights.

Its optimiser (WeightBiasQuantization) rounds the real weights of a convolution or a Gemm to 8 bits, one scale for
the whole tensor, wherever the layer reads a DequantizeLinear. An op between the two that changes nothing keeps it off.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from graphc.emitters.dequantize import made_near, read
from graphc.ir.functional import source_of
from graphc.ir.graph import attribute
from graphc.ir.kinds import kind
from graphc.ir.quantized import DEQUANTIZE

aten = torch.ops.aten
GEMM = {aten.addmm.default: (1, 2), aten.linear.default: (0, 1)}
"""Layers that ONNX has as a Gemm if their data is a matrix, with the places of data and weight."""
BESIDE = {"max_pool2d", "relu", "relu6", "hardtanh", "dropout"}
"""Ops besides views that onnxruntime swaps with a DequantizeLinear, or leaves out."""
FURTHEST = torch.finfo(torch.float32).max


def keep_real(module: GraphModule) -> None:
    """Put a clamp that changes nothing before each layer that has real weights and reads dequantised values."""
    for node in list(module.graph.nodes):
        places = (0, 1) if kind(node).startswith("conv") else GEMM.get(node.target)
        if places is None or not _is_real(module, read(node, places[1])):
            continue
        data = read(node, places[0])
        if not _is_dequantised(data) or (node.target in GEMM and data.meta["val"].dim() != 2):
            continue
        with module.graph.inserting_before(node):
            node.update_arg(places[0], made_near(module.graph, node, aten.clamp.default, data, -FURTHEST, FURTHEST))


def _is_real(module: GraphModule, weight: Node) -> bool:
    """Is a weight a tensor of real numbers, or a view of one?"""
    source: Node | None = weight
    while source is not None and source.op != "get_attr":
        source = source_of(source)
    return source is not None and attribute(module, str(source.target)).is_floating_point()


def _is_dequantised(value: Node) -> bool:
    source: Node | None = value
    while source is not None and source.target is not DEQUANTIZE:
        source = read(source) if kind(source) in BESIDE else source_of(source)
    return source is not None
