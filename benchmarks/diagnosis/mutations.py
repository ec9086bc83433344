"""What a mutation is, the first faults that are put into a program, and variants that are none."""

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
    needs
        Says of a program whether the mutation can be done to it; to all, where None.
    rows
        Takes the targets, and returns the indices of the samples that are trained on; all, where
        None.
    batches
        Changes the batches in place: lists of inputs and targets, (sample, ...), and the rows of
        step `AT`.
    validation
        Changes the inputs of a fifth of the samples in place. They are held out then, and the loss
        of them is computed after every 20 steps.
    between
        Takes a weight's values right before step `AT`, and returns others.
    on_replica
        Takes a weight's values on the last replica before the first step, and returns others.
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
    policy
        Types of numbers that the model is built for.
    tail
        Samples of the last batch of every epoch of 20 steps; a full one, where 0.
    healthy
        Whether it is no fault.
    severity
        The least that a rule which is meant for it promises of a run that is harmed.
    raises
        Whether the training ends with an exception.
    """

    change: Callable[[Program], None] | None = None
    needs: Callable[[Program], bool] | None = None
    rows: Callable[[list[Any]], npt.NDArray[np.intp]] | None = None
    batches: Callable[[list[Any], list[Any], slice], None] | None = None
    validation: Callable[[list[Any]], None] | None = None
    between: Callable[[npt.NDArray[Any]], Any] | None = None
    on_replica: Callable[[npt.NDArray[Any]], Any] | None = None
    rate_at: Callable[[int], float] | None = None
    step: int | None = None
    cause: str | None = None
    rules: tuple[str, ...] = ()
    rate: float = 1.0
    optimizer: Callable[[], Any] | None = None
    policy: str = "float32"
    tail: int = 0
    healthy: bool = False
    severity: str = "error"
    raises: bool = False

    def allows(self, program: Program, name: str) -> bool:
        """Whether it can be done to a program."""
        if name in program.not_for or (self.validation is not None and program.train is not None):
            return False
        return self.needs is None or self.needs(program)


def has_classes(program: Program) -> bool:
    """Whether each sample has one class id."""
    labels = program.y
    return not isinstance(labels, list) and labels.ndim == 1 and labels.dtype.kind in "iu"


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


def floats(arrays: list[Any]) -> list[Any]:
    """Return those that are magnitudes."""
    return [array for array in arrays if array.dtype.kind == "f"]


def _scale_batch(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for x in floats(xs):
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
    floats(xs)[0][rows.start + 5].reshape(-1)[0] = np.nan


def _shuffle(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for y in ys:
        y[:] = y[np.random.default_rng(9).permutation(len(y))]


def _raw(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for x in floats(xs):
        x *= 255
        x += 100


def _sort(xs: list[Any], ys: list[Any], rows: slice) -> None:
    order = np.argsort(ys[0], kind="stable")
    for array in (*xs, *ys):
        array[:] = array[order].copy()


def initialise(make: Callable[[npt.NDArray[Any]], Any]) -> Callable[[Program], None]:
    """Return what changes all first weights but biases."""

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


def applying(change: Callable[[Any, Any], Any]) -> Callable[[Program], None]:
    """Return what has an optimizer apply other gradients.

    Parameters
    ----------
    change
        Takes gradients and weights, and returns both.
    """

    def changed(program: Program) -> None:
        usual = program.optimizer

        def optimizer(factor: float) -> Any:
            inner = usual(factor)
            apply = inner.apply

            def other(grads: Any, trainable_variables: Any = None) -> Any:
                return apply(*change(grads, trainable_variables))

            inner.apply = other
            return inner

        program.optimizer = optimizer

    return changed


def sudden(cause: str, rule: str, step: int = AT, **how: Any) -> Mutation:
    """Return a fault that begins at one step."""
    return Mutation(step=step, cause=cause, rules=(rule,), **how)


def _written(between: Callable[[npt.NDArray[Any]], Any]) -> Mutation:
    return sudden("outside", "outside", AT - 1, between=between)


def lasting(*rules: str, **how: Any) -> Mutation:
    """Return a fault that holds from the start."""
    return Mutation(rules=rules, **how)


FIRST: Final[dict[str, Mutation]] = {
    "batch_scaled": sudden("batch", "bad_batch", batches=_scale_batch),
    "labels_wrong": sudden("labels", "bad_batch", batches=_wrong_labels),
    "nan_in_input": sudden("data", "non_finite", batches=_nan),
    "rate_spike": sudden(
        "learning_rate", "update_jump", rate_at=lambda n: 100.0 if n == AT else 1.0
    ),
    "layer_reset": _written(_reset),
    "layer_scaled": _written(lambda v: v * 5),
    "layer_zeroed": _written(lambda v: v * 0),
    "bit_flip": _written(_flip),
    "one_weight": _written(_one),
    "rate_high": lasting("rate_too_high", "exploding", "non_finite", rate=100),
    "rate_low": lasting("rate_too_low", rate=1e-5),
    "labels_shuffled": lasting("not_learning", batches=_shuffle),
    "inputs_raw": lasting("unscaled_inputs", batches=_raw),
    "init_zero": lasting("identical_units", change=initialise(lambda v: v * 0)),
    "init_huge": lasting("poor_start", "saturation", change=initialise(lambda v: v * 30)),
    "uphill": lasting("uphill", change=applying(lambda gs, ws: ([-g for g in gs], ws))),
    "wrong_output": lasting("output_mismatch", change=_wrong_output),
    "sorted": lasting("sorted_labels", batches=_sort, needs=has_classes),
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
