"""Comparing traces: what differs, by how much, and where it began."""

from steptrace_analyzer.diff.compare import Tolerance, ulp_distance
from steptrace_analyzer.diff.result import DiffResult, FirstDifference, Mismatch, TensorDiff
from steptrace_analyzer.diff.traces import diff, diff_steps

__all__ = [
    "DiffResult",
    "FirstDifference",
    "Mismatch",
    "TensorDiff",
    "Tolerance",
    "diff",
    "diff_steps",
    "ulp_distance",
]
