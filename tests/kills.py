"""A run of known steps, its processes killed at any file operation or at any moment."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from journals import Arrays, attributes, write_journal
from steptrace_tracer.recorder_process import record

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

Victim = Literal["trainer", "recorder", "both"]

STEPS = 13
SHARD_STEPS = 4

_FILE_OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def known_steps() -> list[tuple[int, Arrays]]:
    """Return steps with weights, batches that grow, and gradients at every third step only."""
    rng = np.random.default_rng(0)
    steps: list[tuple[int, Arrays]] = []
    for step in range(STEPS):
        batch = 4 if step < 6 else 7
        arrays: Arrays = {
            "weights/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32),
            "activations/dense/output": rng.normal(size=(batch, 4)).astype(np.float32),
            "scalars/loss": np.array(rng.random(), dtype=np.float32),
        }
        if step % 3 == 0:
            arrays["gradients/dense/kernel"] = rng.normal(size=(3, 4)).astype(np.float32)
        steps.append((step, arrays))
    steps.append((STEPS, {"weights/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32)}))
    return steps


def run(
    store: Path,
    victim: Victim,
    operation: int,
    seconds: float,
    acknowledged: Any,
    *,
    step_by_step: bool = False,
) -> None:
    """Write :func:`known_steps` and move them, in two processes, of which one or both die.

    Parameters
    ----------
    store
        Where the trace goes.
    victim
        Who is killed.
    operation
        The file operation at which it is; 0 for none.
    seconds
        The time after which it is; 0 for none.
    acknowledged
        Gets the number of each step that is in the journal; ends when both processes have ended.
    step_by_step
        Whether each step waits until something comes back for the one before.
    """
    steps = known_steps()
    writer = write_journal(store, [], specify_for=steps, shard_steps=SHARD_STEPS)
    read, write = os.pipe()
    recorder = os.fork()
    if recorder == 0:
        os.close(write)
        if victim in ("recorder", "both"):
            _die(operation, seconds)
        record(writer.directory, store, read, os.getppid())
        os._exit(0)
    os.close(read)
    if victim in ("trainer", "both"):
        _die(operation, seconds)
    _write(writer, steps, acknowledged, step_by_step=step_by_step)
    os.close(write)
    os.waitpid(recorder, 0)


def _write(
    writer: Any,
    steps: list[tuple[int, Arrays]],
    acknowledged: Connection,
    *,
    step_by_step: bool,
) -> None:
    for step, arrays in steps:
        writer.append(step, arrays)
        acknowledged.send(step)
        if step_by_step:
            acknowledged.recv()
    writer.close("complete", None, attributes(shard_steps=SHARD_STEPS))


def _die(operation: int, seconds: float) -> None:
    """Kill this process at its file operation number `operation`, or after `seconds`."""
    counter = itertools.count(1)

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if (writing or event in _FILE_OPERATIONS) and next(counter) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    if operation:
        sys.addaudithook(kill)
    if seconds:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as SIGKILL does
        signal.setitimer(signal.ITIMER_REAL, seconds)
