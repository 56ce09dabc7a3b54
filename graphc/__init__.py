"""graphc: a declarative model-graph transformation compiler for PyTorch."""

from graphc.coupling import find_axes, mask, slice
from graphc.errors import GraphError
from graphc.ir.capture import capture
from graphc.ir.program import Program

__all__ = ["GraphError", "Program", "capture", "find_axes", "mask", "slice"]
