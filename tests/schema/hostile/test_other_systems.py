"""Without what POSIX alone has, a killed run is recovered, and recording says that it cannot be."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from hostile import killed_journal

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
