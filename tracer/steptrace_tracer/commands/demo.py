"""``steptrace demo``: a real training, one corrupted batch, and the trace that shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.errors import TraceError, TraceExistsError
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer._tensorflow import MISSING, keras
from steptrace_tracer.session.tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

BATCH_SIZE = 32
FULL_SCALE = 16
"""Largest pixel of a digit. The corrupted batch is the one that is not divided by it."""


def run_demo(folder: Path, steps: int) -> Path:
    """Train, trace, and analyse; print what happens.

    Parameters
    ----------
    folder
        Where the files go. Files of an earlier demo in it are replaced.
    steps
        Training steps, about three fifths of them before the corrupted batch.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    TraceError
        If a command fails, or the corrupted batch is not found.
    """
    trace, report = folder / "digits.zarr", folder / "digits.html"
    folder.mkdir(parents=True, exist_ok=True)
    _clear(trace)
    corrupted = steps * 3 // 5
    x, y = _batches(steps, corrupted)
    _say(
        f"Training a convolutional network on handwritten digits for {steps} steps, traced; "
        f"the batch of step {corrupted} is corrupted."
    )
    keras.utils.set_random_seed(0)
    model = _network()
    model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=[Tracer(trace)])
    _run("info", str(trace))
    _run("anomalies", str(trace), found_is_fine=True)
    _must_find(trace, corrupted)
    _run("report", str(trace), "-o", str(report))
    _say(
        f"The corrupted batch of step {corrupted} was found.\n"
        f"  trace   {trace}\n"
        f"  report  {report}   (open it in a browser)\n"
        f"Next: steptrace plot weights {trace} --layer conv --step {corrupted} -o weights.png"
    )
    return report


def _clear(trace: Path) -> None:
    """Make room for the demo's trace; anything that is not a demo's trace is left alone."""
    if not trace.exists():
        return
    model = read_attributes(trace).model
    if model is None or model.name != "digits":
        msg = f"{trace} exists and is not a trace of the demo; choose another folder with -o"
        raise TraceExistsError(msg)
    shutil.rmtree(trace)


def _batches(steps: int, corrupted: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return `steps` batches of digits one after the other, one of them corrupted."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        msg = MISSING.replace("TensorFlow is", "scikit-learn, whose digits the demo uses, is")
        raise TraceError(msg) from error

    digits = load_digits()
    rng = np.random.default_rng(0)
    count = steps * BATCH_SIZE
    passes = -(-count // len(digits.images))
    order = np.concatenate([rng.permutation(len(digits.images)) for _ in range(passes)])[:count]
    x = (digits.images[order, :, :, None] / FULL_SCALE).astype(np.float32)
    y = digits.target[order]
    wrong = slice(corrupted * BATCH_SIZE, (corrupted + 1) * BATCH_SIZE)
    x[wrong] *= FULL_SCALE
    y[wrong] = rng.permutation(y[wrong])
    return x, y


def _network() -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.Conv2D(32, 3, activation="relu", name="conv_2"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits",
    )
    # Plain momentum follows a wrong gradient all the way; Adam would damp it.
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _command(*arguments: str) -> list[str]:
    # The analyzer is reached by its command line: tracer and analyzer share the schema only.
    return [sys.executable, "-m", "steptrace_analyzer", *arguments]


def _run(*arguments: str, found_is_fine: bool = False) -> None:
    _say(f"\n$ steptrace {' '.join(arguments)}")
    code = subprocess.run(_command(*arguments), check=False).returncode
    if code and not (found_is_fine and code == 1):
        msg = f"'steptrace {' '.join(arguments)}' failed with exit code {code}"
        raise TraceError(msg)


def _must_find(trace: Path, corrupted: int) -> None:
    done = subprocess.run(
        _command("anomalies", str(trace), "--json"), check=False, capture_output=True, text=True
    )
    steps = [finding["first_step"] for finding in json.loads(done.stdout)["findings"]]
    if corrupted not in steps:
        msg = f"the corrupted batch of step {corrupted} was not found; found were {steps or 'none'}"
        raise TraceError(msg)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
