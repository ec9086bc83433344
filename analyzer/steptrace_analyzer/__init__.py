"""Reading, comparing and explaining traces of neural-network training, without TensorFlow."""

from typing import TYPE_CHECKING

from steptrace_analyzer._lazy import lazy_names

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies import find_anomalies as find_anomalies
    from steptrace_analyzer.anomalies.diagnosis import diagnose as diagnose
    from steptrace_analyzer.anomalies.explain import explain_update as explain_update
    from steptrace_analyzer.differences.divergence import first_divergence as first_divergence
    from steptrace_analyzer.differences.traces import diff as diff
    from steptrace_analyzer.differences.traces import diff_steps as diff_steps
    from steptrace_analyzer.trace.follow import follow as follow
    from steptrace_analyzer.trace.info import describe as describe
    from steptrace_analyzer.trace.open import open_trace as open_trace
    from steptrace_analyzer.trace.open import trace_attributes as trace_attributes
    from steptrace_analyzer.trace.packing import pack as pack
    from steptrace_analyzer.trace.packing import unpack as unpack
    from steptrace_analyzer.trace.sensitivity import total_gradient as total_gradient

_HOMES = {
    "describe": "trace.info",
    "diagnose": "anomalies.diagnosis",
    "diff": "differences.traces",
    "diff_steps": "differences.traces",
    "explain_update": "anomalies.explain",
    "find_anomalies": "anomalies",
    "first_divergence": "differences.divergence",
    "follow": "trace.follow",
    "open_trace": "trace.open",
    "pack": "trace.packing",
    "total_gradient": "trace.sensitivity",
    "trace_attributes": "trace.open",
    "unpack": "trace.packing",
}

__all__ = [
    "describe",
    "diagnose",
    "diff",
    "diff_steps",
    "explain_update",
    "find_anomalies",
    "first_divergence",
    "follow",
    "open_trace",
    "pack",
    "total_gradient",
    "trace_attributes",
    "unpack",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
