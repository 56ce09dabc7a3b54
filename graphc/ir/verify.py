"""Verification of a Program: the graph is well formed, shapes hold, the contract is kept."""

from __future__ import annotations

from graphc.errors import VerifyError
from graphc.ir.contract import check_contract
from graphc.ir.program import Program
from graphc.ir.shapes import refresh


def verify(program: Program) -> None:
    """Check a Program from scratch.

    Raises:
        VerifyError: the graph is malformed, shapes no longer propagate, or an input or output
            differs from the contract.
    """
    try:
        program.graph.lint()
    except RuntimeError as error:
        raise VerifyError("the graph is malformed", why=str(error)) from error
    refresh(program.module)
    check_contract(program)
