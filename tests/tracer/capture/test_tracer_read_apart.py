"""A step of many weights reads what it begins with in a function of its own; all else is equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import keras
import numpy as np
import pytest

from keras_models import cnn, images, weights_of
from steptrace_analyzer import open_trace
from steptrace_schema.names import X_GRADIENT, Kind
from steptrace_tracer import Tracer
from steptrace_tracer.capture import traced_step
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_tracer.capture.proven_step import Capture

TIMES = ("wall_time", "step_duration")


def train(path: Path, way: Capture, several: int, scaled: bool) -> Any:
    keras.utils.clear_session()
    model = cnn()
    optimizer: Any = keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.9)
    )
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, model.loss, steps_per_execution=several)
    x, y = images(72)
    tracer = Tracer(path, kinds=get_args(Kind), capture=way, on_error="raise", progress=False)
    for _ in range(2):  # the second one has other samples for its probe
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[tracer])
        x, y = x[::-1], y[::-1]
    return model


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("way", "several", "scaled"),
    [("inside", 3, False), ("beside", 1, True), ("auto", 1, True), ("inside", 1, False)],
)
def test_what_a_step_begins_with_is_the_same_where_another_function_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Capture, several: int, scaled: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"{name}.zarr" for name in ("together", "apart")]
    together = train(paths[0], way, several, scaled)
    monkeypatch.setattr(traced_step, "_READ_APART", 0)
    readers: list[bool] = []
    call = TracedStep._call

    def noting(step: TracedStep, *arguments: Any) -> Any:
        readers.append(step._reader is not None)
        return call(step, *arguments)

    monkeypatch.setattr(TracedStep, "_call", noting)
    apart = train(paths[1], way, several, scaled)
    assert several > 1 or (readers and all(readers))
    for left, right in zip(weights_of(together), weights_of(apart), strict=True):
        assert left.tobytes() == right.tobytes()
    one, other = map(open_trace, paths)
    compared = set()
    for node in one.subtree:
        assert set(node.data_vars) == set(other[node.path].data_vars)
        if node.path == "/statistics/inputs":  # of the same tensors in another order
            continue
        for name, array in node.data_vars.items():
            values = np.asarray(other[f"{node.path}/{name}"])
            if name == X_GRADIENT:  # of another program, so equal up to rounding
                np.testing.assert_allclose(values, array, rtol=1e-5, atol=1e-7)
            elif name not in TIMES:
                assert np.asarray(array).tobytes() == values.tobytes(), (node.path, name)
            compared.add(node.path.split("/")[1])
    assert compared >= {"scalars", "weights", "updates", "optimizer", "probe", "inputs"}
