"""Reading, comparing and explaining traces of neural-network training, without TensorFlow."""

from typing import TYPE_CHECKING

from steptrace_analyzer._lazy import lazy_names
from steptrace_analyzer.plots import HOMES as PLOTS

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.diagnosis import diagnose as diagnose
    from steptrace_analyzer.anomalies.explain import explain_update as explain_update
    from steptrace_analyzer.anomalies.samples.gradient_shares import (
        explain_gradient as explain_gradient,
    )
    from steptrace_analyzer.differences.checkpoint import diff_checkpoint as diff_checkpoint
    from steptrace_analyzer.differences.divergence import first_divergence as first_divergence
    from steptrace_analyzer.differences.golden import fingerprint as fingerprint
    from steptrace_analyzer.differences.golden import read_fingerprint as read_fingerprint
    from steptrace_analyzer.differences.golden import write_fingerprint as write_fingerprint
    from steptrace_analyzer.differences.steps import diff_steps as diff_steps
    from steptrace_analyzer.differences.traces import diff as diff
    from steptrace_analyzer.plots.activations import plot_activations as plot_activations
    from steptrace_analyzer.plots.animate import animate as animate
    from steptrace_analyzer.plots.divergence import plot_divergence as plot_divergence
    from steptrace_analyzer.plots.flow import plot_flow as plot_flow
    from steptrace_analyzer.plots.gradients import plot_gradients as plot_gradients
    from steptrace_analyzer.plots.loss import plot_loss as plot_loss
    from steptrace_analyzer.plots.maps import plot_activation_maps as plot_activation_maps
    from steptrace_analyzer.plots.parameters import plot_parameters as plot_parameters
    from steptrace_analyzer.plots.ridge import plot_ridge as plot_ridge
    from steptrace_analyzer.plots.runs import plot_runs as plot_runs
    from steptrace_analyzer.plots.save import save_figure as save_figure
    from steptrace_analyzer.plots.sensitivity import plot_sensitivity as plot_sensitivity
    from steptrace_analyzer.plots.statistics import plot_statistics as plot_statistics
    from steptrace_analyzer.plots.strips import plot_strip as plot_strip
    from steptrace_analyzer.plots.trajectory import plot_trajectory as plot_trajectory
    from steptrace_analyzer.plots.weights import plot_weights as plot_weights
    from steptrace_analyzer.report.write import write_report as write_report
    from steptrace_analyzer.trace.final import final_weights as final_weights
    from steptrace_analyzer.trace.follow import follow as follow
    from steptrace_analyzer.trace.info import describe as describe
    from steptrace_analyzer.trace.open import open_trace as open_trace
    from steptrace_analyzer.trace.open import trace_attributes as trace_attributes
    from steptrace_analyzer.trace.packing import pack as pack
    from steptrace_analyzer.trace.packing import unpack as unpack
    from steptrace_analyzer.trace.sensitivity import total_gradient as total_gradient

_HOMES = {
    "animate": "plots.animate",
    "describe": "trace.info",
    "diagnose": "anomalies.diagnosis",
    "diff": "differences.traces",
    "diff_checkpoint": "differences.checkpoint",
    "diff_steps": "differences.steps",
    "explain_gradient": "anomalies.samples.gradient_shares",
    "explain_update": "anomalies.explain",
    "final_weights": "trace.final",
    "fingerprint": "differences.golden",
    "first_divergence": "differences.divergence",
    "follow": "trace.follow",
    "open_trace": "accessor",
    "pack": "trace.packing",
    "read_fingerprint": "differences.golden",
    "total_gradient": "trace.sensitivity",
    "trace_attributes": "trace.open",
    "unpack": "trace.packing",
    "write_fingerprint": "differences.golden",
    "write_report": "report.write",
    **{name: f"plots.{home}" for name, home in PLOTS.items()},
}

__all__ = sorted(_HOMES)

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
