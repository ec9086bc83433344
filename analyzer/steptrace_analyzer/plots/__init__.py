"""The views of a training run; each module prepares its data apart from drawing it."""

from steptrace_analyzer.plots.activations import plot_activations as plot_activations
from steptrace_analyzer.plots.gradients import plot_gradients as plot_gradients
from steptrace_analyzer.plots.loss import plot_loss as plot_loss
from steptrace_analyzer.plots.maps import plot_activation_maps as plot_activation_maps
from steptrace_analyzer.plots.parameters import plot_parameters as plot_parameters
from steptrace_analyzer.plots.save import save_figure as save_figure
from steptrace_analyzer.plots.statistics import plot_statistics as plot_statistics
from steptrace_analyzer.plots.weights import plot_weights as plot_weights
