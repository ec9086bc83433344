"""Faults that are put into a program, and odd variants that are none."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from diagnosis.programs import Program

STEPS: Final = 220
BATCH: Final = 32
AT: Final = 140
"""Step whose batch is wrong; a weight that is written to changes in the update before it."""


@dataclasses.dataclass(frozen=True)
class Mutation:
    """What is done to a program, and what the diagnosis has to say of it.

    Parameters
    ----------
    change
        Takes the program before it is compiled.
    batches
        Changes the batches, (sample, ...), in place.
    between
        Writes to the model right before step `AT`.
    step
        The step that has to be named, None where the fault holds from the start.
    cause
        Kind of cause that has to be named there.
    rate
        Factor of the learning rate.
    optimizer
        Another optimizer.
    healthy
        Whether it is no fault.
    """

    change: Callable[[Program], None] | None = None
    batches: Callable[[Any, Any, slice], None] | None = None
    between: Callable[[Any], None] | None = None
    step: int | None = None
    cause: str | None = None
    rate: float = 1.0
    optimizer: Callable[[], Any] | None = None
    healthy: bool = False


def _kernel(model: Any) -> Any:
    kernels = [w for w in model.trainable_weights if len(w.shape) >= 2]
    return kernels[len(kernels) // 2]


def _write(make: Callable[[npt.NDArray[Any]], Any]) -> Callable[[Any], None]:
    def between(model: Any) -> None:
        weight = _kernel(model)
        weight.assign(make(weight.numpy().copy()))

    return between


def _flip(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = values.reshape(-1).view(np.uint32)
    flat[3] ^= np.uint32(1 << 29)  # a bit of the exponent
    return values


def _one(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = values.reshape(-1)
    flat[np.argmax(np.abs(flat))] *= np.float32(1.01)
    return values


def _scale_batch(x: Any, y: Any, rows: slice) -> None:
    x[rows] *= 100


def _wrong_labels(x: Any, y: Any, rows: slice) -> None:
    if np.issubdtype(y.dtype, np.integer):
        y[rows] = (y[rows] + 1) % (int(y.max()) + 1)
    elif set(np.unique(y)) <= {0.0, 1.0}:
        y[rows] = 1 - y[rows]
    else:
        y[rows] = -4 * y[rows] + 3


def _nan(x: Any, y: Any, rows: slice) -> None:
    x[rows.start + 5].reshape(-1)[0] = np.nan


def _shuffle(x: Any, y: Any, rows: slice) -> None:
    y[:] = y[np.random.default_rng(9).permutation(len(y))]


def _raw(x: Any, y: Any, rows: slice) -> None:
    x *= 255
    x += 100


def _sort(x: Any, y: Any, rows: slice) -> None:
    order = np.argsort(y.reshape(len(y)), kind="stable")
    x[:], y[:] = x[order].copy(), y[order].copy()


def _initialise(make: Callable[[npt.NDArray[Any]], Any]) -> Callable[[Program], None]:
    def change(program: Program) -> None:
        for weight in program.model.trainable_weights:
            if len(weight.shape) >= 2:
                weight.assign(make(weight.numpy()))

    return change


def _uphill(program: Program) -> None:
    usual = program.optimizer

    def optimizer(factor: float) -> Any:
        inner = usual(factor)
        apply = inner.apply

        def negated(grads: Any, trainable_variables: Any = None) -> Any:
            return apply([-g for g in grads], trainable_variables)

        inner.apply = negated
        return inner

    program.optimizer = optimizer


MUTATIONS: Final[dict[str, Mutation]] = {
    "batch_scaled": Mutation(batches=_scale_batch, step=AT, cause="batch"),
    "labels_wrong": Mutation(batches=_wrong_labels, step=AT, cause="labels"),
    "nan_in_input": Mutation(batches=_nan, step=AT, cause="data"),
    "layer_reset": Mutation(
        between=_write(lambda v: np.random.default_rng(7).normal(0, 0.2, v.shape)),
        step=AT - 1,
        cause="outside",
    ),
    "layer_scaled": Mutation(between=_write(lambda v: v * 5), step=AT - 1, cause="outside"),
    "layer_zeroed": Mutation(between=_write(lambda v: v * 0), step=AT - 1, cause="outside"),
    "bit_flip": Mutation(between=_write(_flip), step=AT - 1, cause="outside"),
    "one_weight": Mutation(between=_write(_one), step=AT - 1, cause="outside"),
    "rate_high": Mutation(rate=100),
    "rate_low": Mutation(rate=1e-5),
    "labels_shuffled": Mutation(batches=_shuffle),
    "inputs_raw": Mutation(batches=_raw),
    "init_zero": Mutation(change=_initialise(lambda v: v * 0)),
    "init_huge": Mutation(change=_initialise(lambda v: v * 30)),
    "uphill": Mutation(change=_uphill),
    "none": Mutation(healthy=True),
    "adadelta": Mutation(healthy=True, optimizer=lambda: keras.optimizers.Adadelta(1.0)),
    "slow_sgd": Mutation(healthy=True, optimizer=lambda: keras.optimizers.SGD(0.05)),
    "clipped": Mutation(
        healthy=True, optimizer=lambda: keras.optimizers.Adam(3e-3, global_clipnorm=1.0)
    ),
}
"""Faults and odd healthy variants by their name."""
