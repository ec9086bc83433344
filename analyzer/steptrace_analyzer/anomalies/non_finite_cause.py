"""What made the first NaN or infinity of a trace, as far as the trace shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.anomalies.measurements import statistic
from steptrace_analyzer.trace.batch import is_input, is_input_gradient, is_target
from steptrace_analyzer.trace.dataflow import is_given
from steptrace_schema.names import LOSS, LOSSES, SAMPLE_LOSS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies.non_finite import NonFiniteTensor

_NAMES: Final[dict[Kind, str]] = {
    "inputs": "inputs",
    "weights": "weights",
    "activations": "layer outputs",
    "probe": "probe outputs",
    "gradients": "gradients",
    "optimizer": "optimizer state",
}
_FORWARD: Final[tuple[Kind, ...]] = ("inputs", "weights", "activations")
_MADE: Final[dict[Kind, tuple[str, tuple[Kind, ...]]]] = {
    "scalars": ("the forward pass or the loss made it", _FORWARD),
    "gradients": ("the backward pass made it", _FORWARD),
    "updates": ("the optimizer made it", ("gradients", "optimizer")),
    "activations": ("the forward pass made it", ("inputs", "weights")),
    "activation_gradients": ("the backward pass made it", _FORWARD),
    "probe": ("the probe's forward pass made it", ("weights",)),
    "validation": ("the validation made it", ("weights",)),
    "probe_gradients": ("the probe's backward pass made it", ("weights", "probe")),
}


def cause_of_non_finite(trace: xr.DataTree, first: NonFiniteTensor) -> str:
    """Return one clause about what made the first value that is not finite.

    All that a step produced before it is finite, as far as it is recorded; the clause names what
    is recorded and nothing else.

    Parameters
    ----------
    trace
        An opened trace. Only its statistics are read.
    first
        The tensor in which the value appears first.
    """
    kind, path = first.kind, first.path
    if kind == "logged":
        return "the training logged it; all that is recorded before it is finite"
    if kind in ("weights", "optimizer"):
        return _between_steps(trace, first)
    if kind == "inputs":
        if is_input(path) or is_target(path):
            return "the data itself is not finite"
        if is_input_gradient(path):
            return _made(trace, first, *_MADE["gradients"])
        if path != SAMPLE_LOSS:
            return "it came with the data"
    if is_given(kind, path):
        return "it was given to the step, which did not compute it"
    is_loss = kind == "inputs" or path == LOSS or path.startswith(f"{LOSSES}/")
    if is_loss and kind in ("inputs", "scalars"):
        maker = "the loss function made it"
        if not first.nan:
            maker = "the loss overflowed, or took the logarithm of zero"
        return _made(trace, first, maker, _FORWARD)
    return _made(trace, first, *_MADE[kind])


def _made(trace: xr.DataTree, first: NonFiniteTensor, maker: str, sources: Sequence[Kind]) -> str:
    """Say who made it from what, of what is recorded at its step."""
    known = [_NAMES[kind] for kind in sources if _is_described(trace, kind, first.step)]
    if not known:
        return f"{maker}; what it was made from is not recorded"
    listed = " and ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
    return f"{maker} from {listed} that are finite as recorded"


def _is_described(trace: xr.DataTree, kind: Kind, step: int) -> bool:
    series = statistic(trace, kind, "nan")
    if series is None or series.row(step) is None:
        return False
    return kind != "inputs" or any(is_input(path) for path in series.paths)


def _between_steps(trace: xr.DataTree, first: NonFiniteTensor) -> str:
    """Say what made a weight, or a state of the optimizer: what the step before did."""
    noun = "weights" if first.kind == "weights" else "states of the optimizer"
    series = statistic(trace, first.kind, "nan")
    row = None if series is None else series.row(first.step)
    if series is None or not row:
        return f"the first recorded {noun} already are not finite"
    before = int(series.steps[row - 1])
    if before != first.step - 1:
        return f"a step from {before} to {first.step - 1} made it, of which not all are recorded"
    gradients = statistic(trace, "gradients", "nan")
    if gradients is None or gradients.row(before) is None:
        return "the step before made it; its gradients are not recorded"
    if first.kind == "weights" and first.path not in gradients.paths:
        return "the step before made it; it has no gradient itself"
    return "the update of the step before made it from a gradient that is finite as recorded"
