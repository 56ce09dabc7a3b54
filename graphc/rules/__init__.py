"""Rules: what each op means for the axes of its operands. One file a family of ops."""

from graphc.rules import (
    attention,
    choice,
    contract,
    conv,
    index,
    norm,
    pieces,
    pointwise,
    quantized,
    recurrent,
    reduce,
    repeat,
    shape,
    spectrum,
)
from graphc.rules.operation import Operation
from graphc.rules.table import RULES, load_installed_rules, rule, rule_of

__all__ = [
    "RULES",
    "Operation",
    "attention",
    "choice",
    "contract",
    "conv",
    "index",
    "load_installed_rules",
    "norm",
    "pieces",
    "pointwise",
    "quantized",
    "recurrent",
    "reduce",
    "repeat",
    "rule",
    "rule_of",
    "shape",
    "spectrum",
]
