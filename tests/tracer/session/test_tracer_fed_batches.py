"""Batches that are handed to Keras' own train function as from their data set."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from keras_models import mlp, vectors
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer
from steptrace_tracer.session.fed_batches import FedBatches, can_feed

if TYPE_CHECKING:
    from pathlib import Path

_Y = [0, 1, 2, 3]
_DATA = {
    "numbers": lambda: tf.data.Dataset.from_tensor_slices(({"a": np.eye(4)}, _Y)),
    "texts": lambda: tf.data.Dataset.from_tensor_slices((tf.constant(["a", "b", "c", "d"]), _Y)),
    "ragged": lambda: tf.data.Dataset.from_tensor_slices(
        (tf.ragged.constant([[1], [2, 3], [], [4]]), _Y)
    ),
    "sparse": lambda: tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(np.eye(4)), _Y)),
}


@pytest.mark.parametrize("kind", _DATA)
def test_the_program_that_is_compiled_for_the_data_set_runs(kind: str) -> None:
    iterator = iter(_DATA[kind]().batch(3))
    assert can_feed(iterator.element_spec)

    take = tf.function(lambda batches: batches.get_next())
    fed = FedBatches(iterator.element_spec)
    first, second = next(iterator), next(iterator)  # the second one is smaller
    for found in (take(fed(first)), take(fed.alone(first))):
        _assert_equal(found, first)
    _assert_equal(take(fed(second)), second)
    take(iter(_DATA[kind]().batch(3)))
    assert take.experimental_get_tracing_count() == 1


def test_a_batch_that_is_alone_is_the_last_one() -> None:
    iterator = iter(_DATA["numbers"]().batch(2))
    alone = FedBatches(iterator.element_spec).alone(next(iterator))
    assert alone.get_next_as_optional().has_value()
    assert not alone.get_next_as_optional().has_value()


def test_what_has_no_spec_is_not_handed_over() -> None:
    assert not can_feed(None)


_REPLICAS = """
import gc, os, weakref
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from steptrace_tracer.session.fed_batches import FedBatches, can_feed

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
data = tf.data.Dataset.from_tensor_slices(({"a": tf.eye(7)}, tf.range(7))).batch(2)
iterator = iter(strategy.experimental_distribute_dataset(data))
spec = iterator.element_spec
assert can_feed(spec, strategy) and not can_feed(spec)
take = tf.function(lambda batches: batches.get_next(), reduce_retracing=True)
take(iter(strategy.experimental_distribute_dataset(data)))

def parts(batch):
    leaves = [strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(batch)]
    return [part.numpy().tolist() for leaf in leaves for part in leaf]

fed, before = FedBatches(spec, strategy), 0
for number, batch in enumerate(iterator):
    for found in (take(fed(batch)), take(fed.alone(batch))):
        assert parts(found) == parts(batch), number
assert number == 3
assert take.experimental_get_tracing_count() == 1
for _ in range(4):  # each is let go of without a crash, and leaves no thread behind
    left = weakref.ref(fed)
    del fed
    gc.collect()
    assert left() is None
    threads = len(os.listdir("/proc/self/task"))
    assert before in (0, threads), (before, threads)
    before = threads
    fed = FedBatches(spec, strategy)
    take(fed(batch))

def traced(x):  # Python collects garbage whenever it likes
    globals().pop("fed")
    gc.collect()
    return x + 1

function = tf.function(traced, autograph=False).get_concrete_function(tf.constant(1.0))
assert not [op for op in function.graph.get_operations() if "Queue" in op.type]
assert function(tf.constant(1.0)) == 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process of Linux")
def test_batches_of_replicas_are_handed_over_as_from_their_data_set() -> None:
    command = [sys.executable, "-c", _REPLICAS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]


def _assert_equal(found: Any, expected: Any) -> None:
    pairs = zip(
        tf.nest.flatten(found, expand_composites=True),
        tf.nest.flatten(expected, expand_composites=True),
        strict=True,
    )
    assert all((left.numpy() == right.numpy()).all() for left, right in pairs)


def test_a_traced_training_makes_no_data_set_of_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow has the C library give memory back at every step once there is one."""

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("a data set of from_generator is made")

    monkeypatch.setattr(tf.data.Dataset, "from_generator", refuse)
    x, y = vectors(24)
    for several in (1, 2):
        model = mlp()
        model.compile("sgd", "mse", steps_per_execution=several)
        tracer = Tracer(tmp_path / f"{several}.zarr", on_error="raise", progress=False)
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[tracer])
        assert read_attributes(tmp_path / f"{several}.zarr").proofs
