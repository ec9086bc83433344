"""One run as the explorer holds it: the opened trace, and what is asked of it at every step."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.plots.flow_data import FlowData, flow_data
from steptrace_analyzer.plots.loss import LossData, loss_data
from steptrace_analyzer.trace.described import described_kinds
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_analyzer.trace.rows import Rows
from steptrace_analyzer.trace.select import has_tensor, layer_paths, recorded_steps
from steptrace_schema.errors import TraceError
from steptrace_schema.names import LOSS, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.storage.location import Location


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """An opened trace; what is computed of it is kept, since an opened trace never changes.

    Parameters
    ----------
    name
        What the run is called; no other run that is looked at has the same name.
    path
        Where it is.
    trace
        As :func:`steptrace_analyzer.open_trace` returned it.
    """

    name: str
    path: Location
    trace: xr.DataTree

    @cached_property
    def attributes(self) -> TraceAttributes:
        """Root attributes."""
        return trace_attributes(self.trace)

    @property
    def is_recording(self) -> bool:
        """Whether the training still writes it."""
        return self.attributes.status == "recording"

    @cached_property
    def rows(self) -> Rows:
        """Its tensors, step by step."""
        return Rows(self.trace)

    @cached_property
    def steps(self) -> npt.NDArray[np.int64]:
        """Every step of which something is recorded, ascending."""
        nodes = list(self.trace.children.values())
        if STATISTICS in self.trace.children:
            nodes += self.trace.children[STATISTICS].children.values()
        known = [np.asarray(recorded_steps(node), dtype=np.int64) for node in nodes]
        known = [steps for steps in known if steps.size]
        return np.unique(np.concatenate(known)) if known else np.empty(0, dtype=np.int64)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Paths of all layers that have tensors, in the order of the model."""
        kinds = ("activations", "weights", "probe", "gradients", "updates")
        found: dict[str, None] = {}
        for kind in kinds:
            if kind in self.trace.children:
                found |= dict.fromkeys(layer_paths(self.trace, kind))  # type: ignore[arg-type]
        order = {layer.path: place for place, layer in enumerate(self.attributes.layers)}
        return tuple(sorted(found, key=lambda path: order.get(path, len(order))))

    @cached_property
    def loss(self) -> LossData | None:
        """Loss and norms over all steps; None where no loss is recorded."""
        return loss_data(self.trace) if has_tensor(self.trace, "scalars", LOSS) else None

    @cached_property
    def flow(self) -> FlowData | None:
        """Graph and sizes of what flows; None where neither outputs nor weights are recorded."""
        try:
            return flow_data(self.trace)
        except TraceError:
            return None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What went wrong, causes before effects. Takes seconds for a long run."""
        return diagnose(self.trace).findings if described_kinds(self.trace) else ()

    @property
    def last_step(self) -> int:
        """The last step that has been done; only weights may be recorded after it."""
        for kind in ("scalars", "gradients"):
            if kind in self.trace.children and (steps := recorded_steps(self.trace[kind])):
                return steps[-1]
        return int(self.steps[-1]) if self.steps.size else 0

    @property
    def findings_known(self) -> bool:
        """Whether they have been looked for."""
        return "findings" in vars(self)

    @property
    def first_layer(self) -> str | None:
        """The layer to begin with: the first one with weights."""
        with_weights = layer_paths(self.trace, "weights") if "weights" in self.trace else []
        return next((layer for layer in self.layers if layer in with_weights), None) or next(
            iter(self.layers), None
        )


def open_runs(paths: Sequence[Location]) -> list[Run]:
    """Open traces and give each a name of its own.

    Examples
    --------
    >>> open_runs(["a/run.zarr", "b/run.zarr"])  # doctest: +SKIP
    """
    traces = [open_trace(path) for path in paths]
    return [
        Run(name, path, trace)
        for name, path, trace in zip(_names(paths), paths, traces, strict=True)
    ]


def newer(run: Run) -> Run | None:
    """Return the run as it is now, if it has more steps or has ended; None else."""
    if not run.is_recording:
        return None
    again = Run(run.name, run.path, open_trace(run.path))
    grown = again.steps.size > run.steps.size
    return again if grown or not again.is_recording else None


def _names(paths: Sequence[Location]) -> list[str]:
    """Return the last parts of paths, as many as tell them apart; numbers where none do."""
    for count in range(1, 4):
        names = ["/".join(str(path).rstrip("/").split("/")[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({place})" for place, name in enumerate(names, start=1)]
