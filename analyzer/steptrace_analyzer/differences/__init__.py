"""Comparing traces: what differs, by how much, and where it began."""

from steptrace_analyzer.differences.checkpoint import diff_checkpoint
from steptrace_analyzer.differences.divergence import first_divergence
from steptrace_analyzer.differences.divergence_result import Divergence
from steptrace_analyzer.differences.elements import Tolerance, ulp_distance
from steptrace_analyzer.differences.golden import (
    fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from steptrace_analyzer.differences.many import ComparedRuns, compare_runs
from steptrace_analyzer.differences.noise import (
    NoiseResult,
    compare_with_noise,
    compare_with_reference,
    compare_with_rounding,
)
from steptrace_analyzer.differences.ranks import compare_ranks
from steptrace_analyzer.differences.result import (
    DiffResult,
    FirstDifference,
    Mismatch,
    StepDistances,
    TensorDiff,
)
from steptrace_analyzer.differences.steps import diff_steps
from steptrace_analyzer.differences.traces import diff

__all__ = [
    "ComparedRuns",
    "DiffResult",
    "Divergence",
    "FirstDifference",
    "Mismatch",
    "NoiseResult",
    "StepDistances",
    "TensorDiff",
    "Tolerance",
    "compare_ranks",
    "compare_runs",
    "compare_with_noise",
    "compare_with_reference",
    "compare_with_rounding",
    "diff",
    "diff_checkpoint",
    "diff_steps",
    "fingerprint",
    "first_divergence",
    "read_fingerprint",
    "ulp_distance",
    "write_fingerprint",
]
