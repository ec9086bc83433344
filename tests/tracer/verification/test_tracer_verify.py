"""``verify``: it finds a tracer that changes the training, and blames it for nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_models import cnn, images, mlp, vectors
from steptrace_schema.format.policy import Policy
from steptrace_tracer import verify
from steptrace_tracer.capture import nearby
from steptrace_tracer.capture.traced_step import TracedStep
from steptrace_tracer.verification.process import main
from steptrace_tracer.verification.state import State
from steptrace_tracer.verification.verify import first_difference


def test_a_training_is_found_identical_with_all_its_variables_and_steps() -> None:
    found = verify(cnn, images(), steps=7, batch_size=16)
    assert (found.verdict, found.steps, found.fits, found.difference) == ("identical", 7, 1, None)
    model = cnn()
    model.optimizer.build(model.trainable_variables)
    assert found.tensors == len(model.variables) + len(model.optimizer.variables)


def test_a_tracer_that_changes_one_bit_is_found_with_step_and_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = TracedStep.run
    calls: list[None] = []

    def one_bit(self: TracedStep, args: Any, kwargs: Any, original: Any) -> Any:
        result = run(self, args, kwargs, original)
        calls.append(None)
        if len(calls) == 3:
            bias = self.program.models[0].layers[1].bias
            bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return result

    monkeypatch.setattr(nearby, "TRIALS", 0)  # which would be runs of the first step
    monkeypatch.setattr(TracedStep, "run", one_bit)
    found = verify(mlp, vectors(), steps=4, batch_size=8)
    assert found.verdict == "different"
    assert found.difference is not None
    assert (found.difference.step, found.difference.tensor) == (2, "mlp/out/bias")
    assert "'mlp/out/bias' after step 2 of fit 1" in str(found)


def test_a_training_that_is_never_the_same_is_not_the_tracers_fault() -> None:
    def build() -> Any:
        model = mlp()
        noise = np.random.default_rng().normal(size=2)
        model.layers[1].bias.assign(noise)
        return model

    found = verify(build, vectors(), steps=2, policy=Policy(kinds=("weights",)))
    assert found.verdict == "not deterministic"
    assert found.difference is not None
    assert (found.difference.step, found.difference.tensor) == (-1, "mlp/out/bias")
    assert "before its first step" in str(found)


def test_the_first_difference_is_that_of_the_earliest_step() -> None:
    def states(*digests: str) -> list[State]:
        return [State(0, n, (("a", "0"), ("b", d))) for n, d in enumerate(digests)]

    assert first_difference(states("x", "y"), states("x", "y")) is None
    found = first_difference(states("x", "y", "z"), states("x", "q", "r"))
    assert (found and (found.step, found.tensor)) == (0, "b")
    shorter = first_difference(states("x", "y"), states("x"))
    assert shorter is not None
    assert str(shorter) == "the number of steps after step 0 of fit 1"


SCRIPT = """
import sys
import keras
from keras import layers
from keras_models import vectors
model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dropout(0.5)])
model.compile("adam", "mse")
for epochs in (1, 2):
    model.fit(*vectors(16), batch_size=8, epochs=epochs, verbose=0)
sys.exit(int(sys.argv[1]))
"""


def test_a_run_of_a_script_is_seeded_and_gives_the_state_of_every_step(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    rows = []
    for label, traces in (("a", None), ("b", tmp_path / "traces")):
        task = {
            "script": {
                "name": str(tmp_path / "train.py"),
                "arguments": ["5"],
                "is_module": False,
            },
            "policy": Policy().model_dump(mode="json"),
            "seed": 4,
            "states": str(tmp_path / label),
            "traces": None if traces is None else str(traces),
        }
        assert main(task) == 5
        lines = (tmp_path / label).read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    assert [(fit, step) for fit, step, _ in rows[0]] == [
        *((0, n) for n in (0, 1, 2)),
        *((1, n) for n in (2, 3, 4, 4, 5, 6)),
    ]
    digests = [[[digest for _, digest in state[2]] for state in run] for run in rows]
    assert digests[0] == digests[1]
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == ["0.zarr", "1.zarr"]
    assert keras.Model.fit.__module__.startswith("keras")


@pytest.mark.slow
def test_the_command_verifies_a_script_in_processes_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    models = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(models), *sys.path])}
    command = [sys.executable, "-m", "steptrace_analyzer", "verify", str(path)]
    done = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bit-identical with and without the tracer" in done.stdout
    path.write_text(
        SCRIPT.replace("import sys", "import os, sys").replace("0.5", "0.5, seed=os.getpid()")
    )
    done = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "not deterministic: two runs without the tracer differ" in done.stderr
