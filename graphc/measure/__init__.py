"""Measurement: cost, latency, fidelity, and the report that holds them."""

from graphc.measure.cost import Change, Cost, Form, changes, cost, layers
from graphc.measure.deviation import Deviation, Deviations, deviations
from graphc.measure.environment import environment
from graphc.measure.fidelity import Fidelity, fidelity
from graphc.measure.latency import Measurement, Ratio, benchmark, compare, ratio
from graphc.measure.report import Step, report, write_report

__all__ = [
    "Change",
    "Cost",
    "Deviation",
    "Deviations",
    "Fidelity",
    "Form",
    "Measurement",
    "Ratio",
    "Step",
    "benchmark",
    "changes",
    "compare",
    "cost",
    "deviations",
    "environment",
    "fidelity",
    "layers",
    "ratio",
    "report",
    "write_report",
]
