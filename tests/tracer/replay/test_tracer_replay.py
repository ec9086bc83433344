"""A recorded step, run again in its own script, gives the same bits."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer import open_trace
from steptrace_schema.errors import StepNotRecordedError, TraceError
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer.replay.replay_script import replay_script
from steptrace_tracer.scripts.script import Script
from steptrace_tracer.session import incident_watch

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_tracer.replay.replay import Replay

HEAD = """
import sys
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from steptrace_tracer import Tracer

kind, way, seed = sys.argv[1:4]
keras.utils.clear_session()
keras.utils.set_random_seed(int(seed))
rng = np.random.default_rng(int(seed))
trace = {trace!r}
"""

NETWORKS = """
if kind == "digits":
    from steptrace_tracer.commands.demo import _batches, _network
    x, y = _batches(8, 4)
    model, loss = _network(), None
elif kind == "lstm":
    x = rng.normal(size=(64, 6, 4)).astype("float32")
    y = rng.normal(size=(64, 2)).astype("float32")
    inner = [layers.LSTM(5, return_sequences=True), layers.LSTM(3), layers.Dense(2)]
    model = keras.Sequential([keras.Input((6, 4)), *inner])
    loss = "mse"
elif kind == "random":
    x = rng.normal(size=(64, 8, 8, 2)).astype("float32")
    y = rng.integers(0, 3, 64)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.RandomFlip(),
            layers.RandomRotation(0.2),
            layers.RandomTranslation(0.1, 0.1),
            layers.GaussianNoise(0.1),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.SpatialDropout2D(0.3),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
if loss is not None:
    model.compile("adam", loss, metrics=["mae"] if loss == "mse" else ["accuracy"])
model.run_eagerly = way == "eager"
"""

MARKED = (
    HEAD
    + NETWORKS
    + """
tracer = Tracer(trace, on_error="raise", progress=False, overwrite=True, capture={capture!r})

class Mark(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            tracer.mark()

model.fit(
    x, y, batch_size=len(x) // 8, shuffle=False, verbose=0, callbacks=[tracer, Mark()]
)
"""
)


def write(path: Path, text: str, **values: Any) -> Path:
    for name, value in values.items():
        text = text.replace(f"{{{name}!r}}", repr(value))
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def run(script: Path, *arguments: str) -> None:
    assert Script(str(script), arguments).run() == 0


def again(script: Path, trace: Path, step: int, *arguments: str, **options: Any) -> Replay:
    return replay_script(Script(str(script), arguments), trace, step, **options)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", ["compiled", "eager", "beside"])
@pytest.mark.parametrize("kind", ["digits", "lstm", "random"])
def test_a_marked_step_is_repeated_bit_for_bit(tmp_path: Path, kind: str, way: str) -> None:
    trace = tmp_path / "run.zarr"
    capture = "beside" if way == "beside" else "auto"
    script = write(tmp_path / "train.py", MARKED, trace=str(trace), capture=capture)
    run(script, kind, way, "1")
    before = {p: p.read_bytes() for p in trace.rglob("*") if p.is_file()}
    # With another seed: first weights, batches and random layers are others, so that whatever was
    # not restored would show.
    found = again(script, trace, 5, kind, way, "2")
    assert found.not_restored == ()
    assert found.is_same, str(found)
    names = {each.name for each in found.compared}
    gradients = {f"gradients/{p}" for p in read_attributes(trace).declared["gradients"]}
    assert names == gradients | {"scalars/loss"}
    assert {p: p.read_bytes() for p in trace.rglob("*") if p.is_file()} == before


def test_a_step_whose_slots_are_too_large_to_be_held_is_repeated_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_watch, "SLOT_BYTES", 1000)
    trace = tmp_path / "run.zarr"
    script = write(tmp_path / "train.py", MARKED, trace=str(trace), capture="auto")
    run(script, "lstm", "compiled", "1")
    (incident,) = read_attributes(trace).incidents
    assert not any(key.startswith("optimizer/") for key in incident.arrays)
    assert any(key.startswith("weights/") for key in incident.arrays)
    (lacks,) = incident.not_kept
    assert lacks.startswith("what the optimizer remembers, ")
    found = again(script, trace, 5, "lstm", "compiled", "2")
    assert found.not_restored == (lacks,)
    assert found.is_same, str(found)


# The loss is not linear in the output: TensorFlow would drop the order between reading a weight and
# assigning it where no gradient depends on what is read (its dependency optimizer), and the step
# would not repeat itself.
ONE_OF_400 = (
    HEAD
    + """
x = rng.random((400 * 4, 3)).astype("float32")
x[237 * 4 + 2] = -30.0
model = keras.Sequential(
    [keras.Input((3,)), layers.Dense(4, name="hidden"), layers.Dropout(0.2), layers.Dense(1)]
)
model.compile(keras.optimizers.SGD(1e-4), lambda y, p: tf.reduce_mean(tf.math.log(y) * p**2))
y = x.sum(axis=1, keepdims=True)
model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[Tracer(trace, progress=False)])
"""
)


def test_a_nan_that_one_batch_of_400_makes_is_made_again_and_its_operation_named(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "run.zarr"
    script = write(tmp_path / "train.py", ONE_OF_400, trace=str(trace))
    run(script, "nan", "compiled", "1")
    incident = read_attributes(trace).incidents[0]
    assert (incident.step, incident.cause) == (237, "loss")
    found = again(script, trace, 237, "nan", "compiled", "2")
    assert found.is_same, str(found)
    kept = open_trace(trace)["incidents/237"]
    assert np.isnan(float(kept["scalars/loss"]))
    command = [sys.executable, "-m", "steptrace_analyzer", "replay", str(trace), "--step", "237"]
    command += ["--check-numerics", str(script), "nan", "compiled", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1, said.stderr
    assert '"Log"' in said.stdout


CRASH = (
    HEAD
    + """
x, y = rng.random((64, 3)).astype("float32"), rng.integers(0, 3, 64)
if seed == "1":
    y[6 * 8 + 1] = 5
model = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
with Tracer(trace, progress=False, overwrite=True) as tracer:
    try:
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[tracer])
    except tf.errors.InvalidArgumentError:
        tracer.__exit__(*sys.exc_info())
"""
)


def test_a_crash_is_repeated(tmp_path: Path) -> None:
    trace = tmp_path / "run.zarr"
    script = write(tmp_path / "train.py", CRASH, trace=str(trace))
    run(script, "crash", "compiled", "1")
    assert [i.step for i in read_attributes(trace).incidents] == [6]
    found = again(script, trace, 6, "crash", "compiled", "2")
    assert found.error_is_recorded
    assert found.is_same
    assert "Received a label value of 5" in str(found)


LOOP = (
    HEAD
    + """
model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(2)])
optimizer = keras.optimizers.Adam({rate!r})

@tf.function
def train_step(batch, factor):
    x, y = batch
    with tf.GradientTape() as tape:
        loss = factor * tf.reduce_mean(tf.square(model(x, training=True) - y))
    optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    return loss

x = rng.normal(size=(12, 8, 3)).astype("float32")
kinds = ("weights", "gradients", "optimizer", "inputs", "scalars")
fields = {} if kind == "marked" else {"kinds": kinds, "samples": 8}
with Tracer(trace, on_error="raise", progress=False, overwrite=True, **fields) as tracer:
    step = tracer.wrap(train_step)
    for number in range(12):
        step((tf.constant(x[number]), tf.constant(x[number, :, :2])), tf.constant(0.5))
        if number == 7 and kind == "marked":
            tracer.mark()
"""
)


def test_a_step_of_a_custom_loop_is_repeated_and_a_changed_script_is_seen(tmp_path: Path) -> None:
    trace = tmp_path / "run.zarr"
    script = write(tmp_path / "train.py", LOOP, trace=str(trace), rate=0.01)
    run(script, "marked", "-", "1")
    assert again(script, trace, 7, "marked", "-", "2").is_same
    changed = script.read_text(encoding="utf-8").replace("tf.square", "tf.abs")
    other = tmp_path / "changed.py"
    other.write_text(changed, encoding="utf-8")
    found = again(other, trace, 7, "marked", "-", "2")
    assert not found.is_same
    assert {each.name for each in found.compared if not each.identical} >= {"scalars/loss"}
    with pytest.raises(StepNotRecordedError, match=r"steps that are kept as a whole: 7"):
        again(script, trace, 6, "marked", "-", "2")
    with pytest.raises(TraceError, match="before fit 2"):
        again(script, trace, 7, "marked", "-", "2", fit=2)


def test_a_step_of_which_the_policy_kept_everything_is_repeated_but_for_random_layers(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "run.zarr"
    alone = LOOP.replace("batch, factor", "batch").replace("factor *", "0.5 *")
    alone = alone.replace(", tf.constant(0.5))", ")")
    text = alone.replace("layers.Dropout(0.5), ", "")
    script = write(tmp_path / "train.py", text, trace=str(trace), rate=0.01)
    run(script, "everything", "-", "1")
    found = again(script, trace, 9, "everything", "-", "2")
    assert found.is_same, str(found)
    assert found.not_restored == ()
    with_random = write(tmp_path / "with_dropout.py", alone, trace=str(trace), rate=0.01)
    run(with_random, "everything", "-", "1")
    found = again(with_random, trace, 9, "everything", "-", "2")
    assert not found.is_same
    assert any("random layers" in each for each in found.not_restored)
