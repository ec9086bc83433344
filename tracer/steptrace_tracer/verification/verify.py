"""Does the tracer change the training? Training with and without it, and comparing every bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.json_ready import as_json
from steptrace_tracer.verification.networks import Row
from steptrace_tracer.verification.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from steptrace_tracer.scripts.script import Script

Verdict = Literal["identical", "different", "not deterministic"]
"""What came out: the training is bit-identical with and without the tracer; the tracer changes it;
or two runs without the tracer differ already, so that nothing can be said about the tracer."""

_REPEATS: Final = 3
"""Runs without the tracer that have to be alike before a difference is laid to it.

A training that is not deterministic may come out the same twice.
"""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where two trainings differ first.

    Attributes
    ----------
    fit
        Number of the ``fit``, counted from 0.
    step
        The step, counted from 0, that left different values; -1 for values before the first step.
    tensor
        Path of the first weight or optimizer variable that differs; None where one training did
        steps that the other did not.
    """

    fit: int
    step: int
    tensor: str | None

    def __str__(self) -> str:
        """Return where it is, for a sentence."""
        what = "the number of steps" if self.tensor is None else f"'{self.tensor}'"
        when = "before its first step" if self.step < 0 else f"after step {self.step}"
        return f"{what} {when} of fit {self.fit + 1}"


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes
    ----------
    verdict
        Whether the training is the same.
    fits, steps, tensors
        How many calls of ``fit``, optimizer updates and variables were compared.
    difference
        The first difference: to the traced training, or between two that are not traced.
    """

    verdict: Verdict
    fits: int
    steps: int
    tensors: int
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields

    def __str__(self) -> str:
        """Return the finding as one sentence."""
        compared = f"{self.tensors} tensors over {self.steps} steps in {self.fits} fit(s)"
        if self.verdict == "identical":
            return f"bit-identical with and without the tracer: {compared}"
        if self.verdict == "different":
            return f"the tracer changes the training: first differs {self.difference}"
        return (
            "the training is not deterministic: two runs without the tracer differ, first in "
            f"{self.difference}; seed everything in it to verify the tracer"
        )


def verify(
    build: Callable[[], Any],
    data: Any,
    steps: int,
    *,
    policy: Policy | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Verification:
    """Train a model with and without the tracer from the same seed, and compare every bit.

    Parameters
    ----------
    build
        Returns a new compiled model; called two times, or up to five if they differ.
    data
        A ``tf.data.Dataset`` of batches, or a tuple of arrays ``(x, y)`` or ``(x, y, weights)``.
        It is repeated as often as `steps` needs.
    steps
        How many steps to train.
    policy
        What the tracer records; everything by default.
    batch_size
        Samples of a batch, if `data` are arrays.
    seed
        Seed that ``keras.utils.set_random_seed`` sets before each training.

    Returns
    -------
    Verification
        Whether all weights and optimizer variables are bit-identical after every step.

    Raises
    ------
    TraceError
        If tracing fails.

    Examples
    --------
    >>> verify(build_model, (x, y), steps=20).verdict  # doctest: +SKIP
    'identical'
    """
    from steptrace_tracer._tensorflow import keras, tf
    from steptrace_tracer.session.tracer import Tracer
    from steptrace_tracer.verification.weight_digests import WeightDigests

    if isinstance(data, tuple):
        data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
    batches = data.repeat().take(steps).cache()  # the same ones, also if the data set shuffles
    for _ in batches:
        pass

    def train(callbacks: list[Any]) -> list[State]:
        states: list[State] = []
        keras.utils.set_random_seed(seed)
        digests = WeightDigests(0, states.append)
        build().fit(batches, verbose=0, shuffle=False, callbacks=[*callbacks, digests])
        return states

    def traced() -> list[State]:
        with tempfile.TemporaryDirectory(prefix="steptrace-verify-") as folder:
            path = Path(folder) / "run.zarr"
            tracer = Tracer(path, policy or Policy(), on_error="raise", progress=False)
            return train([tracer])

    return compare(lambda: train([]), traced)


def verify_script(script: Script, *, policy: Policy | None = None, seed: int = 0) -> Verification:
    """Run a script with and without the tracer in every ``fit``, and compare every bit.

    Each run is a separate process, seeded by `seed` before the script begins. A script that
    writes files writes them in each run.

    Parameters
    ----------
    script
        The program.
    policy
        What the tracer records; everything by default.
    seed
        For Python, NumPy and Keras; the script may set its own.

    Returns
    -------
    Verification
        Whether all weights and optimizer variables are bit-identical after every step.

    Raises
    ------
    TraceError
        If the script fails, with or without the tracer, or calls no ``fit``.

    Examples
    --------
    >>> verify_script(Script("train.py", ("--epochs", "1"))).verdict  # doctest: +SKIP
    'identical'
    """
    script.check()
    with tempfile.TemporaryDirectory(prefix="steptrace-verify-") as name:
        folder = Path(name)

        def run(label: str, traces: Path | None) -> list[State]:
            return _run(script, folder / label, traces, policy or Policy(), seed)

        return compare(lambda: run("untraced", None), lambda: run("traced", folder / "traces"))


def verify_network(row: str, *, policy: Policy | None = None, seed: int = 0) -> Verification:
    """Train a well-known network with and without the tracer, and compare every bit.

    Parameters
    ----------
    row
        The network, as :mod:`steptrace_tracer.verification.networks` names it.
    policy
        What the tracer records; what the row says by default.
    seed
        For Python, NumPy and Keras.

    Returns
    -------
    Verification
        Whether all weights and optimizer variables are bit-identical after every step.

    Raises
    ------
    UnknownNameError
        If there is no such network.
    TraceError
        If it cannot be trained here.

    Examples
    --------
    >>> verify_network("MobileNetV2 64").verdict  # doctest: +SKIP
    'identical'
    """
    found = Row.of(row)
    return verify_script(found.script(), policy=policy or found.policy, seed=seed)


def compare(untraced: Callable[[], list[State]], traced: Callable[[], list[State]]) -> Verification:
    """Compare a training without the tracer to one with it, and to itself if they differ.

    To itself it is compared more than once: a training that is not deterministic may come out the
    same twice.

    Parameters
    ----------
    untraced, traced
        Train, and return the states in order.
    """
    plain = untraced()
    difference, verdict = first_difference(plain, traced()), "identical"
    if difference is not None:
        repeats = (first_difference(plain, untraced()) for _ in range(_REPEATS))
        own = next((each for each in repeats if each is not None), None)
        verdict = "different" if own is None else "not deterministic"
        difference = own or difference
    fits = {state.fit: state for state in plain}  # the last state of each
    return Verification(
        verdict,  # type: ignore[arg-type]
        len(fits),
        sum(last.step - _first_step(plain, fit) for fit, last in fits.items()),
        max((len(state.digests) for state in plain), default=0),
        difference,
    )


def first_difference(a: Iterable[State], b: Iterable[State]) -> Difference | None:
    """Return where two trainings differ first, None where they do not.

    Names are not compared: Keras numbers the layers of one process through.

    Examples
    --------
    >>> from steptrace_tracer.verification.state import State
    >>> left, right = (State(0, 1, (("dense/kernel", d),)) for d in ("0a", "0b"))
    >>> str(first_difference([left], [right]))
    "'dense/kernel' after step 0 of fit 1"
    """
    for left, right in itertools.zip_longest(a, b):
        state = left if left is not None else right
        if left is None or right is None or (left.fit, left.step) != (right.fit, right.step):
            return Difference(state.fit, state.step - 1, None)
        for one, other in itertools.zip_longest(left.digests, right.digests):
            if one is None or other is None or one[1] != other[1]:
                return Difference(state.fit, state.step - 1, (one or other)[0])
    return None


def _first_step(states: list[State], fit: int) -> int:
    return next(state.step for state in states if state.fit == fit)


def _run(
    script: Script, folder: Path, traces: Path | None, policy: Policy, seed: int
) -> list[State]:
    folder.mkdir(exist_ok=True)
    states, log = folder / "states.jsonl", folder / "output.txt"
    task = {
        "states": str(states),
        "traces": None if traces is None else str(traces),
        "policy": policy.model_dump(mode="json"),
        "seed": seed,
        "script": dataclasses.asdict(script),
    }
    command = [sys.executable, "-m", "steptrace_tracer.verification.process", json.dumps(task)]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        how = "without" if traces is None else "with"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it printed nothing"
        msg = f"{script} ended with exit status {done.returncode} {how} the tracer: {last}"
        raise TraceError(msg)
    found = list(_read(states)) if states.exists() else []
    if not found:
        msg = f"{script.name} called no fit of a Keras model, so there is nothing to compare"
        raise TraceError(msg)
    return found


def _read(path: Path) -> Iterator[State]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fit, step, digests = json.loads(line)
            yield State(fit, step, tuple((name, digest) for name, digest in digests))
