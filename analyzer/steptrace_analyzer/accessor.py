"""``trace.steptrace``: what a trace is and what can be drawn of it, as attributes of the trace."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import xarray as xr

from steptrace_analyzer.markup import facts_html
from steptrace_analyzer.trace.open import open_trace as open_trace
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import format_steps, recorded_steps, resolve_step
from steptrace_schema.errors import StepNotRecordedError
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from steptrace_analyzer.anomalies.finding import Findings
    from steptrace_schema.format.attributes import Layer

_PLOTS = {
    "activations": "plot_activations",
    "flow": "plot_flow",
    "gradients": "plot_gradients",
    "loss": "plot_loss",
    "maps": "plot_activation_maps",
    "parameters": "plot_parameters",
    "ridge": "plot_ridge",
    "sensitivity": "plot_sensitivity",
    "statistics": "plot_statistics",
    "strip": "plot_strip",
    "trajectory": "plot_trajectory",
    "weights": "plot_weights",
}
"""Name of the view to its function in :mod:`steptrace_analyzer.plots`."""


class Plots:
    """The views of one trace: ``trace.steptrace.plot.weights("dense", step=10)``.

    Each takes what the function of :mod:`steptrace_analyzer.plots` takes after the trace.
    """

    def __init__(self, trace: xr.DataTree) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[..., Figure]:
        """Return the function that draws a view of this trace."""
        if name not in _PLOTS:
            msg = f"there is no view '{name}'; there are {', '.join(_PLOTS)}"
            raise AttributeError(msg)
        from steptrace_analyzer import plots

        function = getattr(plots, _PLOTS[name])
        bound: Callable[..., Figure] = functools.wraps(function)(
            functools.partial(function, self._trace)
        )
        return bound

    def __dir__(self) -> list[str]:
        """List the views."""
        return [*super().__dir__(), *_PLOTS]


@xr.register_datatree_accessor("steptrace")  # type: ignore[no-untyped-call]
class SteptraceAccessor:
    """What steptrace knows of a trace: ``open_trace("run.zarr").steptrace``.

    Parameters
    ----------
    trace
        What :func:`steptrace_analyzer.open_trace` returned.

    Examples
    --------
    >>> trace = open_trace("run.zarr")  # doctest: +SKIP
    >>> trace.steptrace.plot.weights("dense", step=10)  # doctest: +SKIP
    >>> trace.steptrace.step(60)["weights/net/dense/kernel"]  # doctest: +SKIP
    """

    def __init__(self, trace: xr.DataTree) -> None:
        self._trace = trace

    @property
    def plot(self) -> Plots:
        """The views of this trace."""
        return Plots(self._trace)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the model, as the root attributes describe them."""
        return trace_attributes(self._trace).layers

    def findings(self, **options: Any) -> Findings:
        """Return what went wrong, causes before effects; a notebook shows it as a table.

        Parameters
        ----------
        **options
            Of :func:`steptrace_analyzer.diagnose`.
        """
        from steptrace_analyzer.anomalies.diagnosis import diagnose
        from steptrace_analyzer.anomalies.finding import Findings

        return Findings(diagnose(self._trace, **options).findings)

    def step(self, step: int) -> xr.DataTree:
        """Return everything that is recorded of one step, still lazy.

        Parameters
        ----------
        step
            Number of a recorded step, or -1 for the last one with scalars.

        Returns
        -------
        xarray.DataTree
            The trace without the dimension ``step``. Kinds that are not recorded at the step are
            left out; what has no step, such as the probe's inputs, stays.

        Raises
        ------
        StepNotRecordedError
            If nothing is recorded of the step.
        """
        if step < 0:
            node = self._trace.children.get("scalars", self._trace)
            step = resolve_step(node, step)
        groups: dict[str, xr.Dataset] = {}
        found = False
        for node in self._trace.subtree:
            dataset = node.to_dataset()
            if STEP in dataset.dims:
                if STEP not in dataset.coords or step not in dataset.coords[STEP].to_numpy():
                    continue
                dataset = dataset.sel({STEP: step})
                found = True
            groups[node.path] = dataset
        if not found:
            msg = f"{self._trace.name or 'the trace'} has nothing recorded at step {step}"
            raise StepNotRecordedError(msg)
        return xr.DataTree.from_dict(groups, name=self._trace.name)

    def __repr__(self) -> str:
        """Say in a line what the trace is."""
        return f"<steptrace: {', '.join(f'{name} {value}' for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        """Return a table for notebooks: what was trained, what is recorded, which layers."""
        return facts_html(self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        attributes = trace_attributes(self._trace)
        model, optimizer = attributes.model, attributes.optimizer
        facts = [("trace", str(self._trace.name or "trace")), ("status", attributes.status)]
        if model is not None:
            facts.append(("model", f"{model.name} ({model.parameters:,} parameters)"))
        if optimizer is not None:
            facts.append(("optimizer", optimizer.class_name))
        for kind, node in self._trace.children.items():
            if STEP in node.coords and kind != "statistics":
                facts.append((str(kind), f"steps {format_steps(recorded_steps(node)) or 'none'}"))
        if attributes.layers:
            facts.append(("layers", ", ".join(layer.name for layer in attributes.layers)))
        return facts
