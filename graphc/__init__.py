"""graphc: a declarative model-graph transformation compiler for PyTorch."""

from graphc.coupling import find_axes, mask, slice
from graphc.coupling.explain import explain
from graphc.emitters.base import Artifact, Emitter, emit, load, register_emitter
from graphc.emitters.module import to_module
from graphc.emitters.pretrained import save_pretrained
from graphc.errors import GraphError
from graphc.ir.capture import capture
from graphc.ir.edit import fold_constants, redirect, set_training
from graphc.ir.hollow import capture_lazily, open_model
from graphc.ir.parts import capture_part, find_parts, put_parts
from graphc.ir.program import Program
from graphc.ir.verify import verify
from graphc.measure import benchmark, compare, cost
from graphc.pipeline.base import Context, Pass
from graphc.pipeline.run import Compilation, compile
from graphc.pipeline.tokens import TokenBatches, write_tokens
from graphc.rules import rule

__all__ = [
    "Artifact",
    "Compilation",
    "Context",
    "Emitter",
    "GraphError",
    "Pass",
    "Program",
    "TokenBatches",
    "benchmark",
    "capture",
    "capture_lazily",
    "capture_part",
    "compare",
    "compile",
    "cost",
    "emit",
    "explain",
    "find_axes",
    "find_parts",
    "fold_constants",
    "load",
    "mask",
    "open_model",
    "put_parts",
    "redirect",
    "register_emitter",
    "rule",
    "save_pretrained",
    "set_training",
    "slice",
    "to_module",
    "verify",
    "write_tokens",
]
