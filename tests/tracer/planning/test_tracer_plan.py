"""``steptrace plan``: what a trace will cost, and a model that is as before."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_models import cnn, images, mlp, vectors, weights_of
from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.storage.contents import file_sizes
from steptrace_tracer import Tracer, plan
from steptrace_tracer.planning.document import PlannedTensors
from steptrace_tracer.planning.plan import Plan, tracer_line
from steptrace_tracer.planning.script import plan_script
from steptrace_tracer.planning.text import describe, parse_bytes
from steptrace_tracer.scripts.script import Script

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("weights", "gradients", "activations", "activation_gradients", "inputs")


@pytest.fixture(scope="module")
def planned() -> Plan:
    x, y = vectors(8)
    return plan(mlp(), (x, y), kinds=KINDS, samples=2, steps=100, budget=20_000)


def test_bytes_are_those_of_the_tensors(planned: Plan) -> None:
    found = {(row.kind, row.layer): row.step_bytes for row in planned.tensors}
    assert found["weights", "mlp/hidden"] == found["gradients", "mlp/hidden"] == 4 * (3 * 4 + 4)
    assert found["weights", "mlp/out"] == 4 * (4 * 2 + 2)
    assert found["activations", "mlp/hidden"] == 4 * 2 * 4
    assert found["activation_gradients", "mlp/out"] == 4 * 2 * 2
    # x and its gradient, y, and for each of 8 samples digest, loss and weight, where there are any.
    assert found["inputs", ""] >= 4 * 2 * (3 + 3 + 2) + 8 * 8
    assert planned.step_bytes == sum(found.values())
    weights = 4 * (3 * 4 + 4 + 4 * 2 + 2)
    assert planned.run_bytes == 100 * planned.step_bytes + weights
    assert planned.traced_seconds > 0
    assert planned.slow_down == planned.traced_seconds / planned.untraced_seconds


def test_the_policy_that_fits_records_as_many_steps_as_the_budget_has_room_for(
    planned: Plan,
) -> None:
    fitting = planned.fitting
    assert fitting is not None
    assert fitting.total_bytes == 20_000
    weights = 4 * (3 * 4 + 4 + 4 * 2 + 2)
    # Every n-th step holds its update as well, with the update's statistics.
    updates = sum(row.step_bytes for row in planned.unless_consecutive)
    assert updates == weights

    def taken(every: int) -> int:
        return -(-100 // every) * (planned.step_bytes + updates) + weights

    assert taken(fitting.every) <= 20_000 < taken(fitting.every - 1)
    line = tracer_line(fitting)
    assert f"every={fitting.every}" in line
    assert line in describe(planned)
    made = eval(line, {"Tracer": Tracer})
    assert made.policy == fitting


def test_a_budget_without_room_for_a_step_is_said_to_be_too_small() -> None:
    row = Plan(Policy(), (), (), 10, None, 1.0, 1.5, 5, None)
    assert "not even one step" in describe(row)
    assert "1.50 times as long" in describe(row)


def test_the_interval_of_every_auto_is_said_and_its_bytes_are_counted() -> None:
    row = PlannedTensors("weights", "dense", 2, 1000)
    auto = Policy(max_slowdown=0.1)
    found = Plan(auto, (row,), (), 100, None, untraced_seconds=1.0, traced_seconds=1.45)
    assert found.every() == 5
    assert found.run_bytes == 20 * 1000 + 1000
    assert "every='auto' records one step in 5" in describe(found)
    assert "the tracer: Tracer('run.zarr', every='auto')" in describe(found)
    assert found.to_dict()["every"] == 5
    looser = dataclasses.replace(found, policy=Policy(max_slowdown=0.5))
    assert "to stay within 50% more time, every='auto' records every step" in describe(looser)
    assert tracer_line(looser.policy) == "Tracer('run.zarr', every='auto', max_slowdown=0.5)"


@pytest.mark.parametrize("fields", [{}, {"every": 2}, {"statistics_only": ("weights",)}])
def test_bytes_on_disk_are_about_those_of_the_run(tmp_path: Path, fields: dict[str, Any]) -> None:
    x, y = images(240)
    planned = plan(cnn(), (x[:8], y[:8]), steps=30, steps_per_epoch=30, **fields)
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, progress=False, **fields)
    cnn().fit(x, y, batch_size=8, verbose=0, callbacks=[tracer])
    found = sum(file_sizes(path).values())
    assert planned.stored_bytes == pytest.approx(found, rel=0.2)


def test_planning_leaves_the_model_and_its_later_training_as_they_were() -> None:
    def train(model: Any) -> Any:
        keras.utils.set_random_seed(2)
        model.fit(*images(), batch_size=16, verbose=0)
        return model

    x, y = images(16)
    plain, planned = cnn(), cnn()
    before = weights_of(planned)
    function, history = planned.train_function, getattr(planned, "history", None)
    plan(planned, (x, y), kinds=("weights",))
    assert all((a == b).all() for a, b in zip(before, weights_of(planned), strict=True))
    assert planned.train_function is function
    assert getattr(planned, "history", None) is history
    assert int(planned.optimizer.iterations.numpy()) == 0
    for left, right in zip(weights_of(train(plain)), weights_of(train(planned)), strict=True):
        assert left.tobytes() == right.tobytes()


SCRIPT = """
from keras_models import mlp, vectors
model = mlp()
print("before")
model.fit(*vectors(20), batch_size=8, epochs=5, verbose=0)
print("after")
"""


_OWN_OPTIMIZER = """
import keras
import numpy as np

class Outer(keras.optimizers.Optimizer):  # is never built
    def __init__(self):
        super().__init__(learning_rate=0.1)
        self.inner = keras.optimizers.Adam(0.01)

    def apply(self, grads, trainable_variables=None):
        self.inner.apply_gradients(zip(grads, trainable_variables))
        self.iterations.assign_add(1)

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile(Outer(), "mse")
model.fit(np.zeros((16, 3)), np.zeros((16, 2)), batch_size=8, verbose=0)
"""


def test_a_script_whose_optimizer_only_a_step_builds_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(_OWN_OPTIMIZER)
    found = plan_script(Script(str(path)), Policy(kinds=("weights",)))
    assert found.steps == 2
    assert found.step_bytes >= 4 * (3 * 2 + 2)


def test_a_script_is_planned_at_its_first_step_and_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    found = plan_script(Script(str(path)), Policy(kinds=("weights",)))
    assert capsys.readouterr().out == "before\n"
    assert (found.steps, found.steps_per_epoch) == (15, 3)
    weights = 4 * (3 * 4 + 4 + 4 * 2 + 2)
    assert sum(row.step_bytes for row in found.tensors if row.kind == "weights") == weights
    path.write_text("import keras")
    with pytest.raises(TraceError, match="before a fit"):
        plan_script(Script(str(path)), Policy())


@pytest.mark.slow
def test_the_command_prints_a_tracer_to_copy(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "steptrace_analyzer", "plan", "--json", "--budget", "40kB"]
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, env=environment, check=True
    )
    found = json.loads(done.stdout.partition("before\n")[2])
    assert found["budget"] == 40_000
    assert found["fitting"].startswith("Tracer('run.zarr', every=")


@pytest.mark.parametrize(
    ("text", "count"), [("10GB", 10**10), ("1.5 MiB", 3 * 2**19), ("7", 7), ("2k", 2000)]
)
def test_bytes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["ten", "0", "-3GB", "5 bananas"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(TraceError, match="not a number of bytes"):
        parse_bytes(text)


def test_the_batch_may_be_of_tensors_and_with_weights() -> None:
    x, y = vectors(8)
    batch = (tf.constant(x), tf.constant(y), tf.ones(8))
    found = plan(mlp(), batch, kinds=("gradients",))
    assert found.run_bytes is None
    assert np.isfinite(found.slow_down)
