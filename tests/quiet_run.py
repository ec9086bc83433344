"""The numbers of a quiet run, of which tests change some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plot_traces import make_trace
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_schema.format.attributes import Layer

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.finding import Finding

STEPS, BATCH, CLASSES = 120, 16, 3

Arrays = dict[str, Any]


def quiet_layers(activation: str = "relu", last: str | None = None) -> tuple[Layer, ...]:
    """Describe the layers of :func:`quiet_run`."""
    return tuple(
        Layer(path=f"net/{name}", name=name, class_name="Dense", activation=act)
        for name, act in (("first", activation), ("middle", activation), ("last", last))
    )


def quiet_run(steps: int = STEPS, rate: float = 0.1) -> Arrays:
    """Return a run whose loss falls, with gradients and updates of steady size: plain SGD."""
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return rng.normal(size=(steps, *shape)).astype(np.float32)

    arrays: Arrays = {
        "scalars/loss": (0.3 + np.exp(-np.arange(steps) / 40)).astype(np.float32),
        "scalars/learning_rate": np.full(steps, rate, np.float32),
        "scalars/batch_size": np.full(steps, BATCH),
        "inputs/x": draw(4, 6),
        "inputs/y": rng.integers(0, CLASSES, (steps, 4)),
        "inputs/sample_loss": rng.gamma(2.0, 0.2, (steps, BATCH)).astype(np.float32),
        "inputs/sample_digest": np.stack(
            [rng.permutation(64)[:BATCH] for _ in range(steps)]
        ).astype(np.int64),
    }
    for name, shape in (("first", (6, 8)), ("middle", (8, 8)), ("last", (8, CLASSES))):
        arrays[f"gradients/net/{name}/kernel"] = draw(*shape)
        arrays[f"gradients/net/{name}/bias"] = draw(shape[-1])
    follow_gradients(arrays, rate)
    return arrays


def follow_gradients(arrays: Arrays, rate: float = 0.1) -> None:
    """Set the kernels to what plain SGD makes of the gradients."""
    for name in ("first", "middle", "last"):
        gradient = arrays[f"gradients/net/{name}/kernel"]
        start = np.random.default_rng(5).normal(size=(1, *gradient.shape[1:]))
        steps = np.concatenate([start, -rate * gradient.astype(np.float64)])
        arrays[f"weights/net/{name}/kernel"] = np.cumsum(steps, axis=0).astype(np.float32)


def find(rule: str, arrays: Arrays, **fields: Any) -> list[Finding]:
    """Run one rule on a made trace."""
    fields = {"layers": quiet_layers(), "loss": "sparse_categorical_crossentropy", **fields}
    return list(diagnose(make_trace(arrays, **fields), rules=[rule]).findings)
