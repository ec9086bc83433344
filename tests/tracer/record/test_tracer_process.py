"""The recorder process, and where TensorFlow is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from journals import write_journal
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.names import REQUIRED_SCALARS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer.record.recorder_process import record

if TYPE_CHECKING:
    from pathlib import Path

SCALARS = {f"scalars/{name}": np.array(1, np.float32) for name in REQUIRED_SCALARS}


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_the_recorder_process_does_not_import_tensorflow() -> None:
    code = (
        "import sys, steptrace_tracer.record.recorder_process; print('tensorflow' in sys.modules)"
    )
    assert python(code) == "False"


def test_the_command_line_of_the_tracer_does_not_import_tensorflow() -> None:
    code = "import sys, steptrace_tracer.commands.cli as c; print('tensorflow' in sys.modules)"
    assert python(code) == "False"


@pytest.mark.parametrize("package", ["tensorflow", "keras"])
def test_a_missing_tensorflow_is_one_sentence_that_says_what_to_install(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
try:
    from steptrace_tracer import Tracer
except ImportError as error:
    print(error)
"""
    assert "pip install 'steptrace[tensorflow]'" in python(code)


@pytest.mark.parametrize("sign", ["pipe", "parent", "closed"])
def test_the_recorder_ends_at_any_sign_that_nothing_more_will_come(
    tmp_path: Path, sign: str
) -> None:
    store = tmp_path / "run.zarr"
    journal = write_journal(store, [(step, SCALARS) for step in range(3)])
    if sign == "closed":
        declared = JournalReader(journal.directory).declaration().attributes
        journal.close("complete", None, declared)
    read, write = os.pipe()
    try:
        if sign == "pipe":
            os.close(write)
        record(journal.directory, store, read, os.getpid() if sign == "parent" else os.getppid())
    finally:
        os.close(read)
        if sign != "pipe":
            os.close(write)
    found = read_attributes(store)
    assert found.status == ("complete" if sign == "closed" else "incomplete")
    assert found.steps_recorded["scalars"] == 3
    assert validate(store) == []
    assert not journal.directory.exists()
