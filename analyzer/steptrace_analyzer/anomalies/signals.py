"""The numbers of a trace that rules look at, each read once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import numpy as np

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.measurements import Series, norms, scalar, statistics
from steptrace_analyzer.anomalies.skipped import skipped_steps, without_skipped
from steptrace_analyzer.anomalies.whole_batch import input_statistic
from steptrace_analyzer.trace.absent import absent_rows
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import recorded_steps, tensor_paths
from steptrace_schema.names import (
    BATCH_SIZE,
    LEARNING_RATE,
    LOSS,
    SAMPLE_DIGEST,
    SAMPLE_LOSS,
    STATISTICS,
    STEP,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.format.attributes import Layer, TraceAttributes
    from steptrace_schema.names import Kind, StatisticName

T = TypeVar("T")


class Signals:
    """What every rule is given: a trace, and its statistics and scalars, read at first use.

    A method whose data the trace does not hold raises :class:`NotJudgedError`, so that a rule
    that needs them ends there and is listed as not judged with that reason.

    Parameters
    ----------
    trace
        What :func:`steptrace_analyzer.open_trace` returns.

    Examples
    --------
    >>> def my_rule(signals, *, least=1e-3):  # doctest: +SKIP
    ...     norms = signals.norms("gradients")
    ...     for path, column in zip(norms.paths, norms.values.T): ...
    """

    def __init__(self, trace: xr.DataTree) -> None:
        self.trace = trace
        self._made: dict[str, object] = {}
        self._statistics: dict[tuple[Kind, StatisticName], Series] = {}
        self._norms: dict[Kind, Series] = {}
        self._unit_sizes: dict[tuple[Kind, str], npt.NDArray[np.float64]] = {}

    @functools.cached_property
    def attributes(self) -> TraceAttributes:
        """The root attributes."""
        return trace_attributes(self.trace)

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers by their path, in the order of the model."""
        return {layer.path: layer for layer in self.attributes.layers}

    @functools.cached_property
    def loss(self) -> Series:
        """The loss of every step, (step, 1)."""
        return self.scalar(LOSS)

    @functools.cached_property
    def learning_rate(self) -> Series:
        """The learning rate of every step, (step, 1)."""
        return self.scalar(LEARNING_RATE)

    @functools.cached_property
    def batch_size(self) -> Series:
        """The samples of every step's batch, (step, 1)."""
        return self.scalar(BATCH_SIZE)

    @functools.cached_property
    def several_models(self) -> bool:
        """Whether the trace is of several models, so that there is no one loss to judge by."""
        model = self.attributes.model
        return (model is not None and ", " in model.name) or any(
            path.startswith("losses/") for path in self.paths("scalars")
        )

    @functools.cached_property
    def skipped(self) -> npt.NDArray[np.int64]:
        """The steps that the optimizer skipped, since gradients times a loss scale overflowed.

        At these, :meth:`statistic` and :meth:`norms` of what the backward pass gave are NaN.
        """
        return skipped_steps(self.trace)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for under `name`."""
        if name not in self._made:
            self._made[name] = make()
        return cast("T", self._made[name])

    @functools.cached_property
    def sample_losses(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The steps at which the losses of all samples are recorded, and them, (step, batch).

        NaN beyond the end of a batch, or where a loss is not a number.
        """
        losses = self.tensor("inputs", SAMPLE_LOSS)
        return self.steps("inputs"), np.asarray(losses, dtype=np.float64)

    @functools.cached_property
    def digests(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The steps at which the digests of all samples are recorded, and them, (step, batch).

        -1 beyond the end of a batch.
        """
        return self.steps("inputs"), np.asarray(self.tensor("inputs", SAMPLE_DIGEST))

    def paths(self, kind: Kind) -> tuple[str, ...]:
        """Return the paths of a kind's tensors, in the order of the model."""
        return tuple(self._index(kind))

    def has(self, kind: Kind, path: str) -> bool:
        """Whether the trace holds the values of a tensor."""
        return path in self._index(kind)

    def tensor(self, kind: Kind, path: str) -> xr.DataArray:
        """Return a tensor, lazy, dims (step, ...)."""
        found = self._index(kind).get(path)
        if found is None:
            msg = f"the trace holds no values of {kind}/{path}"
            raise NotJudgedError(msg)
        return found

    def steps(self, kind: Kind) -> npt.NDArray[np.int64]:
        """Return the steps whose values a kind holds."""
        if kind not in self.trace.children:
            return np.zeros(0, np.int64)
        return np.asarray(recorded_steps(self.trace.children[kind]), dtype=np.int64)

    def absent(self, kind: Kind, path: str) -> dict[int, str]:
        """Return the steps at which a tensor of the trace has no value, with the reasons.

        Its rows there are fill values, and no data.
        """
        return self._absent.get((kind, path), {})

    @functools.cached_property
    def _absent(self) -> dict[tuple[Kind, str], dict[int, str]]:
        return absent_rows(self.attributes)

    def row(self, kind: Kind, path: str, step: int) -> npt.NDArray[Any] | None:
        """Return a tensor's values at a step, None where the trace does not hold them."""
        found = self._index(kind).get(path)
        if found is None or step not in self.steps(kind) or step in self.absent(kind, path):
            return None
        return np.asarray(found.sel({STEP: step}))

    def scalar(self, path: str) -> Series:
        """Return a scalar of every step, (step, 1)."""
        found = scalar(self.trace, path)
        if found is None or not len(found.steps):
            msg = f"the trace holds no scalars/{path}"
            raise NotJudgedError(msg)
        return found

    def statistic(self, kind: Kind, name: StatisticName) -> Series:
        """Return a statistic of every tensor of a kind, (step, tensor)."""
        if (kind, name) not in self._statistics:
            wanted = _TOGETHER if name in _TOGETHER else (name,)
            found = statistics(self.trace, kind, wanted)
            self._statistics |= {
                (kind, each): without_skipped(series, kind, self.skipped)
                for each, series in found.items()
            }
        series = self._statistics.get((kind, name))
        if series is None or not len(series.steps):
            msg = f"the trace holds no statistics of {kind}"
            raise NotJudgedError(msg)
        return series

    def input_statistic(self, name: Literal["mean", "std"]) -> Series:
        """Return a statistic of inputs and targets, (step, tensor): of whole batches where known.

        That is where the trace has statistics of every sample; elsewhere, of the recorded rows.
        """
        found = self.once(f"inputs {name}", lambda: input_statistic(self.trace, name))
        require(found is not None and len(found.steps), "the trace holds no statistics of inputs")
        return cast("Series", found)

    def norms(self, kind: Kind) -> Series:
        """Return the L2 norm of every tensor of a kind, (step, tensor)."""
        if self.has_statistics(kind):
            return self.statistic(kind, "l2")
        if kind not in self._norms:
            found = norms(self.trace, kind)
            if found is None or not len(found.steps):
                msg = f"the trace holds neither statistics nor values of {kind}"
                raise NotJudgedError(msg)
            self._norms[kind] = without_skipped(found, kind, self.skipped)
        return self._norms[kind]

    def unit_sizes(self, kind: Kind, path: str) -> npt.NDArray[np.float64]:
        """Return the largest magnitude of each output unit at each step, (step, unit).

        Reads all values of the tensor, chunk by chunk, once.
        """
        if (kind, path) not in self._unit_sizes:
            values = self.tensor(kind, path)
            dims = [dim for dim in values.dims if dim not in (STEP, values.dims[-1])]
            sizes: Any = abs(values).max(dims, skipna=False) if dims else abs(values)
            self._unit_sizes[kind, path] = np.asarray(sizes, dtype=np.float64)
        return self._unit_sizes[kind, path]

    def has_statistics(self, kind: Kind) -> bool:
        """Whether the trace holds statistics of a kind."""
        group = self.trace.children.get(STATISTICS)
        return group is not None and kind in group.children

    def _index(self, kind: Kind) -> dict[str, xr.DataArray]:
        if kind not in self._indexes:
            self._indexes[kind] = {
                path: cast("xr.DataArray", self.trace[f"{kind}/{path}"])
                for path in tensor_paths(self.trace, kind)
            }
        return self._indexes[kind]

    @functools.cached_property
    def _indexes(self) -> dict[Kind, dict[str, xr.DataArray]]:
        return {}


_TOGETHER: Final[tuple[StatisticName, ...]] = ("l2", "nan", "inf")
"""Statistics that nearly every rule needs, and that are read at once."""
_OFFSETS: Final = ("bias", "beta", "gamma")


def layer_path(path: str) -> str:
    """Return the path of the layer that a tensor belongs to."""
    return path.rpartition("/")[0]


def require(condition: object, reason: str) -> None:
    """End a rule where the trace does not hold what it needs.

    Raises
    ------
    NotJudgedError
        With `reason`, where `condition` is false.
    """
    if not condition:
        raise NotJudgedError(reason)


def kernels(signals: Signals, paths: Sequence[str]) -> list[str]:
    """Return the paths of weights with two dims or more that are no biases or scales."""
    return [
        path
        for path in paths
        if not path.endswith(_OFFSETS)
        and signals.has("weights", path)
        and signals.tensor("weights", path).ndim > 2
    ]
