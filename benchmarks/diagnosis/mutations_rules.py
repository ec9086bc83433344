"""Faults for the rules that the first mutations do not reach, so that each rule has one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from diagnosis.mutations import (
    AT,
    BATCH,
    Mutation,
    applying,
    floats,
    has_classes,
    initialise,
    lasting,
    sudden,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from diagnosis.programs import Program

_LOSSES: Final = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}
_BENT: Final = ("relu", "tanh", "elu", "softplus", "swish", "silu", "gelu", "sigmoid")


def _bent(program: Program, *names: str) -> list[Any]:
    """Return hidden layers with a kernel and an activation function of these names."""
    layers = [
        layer
        for layer in program.model.layers[:-1]
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv1D | keras.layers.Conv2D)
    ]
    return [layer for layer in layers if layer.activation.__name__ in (names or _BENT)]


def _normalising(program: Program) -> list[Any]:
    kind = keras.layers.BatchNormalization
    return [layer for layer in program.model.layers if isinstance(layer, kind)]


def _sigmoids(program: Program) -> None:
    for layer in _bent(program):
        layer.activation = keras.activations.sigmoid


def _flat(program: Program) -> None:
    _sigmoids(program)
    initialise(lambda v: v * 40)(program)


def _deepen(program: Program) -> None:
    """Put six layers of sigmoids before the last layer."""
    model = program.model
    last = model.layers[-1]
    more = [keras.layers.Dense(16, "sigmoid") for _ in range(6)]
    layers = [*model.layers[:-1], *more, type(last).from_config(last.get_config())]
    program.model = keras.Sequential([keras.Input(model.input_shape[1:]), *layers], name=model.name)


def _is_chain(program: Program) -> bool:
    """Whether layers can be put before the last one."""
    model = program.model
    return (
        isinstance(model, keras.Sequential)
        and program.train is None
        and isinstance(model.layers[-1], keras.layers.Dense)
        and len(model.output_shape) == 2
        and "inputs_raw" not in program.not_for
    )


def _is_dense(program: Program) -> bool:
    """Whether all layers are such as half precision is quick for on a processor."""
    kinds = keras.layers.Dense, keras.layers.InputLayer
    return all(isinstance(layer, kinds) for layer in program.model.layers)


def _below_zero(program: Program) -> None:
    for layer in _bent(program, "relu"):
        bias = layer.bias.numpy()
        bias[np.arange(len(bias)) % 8 > 0] = -30  # one unit of eight is left
        layer.bias.assign(bias)


def _cut(program: Program) -> None:
    """Let no gradient through to the first layer that has weights."""
    layer = next(layer for layer in program.model.layers if layer.trainable_weights)
    call = layer.call

    @functools.wraps(call)
    def stopped(*args: Any, **kwargs: Any) -> Any:
        return keras.ops.stop_gradient(call(*args, **kwargs))

    layer.call = stopped


def _stuck(program: Program) -> None:
    for layer in _normalising(program):
        layer.momentum = 1.0


def _penalty(program: Program) -> None:
    for weight in program.model.trainable_weights:
        if len(weight.shape) >= 2:
            weight.regularizer = keras.regularizers.L1(1.0)


def _sum(program: Program) -> None:
    program.loss = _LOSSES[program.loss](reduction="sum")


def _scale_grows(program: Program) -> None:
    usual = program.optimizer
    program.optimizer = lambda factor: keras.optimizers.LossScaleOptimizer(
        usual(factor), initial_scale=2.0**15, dynamic_growth_steps=1
    )


def _middle(weights: Any) -> int:
    kernels = [number for number, weight in enumerate(weights) if len(weight.shape) >= 2]
    return kernels[len(kernels) // 2]


def _one_uphill(gradients: Any, weights: Any) -> Any:
    wrong = _middle(weights)
    return [-g if n == wrong else g for n, g in enumerate(gradients)], weights


def _one_left_out(gradients: Any, weights: Any) -> Any:
    kept = [n for n in range(len(weights)) if n != _middle(weights)]
    return [gradients[n] for n in kept], [weights[n] for n in kept]


def _ten_times(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for x in floats(xs):
        x[rows] *= 10


def _repeat(xs: list[Any], ys: list[Any], rows: slice) -> None:
    for array in (*xs, *ys):
        array[:] = array[np.arange(len(array)) // BATCH * BATCH + np.arange(len(array)) % 4]


def _other_labels(xs: list[Any], ys: list[Any], rows: slice) -> None:
    ys[0][rows.start :] = (ys[0][rows.start :] + 1) % (int(ys[0].max()) + 1)


def _no_class(xs: list[Any], ys: list[Any], rows: slice) -> None:
    ys[0][rows.start + 3] = int(ys[0].max()) + 1000


def _some_wrong(xs: list[Any], ys: list[Any], rows: slice) -> None:
    """Move the labels of one sample in 25, each time that it is seen."""
    first = np.concatenate([x.reshape(len(x), -1) for x in xs], axis=1)
    _, sample = np.unique(first, axis=0, return_inverse=True)
    wrong = np.random.default_rng(11).random(int(sample.max()) + 1) < 1 / 25
    ys[0][wrong[sample]] = (ys[0][wrong[sample]] + 1) % (int(ys[0].max()) + 1)


def _rare(ys: list[Any]) -> npt.NDArray[np.intp]:
    """Return the samples of all classes, of the last one so few that it is one in 200."""
    last = ys[0] == ys[0].max()
    others = np.flatnonzero(~last)
    return np.concatenate([others, np.flatnonzero(last)[: max(1, len(others) // 200)]])


def _few(ys: list[Any]) -> npt.NDArray[np.intp]:
    return np.arange(2 * BATCH)


def _raw(xs: list[Any]) -> None:
    for x in floats(xs):
        x *= 255
        x += 100


def _has_floats(program: Program) -> bool:
    return "inputs_raw" not in program.not_for


def _keep(xs: list[Any]) -> None:
    pass


def _rate(at: Callable[[int], float], *rules: str, **how: Any) -> Mutation:
    return lasting(*rules, rate_at=at, **how)


MORE: Final[dict[str, Mutation]] = {
    "batch_clipped": sudden(
        "batch",
        "gradient_jump",
        batches=_ten_times,
        optimizer=lambda: keras.optimizers.Adam(3e-3, global_clipnorm=0.1),
    ),
    "labels_switch": sudden("labels", "loss_spike", batches=_other_labels, needs=has_classes),
    "rate_raised": sudden(
        "learning_rate", "diverging", rate_at=lambda n: 100.0 if n >= AT else 1.0
    ),
    "label_beyond": sudden(
        "set-up", "broken_off", AT - 1, batches=_no_class, needs=has_classes, raises=True
    ),
    "one_uphill": lasting("uphill", change=applying(_one_uphill)),
    "loss_sum": lasting(
        "rate_too_high",
        "exploding",
        "non_finite",
        change=_sum,
        needs=lambda program: isinstance(program.loss, str) and program.loss in _LOSSES,
    ),
    "scale_grows": lasting(
        "loss_scale",
        change=_scale_grows,
        policy="mixed_float16",
        severity="warning",
        needs=lambda program: program.train is None and _is_dense(program),
    ),
    "repeated": lasting("repeated_inputs", batches=_repeat, severity="warning"),
    "class_rare": lasting("class_imbalance", rows=_rare, needs=has_classes, severity="warning"),
    "replica_off": lasting(
        "replicas", on_replica=lambda v: v * 3, needs=lambda p: p.strategy is not None
    ),
    "penalty": lasting("regulariser", change=_penalty),
    "relus_dead": lasting(
        "dead_units", change=_below_zero, needs=lambda program: bool(_bent(program, "relu"))
    ),
    "cut": lasting("frozen", change=_cut, severity="warning", needs=lambda p: p.train is None),
    "sigmoids_flat": lasting(
        "saturation", "poor_start", change=_flat, needs=lambda program: bool(_bent(program))
    ),
    "sigmoids_deep": lasting(
        "vanishing", change=_deepen, optimizer=lambda: keras.optimizers.SGD(0.1), needs=_is_chain
    ),
    "rate_grows": _rate(lambda n: 1.1**n, "exploding", "non_finite", "diverging"),
    "rate_creeps": _rate(lambda n: 1.05 ** max(0, n - 100), "drift", "exploding", "diverging"),
    "left_out": lasting("unchanged", change=applying(_one_left_out)),
    "rate_edge": lasting(
        "oscillation", "rate_too_high", "exploding", optimizer=lambda: keras.optimizers.SGD(1.0)
    ),
    "moving_stuck": lasting(
        "normalisation",
        change=_stuck,
        validation=_keep,
        needs=lambda program: bool(_normalising(program)),
    ),
    "validation_raw": lasting(
        "inference_gap", validation=_raw, severity="warning", needs=_has_floats
    ),
    "rate_vanishes": _rate(lambda n: 1.0 if n < 40 else 1e-6, "plateau", severity="info"),
    "overfitted": lasting("overfitting", rows=_few, validation=_keep, severity="warning"),
    "labels_few": lasting(
        "suspect_samples", batches=_some_wrong, needs=has_classes, severity="info"
    ),
    "validated": Mutation(healthy=True, validation=_keep),
}
"""Faults and one more healthy variant, by their name."""
