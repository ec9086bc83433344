"""More trainings that part at a known place: precision, resumption, replicas, another model."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from keras import layers

from steptrace_analyzer import diff, diff_checkpoint, first_divergence
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ("scalars", "weights", "gradients", "activations", "inputs", "optimizer")
BATCH, EPOCH_STEPS = 8, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH * EPOCH_STEPS, 6)).astype("f4")
Y = RNG.normal(size=(BATCH * EPOCH_STEPS, 2)).astype("f4")


def network(dtype: str = "float32", *, extra: bool = False) -> Any:
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), dtype="float32")
    hidden = layers.Dense(5, "tanh", name="hidden", dtype=dtype)(x)
    if extra:
        hidden = layers.Dense(5, name="extra", kernel_initializer="identity")(hidden)
    model = keras.Model(x, layers.Dense(2, name="out", dtype=dtype)(hidden), name="net")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def train(
    path: Path, model: Any, *callbacks: Any, x: Any = X, epochs: int = 2, **fields: Any
) -> Path:
    tracer = Tracer(path, kinds=KINDS, progress=False, on_error="raise", **fields)
    model.fit(
        x,
        Y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, tracer],
    )
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trace of eight steps; two epochs of four."""
    return train(tmp_path_factory.mktemp("base") / "base.zarr", network())


def at_step(step: int, change: Callable[[Any], None]) -> Any:
    class Change(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) == step:
                change(self.model)

    return Change()


def test_bfloat16_is_named_with_the_first_layer_that_computes_in_it(
    base: Path, tmp_path: Path
) -> None:
    found = first_divergence(base, train(tmp_path / "b.zarr", network("mixed_bfloat16")))
    place = found.place
    assert place is not None
    assert (place.step, place.phase) == (0, "forward")
    assert place.path.endswith("hidden/output")
    assert found.verdict == "differs"
    assert found.recognised[0] == (
        f"other precision: {place.name} has numbers of float32 in the first run, of bfloat16 in "
        "the second"
    )


def test_one_bit_of_one_weight_is_named_with_step_and_unit(base: Path, tmp_path: Path) -> None:
    def flip(model: Any) -> None:
        kernel = model.get_layer("hidden").kernel
        values = np.array(kernel.numpy())
        values.view("u4")[4, 2] ^= 1
        kernel.assign(values)

    found = first_divergence(base, train(tmp_path / "b.zarr", network(), at_step(3, flip)))
    place = found.place
    assert place is not None
    assert (place.step, place.phase, place.unit, place.index) == (3, "weights", 2, (4, 2))
    assert found.differing[0].distance is not None
    assert found.differing[0].distance.max_ulp == 1


def test_two_batches_that_were_exchanged_are_named(base: Path, tmp_path: Path) -> None:
    order = np.r_[0:8, 16:24, 8:16, 24:32]
    path = tmp_path / "b.zarr"
    tracer = Tracer(path, kinds=KINDS, progress=False, on_error="raise")
    network().fit(
        X[order],
        Y[order],
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[tracer],
    )
    found = first_divergence(base, path)
    place = found.place
    assert place is not None
    assert (place.step, place.phase, place.name) == (1, "batch", "inputs/x")
    assert found.recognised[0] == (
        "other order: the batch of step 1 of the first run is that of step 2 of the second"
    )


def test_an_extra_layer_is_listed_and_what_follows_it_is_compared(
    base: Path, tmp_path: Path
) -> None:
    found = first_divergence(base, train(tmp_path / "b.zarr", network(extra=True)))
    assert any("other model: only the second run has" in text for text in found.recognised)
    assert any("extra" in text for text in found.recognised)
    assert found.place is not None
    # The layer is the identity at first, so nothing that both have differs before it has learned.
    assert (found.place.step, found.place.phase) == (1, "forward")
    assert found.place.path.endswith("out/output")
    assert found.verdict == "differs"


def resumed(path: Path, *, with_slots: bool) -> Path:
    """Train one epoch, make the model again from its weights, and train the second epoch."""
    first = network()
    train(path, first, epochs=1)
    second = network()
    second.set_weights(first.get_weights())
    second.optimizer.build(second.trainable_variables)
    kept = first.optimizer.variables if with_slots else first.optimizer.variables[:2]
    for own, other in zip(second.optimizer.variables, kept, strict=False):
        own.assign(other)
    assert int(second.optimizer.iterations) == EPOCH_STEPS
    return train(path, second, epochs=1, resume=True)


def test_a_resumed_run_with_its_slots_is_equal(base: Path, tmp_path: Path) -> None:
    found = first_divergence(base, resumed(tmp_path / "b.zarr", with_slots=True))
    if found.place is not None:  # the number of the epoch begins at 0 again
        assert (found.place.step, found.place.name) == (EPOCH_STEPS, "scalars/epoch")
        kinds: Any = tuple(kind for kind in KINDS if kind != "scalars")
        found = first_divergence(base, tmp_path / "b.zarr", kinds=kinds)
    assert found.verdict == "equal"
    assert f"the second run was resumed at step {EPOCH_STEPS}" in found.recognised


@pytest.mark.long
def test_a_resumed_run_without_its_slots_differs_in_them_where_it_was_joined(
    base: Path, tmp_path: Path
) -> None:
    path = resumed(tmp_path / "b.zarr", with_slots=False)
    kinds: Any = tuple(kind for kind in KINDS if kind != "scalars")
    found = first_divergence(base, path, kinds=kinds)
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (EPOCH_STEPS, "optimizer")
    assert f"the second run was resumed at step {EPOCH_STEPS}" in found.recognised
    # Without the slots in the trace, the update that they make is what is seen.
    plain: Any = ("weights", "gradients", "inputs")
    later = first_divergence(base, path, kinds=plain).place
    assert later is not None
    assert (later.step, later.phase) == (EPOCH_STEPS + 1, "weights")


@pytest.mark.long
def test_a_run_that_counts_again_is_aligned_with_the_one_it_resumes(
    base: Path, tmp_path: Path
) -> None:
    first = network()
    train(tmp_path / "first.zarr", first, epochs=1)
    second = network()
    second.set_weights(first.get_weights())
    second.compile(keras.optimizers.Adam(0.01), "mse")
    path = train(tmp_path / "second.zarr", second, epochs=1)
    result = diff(base, path, align=True, kinds=("weights", "inputs"))
    found = result.divergence
    assert found is not None
    assert found.recognised[0].startswith("step t of the first run is step t - 4 of the second")
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (EPOCH_STEPS + 1, "weights")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3.15
def test_the_weights_that_keras_saved_are_those_of_the_last_row(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, "relu"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.2),
            layers.Dense(4),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    path = train(tmp_path / "a.zarr", model, epochs=1)
    model.save_weights(tmp_path / "a.weights.h5")
    result = diff_checkpoint(path, tmp_path / "a.weights.h5")
    assert (result.verdict, result.coverage.share, len(result.tensors)) == ("equal", 1, 10)
    assert not any("order and shape" in note.found for note in result.not_compared)
    other = diff_checkpoint(path, tmp_path / "a.weights.h5", step=2)
    assert (other.verdict, len(other.tensors)) == ("differs", 10)


REPLICAS = """
import os, sys
os.environ["STEPTRACE_QUIET"] = "1"
import keras, numpy as np, tensorflow as tf
from steptrace_tracer import Tracer
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 6)).astype("f4"), rng.normal(size=(64, 2)).astype("f4")
for path, devices in ((sys.argv[1], ["CPU:0"]), (sys.argv[2], ["CPU:0", "CPU:1"])):
    with tf.distribute.MirroredStrategy(devices).scope():
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)], name="net"
        )
        model.compile(keras.optimizers.SGD(0.05), "mse")
    tracer = Tracer(path, samples=16, on_error="raise", progress=False)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[tracer])
"""


@pytest.mark.slow
def test_two_replicas_and_one_differ_by_the_size_of_rounding(tmp_path: Path) -> None:
    paths = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    command = [sys.executable, "-c", REPLICAS, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = first_divergence(*paths)
    assert found.verdict == "rounding-sized", found
    assert found.place is not None
    assert found.place.step == 0
    assert found.place.phase in ("forward", "loss", "gradients", "backward")
