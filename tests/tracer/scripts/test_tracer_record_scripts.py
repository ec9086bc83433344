"""``steptrace record``: scripts that know nothing of the tracer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors
from steptrace_schema.errors import TraceError, TraceExistsError
from steptrace_schema.format.policy import Policy
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.scripts.every_fit import every_fit
from steptrace_tracer.scripts.record_script import record_script
from steptrace_tracer.scripts.script import Script

SCRIPT = """
import os, sys
assert sys.argv[0].rpartition(os.sep)[2] == "train.py" and __name__ == "__main__"
from keras_models import mlp, vectors
import beside
model = mlp()
x, y = vectors(16)
model.fit(x, y, batch_size=8, verbose=0, callbacks=None, shuffle=False)
model.fit(x, y, 8, 2, 0)
print(*sys.argv[1:], sep=",")
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "train.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    (path.parent / "beside.py").touch()
    return path


def write(folder: Path, text: str) -> Script:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return Script(str(path))


def test_each_fit_of_a_script_has_its_trace_and_the_script_its_arguments_and_status(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (keras.Model.fit, list(sys.path), sys.argv)
    found = record_script(
        Script(str(script), ("--epochs", "3")), tmp_path / "run.zarr", Policy(samples=8)
    )
    assert (keras.Model.fit, sys.path, sys.argv) == before
    assert found.exit_status == 3
    assert capsys.readouterr().out == "--epochs,3\n"
    assert found.traces == (tmp_path / "run.zarr", tmp_path / "run-2.zarr")
    first, second = (zarr.open_group(path, mode="r") for path in found.traces)
    assert all(validate(path) == [] for path in found.traces)
    # The second fit goes on where the first one ended, and its steps count on.
    kernel = np.asarray(first["weights/mlp/hidden/kernel"])
    assert (np.asarray(second["weights/mlp/hidden/kernel"])[0] == kernel[-1]).all()
    assert np.asarray(second["scalars/step"]).tolist() == [2, 3, 4, 5]
    x, _ = vectors(16)
    assert (np.asarray(first["inputs/x"]).reshape(16, 3) == x).all()


def test_traces_that_are_there_are_refused_before_the_script_runs(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run-7.zarr").mkdir()
    with pytest.raises(TraceExistsError, match=r"run-7\.zarr exists.*--overwrite"):
        record_script(Script(str(script)), tmp_path / "run.zarr", Policy())
    assert capsys.readouterr().out == ""


def test_every_form_of_callbacks_is_kept_and_a_tracer_of_the_fits_own_as_well(
    tmp_path: Path,
) -> None:
    class Count(keras.callbacks.Callback):  # type: ignore[misc]
        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1

    made: list[Any] = []

    def added(present: list[Any]) -> list[Any]:
        if any(isinstance(callback, Tracer) for callback in present):
            return []
        path = tmp_path / f"{len(made)}.zarr"
        made.append(Tracer(path, kinds=("weights",), on_error="raise", progress=False))
        return [made[-1]]

    x, y = vectors(16)
    model, count = mlp(), Count()
    everything = keras.callbacks.CallbackList([count], model=model, epochs=1, steps=2)
    own = Tracer(tmp_path / "own.zarr", kinds=("weights",), progress=False)
    with every_fit(added):
        for callbacks in (None, count, everything, [own]):
            model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
    assert count.steps == 4
    assert everything.callbacks == [count]
    assert len(made) == 3
    for path in [*(tracer.path for tracer in made), own.path]:
        assert read_attributes(path).status == "complete"
        assert read_attributes(path).steps_recorded["weights"] == 3
    model.fit(x, y, batch_size=8, verbose=0)
    assert len(made) == 3


def test_recording_a_script_does_not_change_its_weights(tmp_path: Path) -> None:
    saved = tmp_path / "weights.npz"
    program = write(
        tmp_path,
        f"""
        import numpy as np
        from keras_models import cnn, images, weights_of
        model = cnn()
        model.fit(*images(), batch_size=16, epochs=2, verbose=0)
        np.savez({str(saved)!r}, *weights_of(model))
        """,
    )
    assert program.run() == 0
    plain = dict(np.load(saved))
    assert record_script(program, tmp_path / "run.zarr", Policy()).exit_status == 0
    for name, weight in np.load(saved).items():
        assert weight.tobytes() == plain[name].tobytes()


def test_an_exception_of_the_script_is_shown_as_python_shows_it_and_is_in_the_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = write(
        tmp_path,
        """
        import keras
        from keras_models import mlp, vectors

        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                raise OSError("the lamp fell over")

        mlp().fit(*vectors(), verbose=0, callbacks=[Stop()])
        """,
    )
    found = record_script(program, tmp_path / "run.zarr", Policy())
    assert found.exit_status == 1
    shown = capsys.readouterr().err
    shown = shown[shown.index("Traceback (most recent call last):") :]
    assert "script.py" in shown.splitlines()[1]
    assert "OSError: the lamp fell over" in shown
    attributes = read_attributes(found.traces[0])
    assert attributes.status == "incomplete"
    assert "the lamp fell over" in str(attributes.status_reason)


@pytest.mark.parametrize(
    ("text", "status"), [("import sys; sys.exit('no data')", 1), ("raise SystemExit(4)", 4)]
)
def test_the_exit_status_is_pythons(tmp_path: Path, text: str, status: int) -> None:
    assert write(tmp_path, text).run() == status


def test_a_script_without_a_fit_is_an_error_and_so_is_none(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"called no fit.*Tracer\.wrap"):
        record_script(write(tmp_path, "import keras"), tmp_path / "run.zarr", Policy())
    with pytest.raises(TraceError, match="is not a file"):
        record_script(Script(str(tmp_path / "none.py")), tmp_path / "run.zarr", Policy())


def test_the_command_records_a_module_and_leaves_the_import_of_keras_to_it(
    tmp_path: Path,
) -> None:
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text(
        "import sys\nassert not {'keras', 'tensorflow'} & set(sys.modules)\n" + SCRIPT
    )
    (tmp_path / "beside.py").touch()
    command = [sys.executable, "-m", "steptrace_analyzer", "record", "-o", "a.zarr"]
    command += ["--kind", "weights", "--every", "2", "-m", "project.train", "--every", "5"]
    models = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(models), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "--every,5\n"
    assert "traces: a.zarr, a-2.zarr" in done.stderr
    policy = read_attributes(tmp_path / "a.zarr").policy
    assert (policy.every, policy.kinds) == (2, ("weights",))
