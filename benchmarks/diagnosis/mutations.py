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
        Changes the batches in place: lists of inputs and targets, (sample, ...), and the rows of
        step `AT`.
    between
        Takes a weight's values right before step `AT`, and returns others.
    rate_at
        Factor of the learning rate at each step.
    step
        The step that has to be named, None where the fault holds from the start.
    cause
        Kind of cause that has to be named there.
    rules
        The rules that may name it, the one that is meant for it first.
    rate
        Factor of the learning rate.
    optimizer
        Another optimizer.
    tail
        Samples of the last batch of every epoch of 20 steps; a full one, where 0.
    healthy
        Whether it is no fault.
    """

    change: Callable[[Program], None] | None = None
    batches: Callable[[list[Any], list[Any], slice], None] | None = None
    between: Callable[[npt.NDArray[Any]], Any] | None = None
    rate_at: Callable[[int], float] | None = None
    step: int | None = None
    cause: str | None = None
    rules: tuple[str, ...] = ()
    rate: float = 1.0
    optimizer: Callable[[], Any] | None = None
    tail: int = 0
    healthy: bool = False

    def allows(self, program: Program, name: str) -> bool:
        """Whether it can be done to a program."""
        if name in program.not_for:
            return False
        labels = program.y
        return self.batches is not _sort or (
            not isinstance(labels, list) and labels.ndim == 1 and labels.dtype.kind in "iu"
        )


def kernel(model: Any) -> Any:
    """Return the weight that is written to: the middle one of those with two dims or more."""
    kernels = [w for w in model.trainable_weights if len(w.shape) >= 2]
    return kernels[len(kernels) // 2]


def _flip(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = values.reshape(-1).view(np.uint32)
    flat[3] ^= np.uint32(1 << 29)  # a bit of the exponent
    return values


def _one(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = values.reshape(-1)
    flat[np.argmax(np.abs(flat))] *= np.float32(1.01)
    return values


def _reset(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.random.default_rng(7).normal(0, 0.2, values.shape)


def _floats(arrays: list[Any]) -> list[Any]:
    return [array for array in arrays if array.dtype.kind == "f"]


def _scale_batch(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for x in _floats(xs):
        x[rows] *= 100


def _wrong_labels(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for y in ys:
        if np.issubdtype(y.dtype, np.integer):
            y[rows] = (y[rows] + 1) % (int(y.max()) + 1)
        elif set(np.unique(y)) <= {0.0, 1.0}:
            y[rows] = 1 - y[rows]
        else:
            y[rows] = -4 * y[rows] + 3


def _nan(xs: list[Any], ys: list[Any], rows: slice) -> None:
    _floats(xs)[0][rows.start + 5].reshape(-1)[0] = np.nan


def _shuffle(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for y in ys:
        y[:] = y[np.random.default_rng(9).permutation(len(y))]


def _raw(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for x in _floats(xs):
        x *= 255
        x += 100


def _sort(xs: list[Any], ys: list[Any], rows: slice) -> None:
    order = np.argsort(ys[0], kind="stable")
    for array in (*xs, *ys):
        array[:] = array[order].copy()


def _initialise(make: Callable[[npt.NDArray[Any]], Any]) -> Callable[[Program], None]:
    def change(program: Program) -> None:
        for weight in program.model.trainable_weights:
            if len(weight.shape) >= 2:
                weight.assign(make(weight.numpy()))

    return change


def _zero_head(program: Program) -> None:
    head = [w for w in program.model.trainable_weights if len(w.shape) >= 2][-1]
    head.assign(head.numpy() * 0)


def _freeze_first(program: Program) -> None:
    next(layer for layer in program.model.layers if layer.trainable_weights).trainable = False


def _wrong_output(program: Program) -> None:
    last = program.model.layers[-1]
    is_class = getattr(last.activation, "__name__", "") in ("softmax", "sigmoid")
    last.activation = keras.activations.relu if is_class else keras.activations.sigmoid


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


def _sudden(cause: str, rule: str, step: int = AT, **how: Any) -> Mutation:
    return Mutation(step=step, cause=cause, rules=(rule,), **how)


def _written(between: Callable[[npt.NDArray[Any]], Any]) -> Mutation:
    return _sudden("outside", "outside", AT - 1, between=between)


def _lasting(*rules: str, **how: Any) -> Mutation:
    return Mutation(rules=rules, **how)


MUTATIONS: Final[dict[str, Mutation]] = {
    "batch_scaled": _sudden("batch", "bad_batch", batches=_scale_batch),
    "labels_wrong": _sudden("labels", "bad_batch", batches=_wrong_labels),
    "nan_in_input": _sudden("data", "non_finite", batches=_nan),
    "rate_spike": _sudden(
        "learning_rate", "update_jump", rate_at=lambda n: 100.0 if n == AT else 1.0
    ),
    "layer_reset": _written(_reset),
    "layer_scaled": _written(lambda v: v * 5),
    "layer_zeroed": _written(lambda v: v * 0),
    "bit_flip": _written(_flip),
    "one_weight": _written(_one),
    "rate_high": _lasting("rate_too_high", "exploding", "non_finite", rate=100),
    "rate_low": _lasting("rate_too_low", rate=1e-5),
    "labels_shuffled": _lasting("not_learning", batches=_shuffle),
    "inputs_raw": _lasting("unscaled_inputs", batches=_raw),
    "init_zero": _lasting("identical_units", change=_initialise(lambda v: v * 0)),
    "init_huge": _lasting("poor_start", "saturation", change=_initialise(lambda v: v * 30)),
    "uphill": _lasting("uphill", change=_uphill),
    "wrong_output": _lasting("output_mismatch", change=_wrong_output),
    "sorted": _lasting("sorted_labels", batches=_sort),
    "none": Mutation(healthy=True),
    "adadelta": Mutation(healthy=True, optimizer=lambda: keras.optimizers.Adadelta(1.0)),
    "clipped": Mutation(
        healthy=True, optimizer=lambda: keras.optimizers.Adam(3e-3, global_clipnorm=1.0)
    ),
    "warm_up": Mutation(healthy=True, rate_at=lambda n: min(1.0, (n + 1) / 60)),
    "restarts": Mutation(
        healthy=True, rate_at=lambda n: 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (n % 55) / 55))
    ),
    "rate_drop": Mutation(healthy=True, rate_at=lambda n: 1.0 if n < 120 else 0.1),
    "tiny_batches": Mutation(healthy=True, tail=3),
    "zero_head": Mutation(healthy=True, change=_zero_head),
    "frozen_first": Mutation(healthy=True, change=_freeze_first),
}
"""Faults and odd healthy variants by their name."""
