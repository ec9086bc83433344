"""The views of a training run; each module prepares its data apart from drawing it."""

from typing import TYPE_CHECKING

from steptrace_analyzer._lazy import lazy_names

if TYPE_CHECKING:
    from steptrace_analyzer.plots.activations import plot_activations as plot_activations
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

HOMES = {
    "plot_activation_maps": "maps",
    "plot_activations": "activations",
    "plot_divergence": "divergence",
    "plot_gradients": "gradients",
    "plot_loss": "loss",
    "plot_parameters": "parameters",
    "plot_statistics": "statistics",
    "plot_flow": "flow",
    "plot_ridge": "ridge",
    "plot_runs": "runs",
    "plot_sensitivity": "sensitivity",
    "plot_strip": "strips",
    "plot_trajectory": "trajectory",
    "plot_weights": "weights",
    "save_figure": "save",
}
"""Public name to the module of this package that defines it."""

__all__ = sorted(HOMES)

__getattr__ = lazy_names(__name__, HOMES)


def __dir__() -> list[str]:
    return __all__
