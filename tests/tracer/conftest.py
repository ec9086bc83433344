"""Quiet TensorFlow before anything imports it, and mark the tests of the capture matrix."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# What is shown of a training here is not remembered elsewhere, nor the other way round.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="steptrace-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_rare_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no time for what is recorded while there is time for it: tests would differ by it."""
    from steptrace_tracer.session import probe_gradients

    monkeypatch.setattr(probe_gradients, "_SECONDS", -1e9)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that a row of the capture matrix names, so that no list has to be kept."""
    from capture_matrix import ROWS  # imports TensorFlow, which the settings above must precede

    named = {row.test for row in ROWS}
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            file = item.path.relative_to(here).as_posix()
            if f"{file}::{getattr(item, 'originalname', item.name)}" in named:
                item.add_marker(pytest.mark.matrix)
