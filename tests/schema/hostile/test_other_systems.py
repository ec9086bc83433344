"""Traces are read on systems that lack what POSIX alone has, and recording there says so."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hostile import finished_trace, killed_journal
from steptrace_analyzer.trace.packing import pack

if TYPE_CHECKING:
    from pathlib import Path

BLOCKED = """
import os, sys
sys.modules["fcntl"] = None
sys.modules["resource"] = None
for name in (
    "pread", "preadv", "pwrite", "pwritev", "readv", "writev", "sched_getaffinity", "nice",
    "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "setpriority", "mkfifo", "getuid", "geteuid", "fork",
):
    if hasattr(os, name):
        delattr(os, name)
"""
COMMAND = "from steptrace_analyzer.cli.app import run; sys.exit(run(sys.argv[1:]))"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{BLOCKED}\n{code}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    pack(finished_trace(folder / "run.zarr"), folder / "run.zarr.zip")
    killed_journal(folder / "killed.zarr")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "{0}/run.zarr"],
        ["info", "{0}/run.zarr.zip"],
        ["info", "{0}/killed.zarr"],
        ["validate", "{0}/run.zarr", "--level", "attributes"],
        ["diff", "{0}/run.zarr", "{0}/run.zarr.zip"],
        ["anomalies", "{0}/run.zarr"],
        ["plot", "weights", "{0}/run.zarr", "--step", "3", "-o", "{1}/a.png"],
        ["report", "{0}/run.zarr", "-o", "{1}/a.html"],
        ["pack", "{0}/run.zarr", "--output", "{1}/a.zarr.zip"],
        ["pack", "{0}/run.zarr", "--profile", "compact", "--output", "{1}/b.zarr.zip"],
        ["unpack", "{0}/run.zarr.zip", "--output", "{1}/a.zarr"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_command_that_reads_needs_nothing_that_posix_alone_has(
    traces: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = run(COMMAND, *(a.format(traces, tmp_path) for a in arguments))
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr


def test_recover_needs_nothing_that_posix_alone_has(tmp_path: Path) -> None:
    killed_journal(tmp_path / "run.zarr")
    done = run(COMMAND, "recover", str(tmp_path / "run.zarr"))
    assert "moved 10 records" in done.stdout, done.stderr
    assert not (tmp_path / "run.zarr.journal").exists()


def test_recording_says_in_one_sentence_that_it_needs_another_system(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from steptrace_schema.errors import TraceError\n"
        "from steptrace_schema.journal.writer import JournalWriter\n"
        "try: JournalWriter.create(Path(sys.argv[1]), None)\n"
        "except TraceError as error: print(error)"
    )
    done = run(code, str(tmp_path / "run.zarr.journal"))
    assert done.stdout.startswith("steptrace records on Linux and macOS"), done.stderr
    assert "WSL" in done.stdout
    assert not (tmp_path / "run.zarr.journal").exists()
