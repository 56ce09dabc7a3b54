"""What ONNX files compute beforehand: all that does not store a tensor twice."""

from __future__ import annotations

import onnx_ir
from onnxscript.optimizer import optimize_ir
from onnxscript.rewriter import onnx_fusions


def optimize(model: onnx_ir.Model) -> None:
    """As torch.onnx does it, but a tensor that is read turned and as it is, as a tied head is, stays one tensor.

    Where the file is loaded, onnxruntime turns it once.
    """
    optimize_ir(model, should_fold=_may_fold)
    onnx_fusions.fuse(model)


def _may_fold(node: onnx_ir.Node) -> bool | None:
    """No, or as sizes say."""
    if node.op_type != "Transpose" or node.inputs[0] is None:
        return None
    ways = {(user.op_type, str(user.attributes.get("perm"))) for user in node.inputs[0].consumers()}
    return None if len(ways) == 1 else False
