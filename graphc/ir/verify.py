"""Verification of a Program: the graph is well formed, shapes hold, the contract is kept."""

from __future__ import annotations

from torch.fx import Graph

from graphc.errors import VerifyError
from graphc.ir.program import Program
from graphc.ir.shapes import refresh
from graphc.ir.specs import check_contract


def verify(program: Program) -> None:
    """Check a Program from scratch.

    Raises:
        VerifyError: the graph is malformed, shapes no longer propagate, or an input or output
            differs from the contract.
    """
    lint(program.graph)
    refresh(program.module)
    check_contract(program.graph, program.contract)


def lint(graph: Graph) -> None:
    """Check that a graph is well formed: values before their uses, unique names, known targets.

    Raises:
        VerifyError: it is not.
    """
    try:
        graph.lint()
    except RuntimeError as error:
        raise VerifyError("the graph is malformed", why=str(error).splitlines()[0]) from error
