"""The last row of the weights is what the last step left, whatever callbacks do then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

RATE = 0.1


class StopsAt(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training in the midst of an epoch, and zeroes the weights as it does."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([0 * weight for weight in self.model.get_weights()])


def averaging() -> list[Any]:
    return [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, restore_best_weights=True),
    ]


def stopping() -> list[Any]:
    return [StopsAt()]


def train(callbacks: list[Any]) -> Any:
    model = mlp()
    model.compile(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.9), "mse")
    x, y = vectors(24)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        shuffle=False,
        verbose=0,
        validation_data=(x, y),
        callbacks=callbacks,
    )
    return model


@pytest.mark.parametrize("first", [True, False], ids=["tracer first", "tracer last"])
@pytest.mark.parametrize("others", [averaging, stopping])
def test_the_last_row_is_what_the_last_step_left_in_either_order_of_callbacks(
    tmp_path: Path, others: Any, first: bool
) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)
    plain = train(others())
    model = train([tracer, *others()] if first else [*others(), tracer])
    for expected, found in zip(weights_of(plain), weights_of(model), strict=True):
        assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    for name in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias"):
        weights = np.asarray(group[f"weights/mlp/{name}"])
        gradients = np.asarray(group[f"gradients/mlp/{name}"])
        # Plain gradient descent: what any step leaves, the last one included.
        np.testing.assert_allclose(
            weights[-1], weights[-2] - RATE * gradients[-1], rtol=1e-5, atol=1e-7
        )
    if not first:
        said = [event.message for event in read_attributes(path).events]
        assert any("4 of 4 weights were no longer those that the last step left" in m for m in said)
