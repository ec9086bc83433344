"""What a model says when the probe cannot call it is in the trace, all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import zarr

from keras_models import vectors
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


class OnlyTrained(keras.layers.Layer):  # type: ignore[misc]
    """Refuses to be called in inference mode, with a message of several lines."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training is False:
            msg = f"the first line\n\tand what\x1b[31m to do\x07: {'word ' * 2000}"
            raise RuntimeError(msg)
        return x


def test_the_message_of_a_model_that_cannot_be_probed_is_kept_whole(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), OnlyTrained(), keras.layers.Dense(2)], name="net")
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = vectors(8)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    (entry,) = [e for e in group.attrs["steptrace"]["missing"] if e["kind"] == "probe"]
    reason = entry["reason"]
    begin = "the model cannot be called with the batch (RuntimeError: "
    assert reason.startswith(begin)
    assert "the first line and what to do\\x07: word word" in reason
    assert reason.endswith("…); give Tracer(probe=...)")
    assert reason.isprintable()
    assert 1900 < len(reason) < 2100


def test_inputs_that_the_model_refuses_are_no_reason_to_stop_recording(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="relu", name="dense")], name="net"
    )
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = vectors(8)
    wide = np.zeros((4, 5), np.float32)
    tracer = Tracer(tmp_path / "run.zarr", probe=wide, on_error="raise", progress=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    (entry,) = [e for e in group.attrs["steptrace"]["missing"] if e["kind"] == "probe"]
    assert entry["reason"].startswith("the model cannot be called with the inputs of the probe (")
    assert "shape" in entry["reason"]
    assert np.asarray(group["weights/net/dense/kernel"]).shape == (3, 3, 2)
