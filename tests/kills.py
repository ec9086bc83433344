"""A run of known steps, its processes killed at any file operation or at any moment."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from journals import Arrays, attributes, write_journal
from steptrace_schema.journal.ring import RingSize
from steptrace_tracer.record.recorder_process import record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

Process = Literal["trainer", "recorder"]

STEPS = 13
SHARD_STEPS = 4

_FILE_OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_HALF = 32
"""Bytes that a file gets before the process dies of writing more; all are larger."""


@dataclasses.dataclass(frozen=True)
class Death:
    """When a process is killed: at one of its file operations, or after a time.

    Attributes
    ----------
    number
        At which operation it is, counted from 1; 0 for none.
    operation
        What operations are counted: a pattern of their lines in the log.
    half
        Whether it is killed halfway through what it then writes, or through the file that it then
        opens, not before.
    seconds
        After which time it is; 0 for none.
    """

    number: int = 0
    operation: str = ""
    half: bool = False
    seconds: float = 0.0


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
    deaths: Mapping[Process, Death],
    acknowledged: Any,
    *,
    step_by_step: bool = False,
    ring: bool = False,
) -> None:
    """Write :func:`known_steps` and move them, in two processes, of which one or both die.

    Each keeps a log (:func:`log_of`) of its file operations, one a line, up to the one at which it
    died, or to its end.

    Parameters
    ----------
    store
        Where the trace goes.
    deaths
        Who is killed, and when.
    acknowledged
        Gets the number of each step that is in the journal; ends when both processes have ended.
    step_by_step
        Whether each step waits until something comes back for the one before.
    ring
        Whether the journal has a ring, which not all of the steps that wait have room in.
    """
    logs = [
        os.open(log_of(store, name), os.O_WRONLY | os.O_CREAT) for name in ("trainer", "recorder")
    ]
    steps = known_steps()
    _arm(deaths.get("trainer", Death()), logs[0])
    size = RingSize(SHARD_STEPS + 1, 4096) if ring else None
    writer = write_journal(store, [], specify_for=steps, ring=size, shard_steps=SHARD_STEPS)
    read, write = os.pipe()
    recorder = os.fork()
    if recorder == 0:
        os.close(write)
        _arm(deaths.get("recorder", Death()), logs[1])
        record(writer.directory, store, read, os.getppid())
        os.write(logs[1], END)
        os._exit(0)
    os.close(read)
    _write(writer, steps, acknowledged, step_by_step=step_by_step)
    os.write(logs[0], END)
    os.close(write)
    os.waitpid(recorder, 0)


END = b"end\n"
"""The last line of the log of a process that was not killed."""


def log_of(store: Path, process: Process) -> Path:
    """Return the file with the operations of a process."""
    return store.with_name(f"{process}.log")


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


def _arm(death: Death, log: int) -> None:
    """Log the file operations of this process from here on, and kill it as `death` says."""
    counter, process = itertools.count(1), os.getpid()
    counted = re.compile(death.operation)

    def is_last(line: str) -> bool:
        os.write(log, line.encode())
        return counted.search(line) is not None and next(counter) == death.number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not (writing or event in _FILE_OPERATIONS) or os.getpid() != process:
            return
        if is_last(f"{event} {arguments[1 if event == 'os.rename' else 0]}\n"):
            if not death.half:
                os.kill(process, signal.SIGKILL)
            # Of a longer file the kernel writes so much, and kills with the rest.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (_HALF, resource.RLIM_INFINITY))

    pwritev = os.pwritev

    def write_into_ring(descriptor: int, buffers: list[memoryview], begin: int) -> int:
        name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        if os.getpid() == process and is_last(f"pwritev {name} {begin}\n"):
            whole = b"".join(buffers)
            pwritev(descriptor, [whole[: len(whole) // 2 * death.half]], begin)
            os.kill(process, signal.SIGKILL)
        return pwritev(descriptor, buffers, begin)

    setattr(os, "pwritev", write_into_ring)  # noqa: B010 - which no audit hook hears of
    sys.addaudithook(hook)
    if death.seconds:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as SIGKILL does
        signal.setitimer(signal.ITIMER_REAL, death.seconds)
