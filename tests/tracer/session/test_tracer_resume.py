"""One trace over several fits, in one process or in several."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.errors import TraceError
from steptrace_schema.format.retention import last
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.names import KINDS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture import graph_statistics
from steptrace_tracer.session import collect_step, incident_watch, last_weights
from two_layers import TwoLayers

if TYPE_CHECKING:
    import numpy.typing as npt

STEPS = 3
"""Steps of one epoch."""


def fit(model: Any, tracer: Any = None, epochs: int = 2) -> Any:
    x, y = vectors(STEPS * 8)
    callbacks = [] if tracer is None else [tracer]
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def squared_error_slope(y: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the gradient of the mean squared error."""
    slope: npt.NDArray[Any] = 2 * (out - y) / y.size
    return slope


def adam_mlp() -> Any:
    """Return a network whose optimizer remembers."""
    model = mlp()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def recorder(path: Path, **fields: Any) -> Tracer:
    """Return a tracer of all kinds."""
    return Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, **fields
    )


def arrays_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return everything but the times."""
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return {
        key: np.asarray(array)
        for key, array in members
        if isinstance(array, zarr.Array)
        and key not in ("scalars/wall_time", "scalars/step_duration", "scalars/epoch")
        and not key.startswith("scalars/metrics")
    }


def files_of(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_same(path: Path, expected: Path) -> None:
    assert validate(path) == []
    left, right = arrays_of(path), arrays_of(expected)
    assert left.keys() == right.keys()
    for key, values in left.items():
        # Statistics may be computed again from the same numbers; counts of rows are exact.
        assert values.shape == right[key].shape, key
        assert values.tobytes() == right[key].tobytes(), key


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trace of four epochs in one fit."""
    path: Path = tmp_path_factory.mktemp("whole") / "run.zarr"
    fit(adam_mlp(), recorder(path), epochs=4)
    return path


def test_a_second_fit_with_the_same_tracer_goes_on_with_its_trace(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "run.zarr"
    tracer = recorder(path)
    model = fit(fit(adam_mlp(), tracer), tracer)
    assert_same(path, whole)
    found = read_attributes(path)
    assert found.status == "complete"
    assert [(e.step, e.message) for e in found.events] == [(6, "recording was resumed here")]
    for expected, weight in zip(
        weights_of(fit(adam_mlp(), epochs=4)), weights_of(model), strict=True
    ):
        assert expected.tobytes() == weight.tobytes()


@pytest.mark.parametrize("way", ["one tracer", "resumed"])
def test_the_validation_at_the_end_of_a_fit_stays(tmp_path: Path, way: str) -> None:
    path, model, losses = tmp_path / "run.zarr", mlp(), []
    x, y = vectors(32)
    tracer = Tracer(path, on_error="raise", progress=False)
    for number, epochs in enumerate((2, 1, 2)):
        if way == "resumed" and number:
            tracer = Tracer(path, resume=True, on_error="raise", progress=False)
        history = model.fit(
            *(x, y),
            batch_size=8,
            epochs=epochs,
            verbose=0,
            validation_data=(x, y),
            callbacks=[tracer],
        )
        losses += history.history["val_loss"]
        if way == "resumed":
            tracer.close()
    tracer.close()
    rows = read_attributes(path).steps_recorded["validation"]
    found: Any = zarr.open_group(path / "validation", mode="r")
    assert found["step"][:rows].tolist() == [4, 8, 12, 16, 20]
    np.testing.assert_allclose(found["loss"][:rows], losses)
    assert validate(path) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_a_trace_goes_on_after_a_checkpoint_was_loaded(tmp_path: Path, whole: Path) -> None:
    path, checkpoint = tmp_path / "run.zarr", tmp_path / "model.keras"
    model = fit(adam_mlp(), recorder(path), epochs=2)
    model.save(checkpoint)
    fit(model, recorder(path, resume=True), epochs=1)
    # The run is thrown back to the checkpoint: the third epoch is trained and recorded again.
    again = keras.models.load_model(checkpoint)
    fit(again, recorder(path, resume=True), epochs=2)
    assert_same(path, whole)
    messages = [event.message for event in read_attributes(path).events]
    assert messages[1].endswith("earlier records of steps 6 to 8 were replaced")


def test_a_trace_of_which_a_budget_left_no_weights_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = recorder(path, step_bytes=100)
    fit(fit(adam_mlp(), tracer), tracer)
    found = read_attributes(path)
    assert (found.status, found.steps_recorded["scalars"]) == ("complete", 12)
    assert found.steps_recorded["updates"] == 0
    assert validate(path) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
@pytest.mark.parametrize("first_in_graph", [False, True])
def test_a_trace_of_statistics_alone_goes_on_as_one_of_the_tensors_does(
    tmp_path: Path, whole: Path, first_in_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kinds = tmp_path / "run.zarr", ("weights", "gradients", "activations")
    modules = (graph_statistics, collect_step, incident_watch, last_weights)
    for module in modules:  # the first part is trained as with an accelerator, or without one
        monkeypatch.setattr(module, "describes_in_graph", lambda: first_in_graph)
    checkpoint = tmp_path / "model.keras"
    fit(adam_mlp(), recorder(path, statistics_only=kinds)).save(checkpoint)
    for module in modules:
        monkeypatch.setattr(module, "describes_in_graph", lambda: False)
    model = keras.models.load_model(checkpoint)
    fit(model, recorder(path, statistics_only=kinds, resume=True))
    assert validate(path) == []
    left, right = arrays_of(path), arrays_of(whole)
    # Updates that the graph has described have rows of their own, which end with it.
    for kind in kinds if first_in_graph else (*kinds, "updates"):
        key = f"statistics/{kind}/values"
        np.testing.assert_allclose(left[key], right[key], rtol=1e-9, atol=1e-12)


def test_a_trace_that_keeps_few_tensors_keeps_every_update_that_it_has_described(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "run.zarr"
    tracer = recorder(path, retain=last(2))
    fit(fit(adam_mlp(), tracer), tracer)
    assert validate(path) == []
    found, expected = arrays_of(path), arrays_of(whole)
    for name in ("step", "values"):
        key = f"statistics/updates/{name}"
        assert found[key].tobytes() == expected[key].tobytes()


def test_resume_without_a_trace_begins_one(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    fit(mlp(), Tracer(path, resume=True, on_error="raise", progress=False), epochs=1)
    assert read_attributes(path).steps_recorded["scalars"] == STEPS
    assert read_attributes(path).events == ()


_TRAINING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras, psutil
from test_tracer_resume import adam_mlp, fit, recorder, vectors

def kill_all(*_):
    for process in psutil.Process().children():
        process.kill()
        process.wait()
    psutil.Process().kill()

class Last(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            end()
"""
"""Beginning of a script that trains in a process of its own."""


def killed(script: str, *arguments: object) -> None:
    """Run a script after :data:`_TRAINING` that ends by a kill."""
    command = [sys.executable, "-c", _TRAINING + script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr


def test_a_trace_whose_steps_are_all_in_its_journal_goes_on(tmp_path: Path, whole: Path) -> None:
    path, slow = tmp_path / "run.zarr", tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")  # a recorder that takes its time to start
    slow.chmod(0o755)
    script = """
end, sys.executable = kill_all, sys.argv[2]
tracer = recorder(sys.argv[1])
adam_mlp().fit(*vectors(24), batch_size=8, shuffle=False, verbose=0, callbacks=[tracer, Last()])
"""
    killed(script, path, slow)
    assert not path.exists()
    waiting = len(JournalReader(journal_path(path)).places())
    assert waiting >= STEPS - 1
    fit(fit(adam_mlp(), epochs=1), recorder(path, resume=True), epochs=3)
    assert validate(path) == []
    found, expected = arrays_of(path), arrays_of(whole)
    kept = [*range(waiting), *range(STEPS, 4 * STEPS)]
    assert found["scalars/step"].tolist() == kept
    for key in ("scalars/loss", "weights/mlp/hidden/kernel", "gradients/mlp/out/bias"):
        rows = kept if key.startswith(("scalars", "gradients")) else [*kept, 4 * STEPS]
        assert found[key].tobytes() == expected[key][rows].tobytes(), key


@pytest.mark.long
def test_a_trace_is_as_it_was_when_the_process_that_was_to_go_on_with_it_dies_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    fit(adam_mlp(), recorder(path))
    before = files_of(path)
    script = """
# Asked for when the first step has been done, and before it is recorded.
fit(adam_mlp(), recorder(sys.argv[1], resume=True, sample_ids=kill_all))
"""
    killed(script, path)
    assert files_of(path) == before
    assert not journal_path(path).exists()


def test_a_trace_that_another_process_writes_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    script = (
        _TRAINING
        + """
def end():  # the recorder, and then nothing
    psutil.Process().children()[0].kill()
    print("alone", flush=True)
    sys.stdin.read()

tracer = recorder(sys.argv[1])
model = fit(adam_mlp(), tracer)  # so that there is a store
model.fit(*vectors(24), batch_size=8, shuffle=False, verbose=0, callbacks=[tracer, Last()])
"""
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as training:
        try:
            assert training.stdout is not None
            assert training.stdout.readline() == "alone\n"
            count = len(JournalReader(journal_path(path)).places())
            assert count >= STEPS - 1
            # Whatever on_error says: hours of training without a trace are not what was asked for.
            with pytest.raises(TraceError, match=rf"still running \(process {training.pid}\)"):
                fit(adam_mlp(), Tracer(path, resume=True, progress=False))
            assert len(JournalReader(journal_path(path)).places()) >= count
        finally:
            training.kill()


def test_a_trace_that_goes_on_keeps_as_many_samples_as_before(tmp_path: Path) -> None:
    model = mlp()
    fit(model, recorder(tmp_path / "run.zarr", samples=2))
    fit(model, recorder(tmp_path / "run.zarr", resume=True))
    assert read_attributes(tmp_path / "run.zarr").policy.samples == 2
    assert arrays_of(tmp_path / "run.zarr")["inputs/x"].shape[:2] == (12, 2)
    assert validate(tmp_path / "run.zarr") == []


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    fit(mlp(), Tracer(path, progress=False), epochs=1)
    other = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(7, name="hidden"),
            keras.layers.Dense(2, name="out"),
        ],
        name="mlp",
    )
    deeper = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.ReLU()])
    for model, what in ((other, "'.*mlp/hidden.* has shape"), (deeper, "the layers Dense, ReLU")):
        model.compile("sgd", "mse")
        before = files_of(path)
        with pytest.raises(TraceError, match=rf"{what}.*another path"):
            fit(model, Tracer(path, resume=True, on_error="raise", progress=False))
        assert files_of(path) == before
    assert validate(path) == []


def test_layers_may_be_frozen_between_fits(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = recorder(path, samples=8)
    plain, traced = mlp(), mlp()
    for model, callback in ((plain, None), (traced, tracer)):
        fit(model, callback, epochs=1)
        model.layers[0].trainable = False
        model.compile("sgd", "mse")
        fit(model, callback, epochs=1)
    group, (x, y) = zarr.open_group(path, mode="r"), vectors(STEPS * 8)
    for t in range(2 * STEPS):
        rows = slice(t % STEPS * 8, (t % STEPS + 1) * 8)
        step = TwoLayers(group, t)
        step.agree_outputs(x[rows])
        slope = partial(squared_error_slope, y[rows])
        step.agree_gradients(x[rows], slope, frozen=t >= STEPS)
        step.agree_probe()
    for expected, weight in zip(weights_of(plain), weights_of(traced), strict=True):
        assert expected.tobytes() == weight.tobytes()
    assert validate(path) == []
    found = arrays_of(path)
    assert found["scalars/step"].tolist() == list(range(2 * STEPS))
    frozen = found["weights/mlp/hidden/kernel"]
    assert (frozen[STEPS:] == frozen[STEPS]).all()
    assert np.isfinite(found["gradients/mlp/hidden/kernel"][:STEPS]).all()
    assert np.isnan(found["gradients/mlp/hidden/kernel"][STEPS:]).all()
    without = [m for m in read_attributes(path).missing if m.path == "mlp/hidden/kernel"]
    assert without[0].steps == tuple(range(STEPS, 2 * STEPS))
    assert np.isfinite(found["gradients/mlp/out/kernel"]).all()


def test_the_trace_says_of_all_runs_how_steps_were_captured(tmp_path: Path) -> None:
    path, model = tmp_path / "run.zarr", mlp()
    fit(model, recorder(path))
    first = read_attributes(path)
    assert set(first.capture.values()) == {"inside"}
    assert first.proofs
    fit(model, recorder(path, resume=True, capture="beside"))
    second = read_attributes(path)
    assert set(second.capture.values()) == {"beside"}
    assert second.proofs == first.proofs
    model.compile(keras.optimizers.SGD(0.2), "mse")
    model.optimizer.iterations.assign(4 * STEPS)
    fit(model, recorder(path, resume=True))
    third = read_attributes(path)
    assert set(third.capture.values()) == {"beside"}  # as in a part of the trace
    assert third.proofs[: len(first.proofs)] == first.proofs
    assert third.proofs[-1].step >= 4 * STEPS


def test_what_was_compared_at_steps_that_are_recorded_again_is_no_proof_of_them(
    tmp_path: Path,
) -> None:
    path, model = tmp_path / "run.zarr", mlp()
    fit(model, recorder(path))
    again = mlp()  # from step 0 on
    fit(again, recorder(path, resume=True, capture="beside"))
    assert read_attributes(path).proofs == ()
