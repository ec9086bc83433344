"""Other ways to record every step of a Keras fit, each as its own documentation suggests.

Those that can record gradients get them from a ``train_step`` that assigns them to variables; its
cost is theirs, since Keras' callbacks see no gradients.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Peer:
    """One other way to record.

    Attributes
    ----------
    records
        What it keeps of a step, for the table.
    steps
        How many steps it is run for at most; fewer where it is slow.
    attach
        Takes the function that builds the compiled model, and an empty folder; returns the model to
        train, and its callbacks.
    """

    records: str
    steps: int
    attach: Callable[[Callable[[], Any], Path], tuple[Any, list[Any]]]


def _keeping(model: Any) -> Any:
    """Return `model` with a train step that keeps the gradients in ``model.kept``."""
    import keras
    import tensorflow as tf

    class Keeping(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            for kept, gradient in zip(self.kept, gradients, strict=True):
                kept.assign(gradient)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    keeping = Keeping(model.inputs, model.outputs)
    keeping.kept = [
        tf.Variable(tf.zeros(variable.shape), trainable=False)
        for variable in model.trainable_variables
    ]
    keeping.compile(model.optimizer, model.loss)
    return keeping


def _arrays(model: Any) -> dict[str, Any]:
    """Return the weights and the gradients as arrays."""
    arrays: dict[str, Any] = {}
    for number, variable in enumerate(model.trainable_variables):
        arrays[f"weights_{number}"] = variable.numpy()
        arrays[f"gradients_{number}"] = model.kept[number].numpy()
    return arrays


def _each_step(build: Callable[[], Any], save: Callable[[Any, int], None]) -> tuple[Any, list[Any]]:
    """Call `save` with the model and the step's number at the end of each step."""
    import keras

    model = _keeping(build())

    class Saving(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            save(model, batch)

    return model, [Saving()]


def _npz(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import numpy as np

    return _each_step(build, lambda model, step: np.savez(folder / f"{step}.npz", **_arrays(model)))


def _h5py(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import h5py

    file = h5py.File(folder / "steps.h5", "w")

    def save(model: Any, step: int) -> None:
        for name, values in _arrays(model).items():
            if name not in file:
                file.create_dataset(
                    name,
                    shape=(0, *values.shape),
                    maxshape=(None, *values.shape),
                    chunks=(1, *values.shape),
                    dtype=values.dtype,
                )
            file[name].resize(step + 1, axis=0)
            file[name][step] = values
        file.flush()  # else a killed training leaves a file that does not open

    return _each_step(build, save)


def _zarr(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import zarr

    group = zarr.create_group(folder / "steps.zarr")
    arrays: dict[str, Any] = {}

    def save(model: Any, step: int) -> None:
        for name, values in _arrays(model).items():
            if name not in arrays:
                arrays[name] = group.create_array(
                    name,
                    shape=(0, *values.shape),
                    chunks=(1, *values.shape),
                    dtype=values.dtype,
                )
            arrays[name].resize((step + 1, *values.shape))
            arrays[name][step] = values

    return _each_step(build, save)


def _save_weights(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import keras

    path = str(folder / "{epoch}-{batch}.weights.h5")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=1)
    return build(), [checkpoint]


def _tensorboard(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))

    def save(model: Any, step: int) -> None:
        with writer.as_default(step=step):
            for number, variable in enumerate(model.trainable_variables):
                tf.summary.histogram(f"weights/{number}", variable.value)
                tf.summary.histogram(f"gradients/{number}", model.kept[number])
        writer.flush()

    return _each_step(build, save)


def _dump_debug_info(build: Callable[[], Any], folder: Path) -> tuple[Any, list[Any]]:
    import tensorflow as tf

    # Without a limit: by default it keeps the last 1000 executions of an operation only.
    writer = tf.debugging.experimental.enable_dump_debug_info(
        str(folder), "FULL_TENSOR", circular_buffer_size=-1
    )
    import keras

    class Flushing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            writer.FlushNonExecutionFiles()
            writer.FlushExecutionFiles()

    return build(), [Flushing()]


PEERS = {
    "np.savez": Peer("weights, gradients", 500, _npz),
    "h5py": Peer("weights, gradients", 500, _h5py),
    "zarr": Peer("weights, gradients", 200, _zarr),
    "save_weights": Peer("weights, optimizer's state", 200, _save_weights),
    "TensorBoard": Peer("histograms of weights, gradients", 100, _tensorboard),
    "dump_debug_info": Peer("every output of every operation, unnamed", 50, _dump_debug_info),
}
"""The peers by the name that they have in the table."""
