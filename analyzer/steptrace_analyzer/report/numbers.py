"""The tables behind the figures: the same as numbers, for whoever cannot see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.report.contents import Table
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import layer_of, recorded_steps
from steptrace_schema.names import STATISTIC, TENSOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.plots.flow_data import FlowData
    from steptrace_analyzer.plots.loss import LossData
    from steptrace_analyzer.plots.norms import LayerNorms
    from steptrace_schema.names import Kind

_SHOWN: Final = ("min", "p01", "p50", "p99", "max", "l2", "zeros", "nan", "inf")
_HEAD: Final = (
    "tensor", "step", "least", "1 %", "median", "99 %", "most", "norm (L2)", "zeros",
    "not finite",
)  # fmt: skip
_MOST_ROWS: Final = 40
_MOST_STEPS: Final = 12


def tensor_numbers(
    trace: xr.DataTree, kinds: Iterable[Kind], layer: str, steps: Sequence[int]
) -> Table | None:
    """Return what the statistics say of a layer's tensors at some steps; None where nothing.

    Parameters
    ----------
    trace
        An opened trace. Only its statistics are read.
    kinds
        The kinds to look at; of ``inputs``, all tensors are taken.
    layer
        A layer's whole path.
    steps
        Some steps; those without statistics are left out.
    """
    rows: list[tuple[str, ...]] = []
    for kind in kinds:
        table = statistics_table(trace, kind)
        if table is None:
            continue
        paths = [
            path for path in described_tensors(table) if kind == "inputs" or layer_of(path) == layer
        ]
        known = recorded_steps(table)
        places = [known.index(step) for step in steps if step in known]
        if not paths or not places:
            continue
        chosen = table.sel({TENSOR: paths, STATISTIC: list(_SHOWN)}).isel(step=places)
        values = np.asarray(chosen.to_numpy(), dtype=np.float64)
        for column, path in enumerate(paths):
            name = path if kind == "inputs" else path.removeprefix(f"{layer}/")
            for row, place in enumerate(places):
                *usual, zeros, nan, inf = values[row, column]
                cells = [*map(number, usual), f"{zeros:.0f}", f"{nan + inf:.0f}"]
                rows.append((f"{kind}: {name}", str(known[place]), *cells))
    return Table(_HEAD, tuple(rows[:_MOST_ROWS]), numbers=9) if rows else None


def loss_numbers(data: LossData) -> Table:
    """Return loss, rate and gradient norm at some steps, those of findings included."""
    steps = _some(data.steps, data.anomaly_steps)
    norms = data.norms
    rows = []
    for step in steps:
        at = int(np.searchsorted(data.steps, step))
        norm = np.nan
        if norms is not None and step in norms.steps:
            norm = norms.total[int(np.searchsorted(norms.steps, step))]
        rows.append(
            (str(step), number(data.loss[at]), number(norm), number(data.learning_rate[at]))
        )
    return Table(("step", "loss", "gradient norm (L2)", "learning rate"), tuple(rows), numbers=4)


def norm_numbers(norms: LayerNorms, marked: Sequence[int]) -> Table:
    """Return the norm of each layer's gradient at some steps, those of findings included."""
    steps = _some(norms.steps, marked)[:_MOST_STEPS]
    places = [int(np.searchsorted(norms.steps, step)) for step in steps]
    rows = tuple(
        (layer, *(number(value) for value in values[places]))
        for layer, values in zip(norms.layers, norms.values, strict=True)
    )
    head = ("layer", *(f"step {step}" for step in steps))
    return Table(head, rows[:_MOST_ROWS], numbers=len(steps))


def flow_numbers(flow: FlowData, step: int) -> Table:
    """Return the measures of each layer at a step."""
    at = flow.column(step)
    head = ("layer", *(f"{measure.title} ({measure.unit})" for measure in flow.measures))
    rows = tuple(
        (node.path, *(number(measure.values[row, at]) for measure in flow.measures))
        for row, node in enumerate(flow.graph.nodes)
    )
    return Table(head, rows, numbers=len(flow.measures))


def number(value: float) -> str:
    """Write a number of a table.

    Examples
    --------
    >>> number(0.123456), number(float("nan"))
    ('0.1235', '-')
    """
    return f"{value:.4g}" if np.isfinite(value) else "-" if np.isnan(value) else "infinite"


def _some(steps: npt.NDArray[np.int64], marked: Sequence[int]) -> list[int]:
    """Return up to twelve steps evenly taken, and those that are marked."""
    if not steps.size:
        return []
    places = np.linspace(0, steps.size - 1, min(steps.size, _MOST_STEPS)).round().astype(int)
    known = {int(step) for step in steps[places]}
    return sorted(known | {step for step in marked[:_MOST_STEPS] if step in steps})
