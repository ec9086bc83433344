"""Several processes of one job: each writes a trace of its own into one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from object_store import free_ports
from steptrace_schema.errors import NotATraceError, TraceError
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer.session.workers import current_worker
from two_layers import TwoLayers

_SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from keras_models import mlp, vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_tracer import Tracer
x, y = vectors()
rank = int(sys.argv[2])
policy = dict(kinds=KINDS, probe_gradients_every=1, samples=4)
tracer = Tracer(sys.argv[1], on_error="raise", progress=False, **policy)
models = [mlp(), mlp()]
for model, callbacks in zip(models, ([], [tracer])):
    model.fit(x[rank::2], y[rank::2], batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
plain, traced = map(weights_of, models)
assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, traced))
"""


def tf_config(kind: str, index: int, **cluster: int) -> dict[str, str]:
    hosts = {name: [f"127.0.0.1:{i}" for i in range(n)] for name, n in cluster.items()}
    return {"TF_CONFIG": json.dumps({"cluster": hosts, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "2", "WORLD_SIZE": "3"}, (2, 3)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        (tf_config("worker", 1, worker=3), (1, 3)),
        (tf_config("worker", 0, chief=1, worker=2), (1, 3)),
        (tf_config("chief", 0, chief=1, worker=2, ps=1), (0, 3)),
        (tf_config("evaluator", 0, chief=1, worker=2), None),
        (tf_config("worker", 0, worker=1), None),
    ],
)
def test_the_rank_is_that_of_the_job(
    environment: dict[str, str], expected: tuple[int, int] | None
) -> None:
    worker = current_worker(environment)
    assert (worker and (worker.rank, worker.count)) == expected


def test_a_rank_that_makes_no_sense_is_an_error() -> None:
    with pytest.raises(TraceError, match="correct or unset"):
        current_worker({"RANK": "first", "WORLD_SIZE": "2"})


def test_every_worker_writes_its_trace_into_one_folder(tmp_path: Path) -> None:
    from keras_models import vectors

    folder = tmp_path / "job"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(folder), str(rank)],
            env=os.environ | tf_config("worker", rank, worker=2),
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    x, y = vectors()
    for rank in range(2):
        path = folder / f"worker-{rank}.zarr"
        assert validate(path) == []
        worker = read_attributes(path).worker
        assert worker is not None
        assert (worker.rank, worker.count) == (rank, 2)
        group = zarr.open_group(path, mode="r")
        assert np.asarray(group["scalars/step"]).tolist() == list(range(len(x) // 8))
        for step in range(len(x) // 8):
            batch = slice(8 * step + rank, 8 * (step + 1), 2)
            found = TwoLayers(group, step)
            found.agree_outputs(x[batch])
            found.agree_gradients(x[batch], lambda out: 2 * (out - y[batch]) / out.size)  # noqa: B023
            found.agree_probe()
    with pytest.raises(NotATraceError, match=r"2 traces.*worker-0\.zarr, worker-1\.zarr"):
        read_attributes(folder)


_TOGETHER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras
import numpy as np
import tensorflow as tf
from keras_models import vectors
from steptrace_tracer import Tracer
from steptrace_tracer.capture.proof_memory import ProofMemory
folder, rank, knows = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "knows"
ProofMemory.recall = lambda *_: "inside" if knows else None
strategy = tf.distribute.MultiWorkerMirroredStrategy()
keras.utils.set_random_seed(0)
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)

@tf.function
def train_step(x, y):
    def on_replica(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss
    return strategy.run(on_replica, args=(x, y))

x, y = (tf.constant(values[rank::2]) for values in vectors(32))
with Tracer(folder, on_error="raise", progress=False) as tracer:
    traced = tracer.wrap(train_step)
    for batch in range(4):
        traced(x[4 * batch : 4 * batch + 4], y[4 * batch : 4 * batch + 4])
"""


def test_workers_that_do_each_step_together_run_it_equally_often(tmp_path: Path) -> None:
    # One remembers a proof and the other does not: a step done again would wait for ever.
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    configs = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
        for rank in range(2)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TOGETHER, str(tmp_path / "run"), str(rank), knows],
            env=os.environ | {"TF_CONFIG": configs[rank]},
            stderr=subprocess.PIPE,
        )
        for rank, knows in enumerate(("knows", "does not"))
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said.decode()
            assert b"AutoGraph" not in said
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        path = tmp_path / "run" / f"worker-{rank}.zarr"
        assert validate(path) == []
        found = read_attributes(path)
        assert found.proofs == ()
        assert found.capture["gradients"] == "inside"
        (event,) = found.events
        assert "the workers do each step together" in event.message
    one, other = (
        zarr.open_group(tmp_path / "run" / f"worker-{rank}.zarr", mode="r") for rank in range(2)
    )
    kernel = "weights/sequential/dense/kernel"
    assert np.asarray(one[kernel]).tobytes() == np.asarray(other[kernel]).tobytes()
