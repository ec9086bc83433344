"""Commands in processes of their own, which end if they hang, and whose memory is measured."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import dask.threaded

from steptrace_analyzer.cli.app import run

SECONDS = 30
BYTES = 2 * 2**30
_NO_RESULT = 99


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes
    ----------
    code
        Its exit status; 99 if it was killed, or raised.
    out, err
        What it wrote.
    seconds, nbytes
        What it took: processor time, and the most memory.
    """

    code: int
    out: str
    err: str
    seconds: float
    nbytes: int

    @property
    def problem(self) -> str:
        """What is wrong with this end, whatever the command was given; empty if nothing is."""
        written = self.out + self.err
        found = {
            "no exit status": self.code not in (0, 1, 2),
            "unexpected": "error: unexpected" in self.err or "Traceback" in self.err,
            "control characters": any(c in written for c in "\x1b\x07\x00\u202e"),
            "no sentence": self.code == 2 and not self.err and not self.out,
            "more than a sentence": "error: " in self.err and self.err.count("\n") > 1,
            "slow": self.seconds > SECONDS,
            "large": self.nbytes > BYTES,
        }
        return ", ".join(name for name, is_so in found.items() if is_so)


def command(*arguments: object) -> Ended:
    """Run a command of the analyzer in a process of its own, in the present folder."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([str(Path.cwd()), *map(str, arguments)]) + "\n")
    server.stdin.flush()
    return Ended(**json.loads(server.stdout.readline()))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that forks, which has no threads but its own: forks beside some die."""
    code = "import forked_commands; forked_commands.serve()"
    places = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": places},
    )
    atexit.register(server.kill)
    return server


def serve() -> None:
    """Run the commands that are asked for, one a line, and write how each ended."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what a command writes past Python
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        os.chdir(folder)
        answers.write(json.dumps(dataclasses.asdict(_forked(arguments))) + "\n")
        answers.flush()


def _forked(arguments: list[str]) -> Ended:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _answer(writing, arguments)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        text = file.read()
    _, status, usage = os.wait4(process, 0)
    code, out, err = json.loads(text) if text else (_NO_RESULT, "", f"ended by {status}")
    seconds = usage.ru_utime + usage.ru_stime
    return Ended(code, out, err, seconds, usage.ru_maxrss * 1024)


def _answer(writing: int, arguments: list[str]) -> None:
    """Run the command, write how it ended, and leave without the rest of the parent's program."""
    text = ""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10 * SECONDS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        dask.threaded.default_pool = None  # whose threads are the parent's
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(arguments)
        text = json.dumps([code, out.getvalue(), err.getvalue()])
    except BaseException as error:
        text = json.dumps([_NO_RESULT, "", f"{type(error).__name__}: {error}"])
    finally:
        _write(writing, text.encode())
        os._exit(0)


def _write(writing: int, content: bytes) -> None:
    while content:
        content = content[os.write(writing, content) :]
