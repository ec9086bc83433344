"""Fixtures for the tests of the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from journals import Arrays, write_journal
from steptrace_schema.journal.ring import RingSize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from steptrace_schema.journal.writer import JournalWriter


@pytest.fixture(params=[None, RingSize(3, 4096)], ids=["files", "ring"])
def make_journal(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., JournalWriter]:
    """Return a function that writes a journal for ``run.zarr`` in the test's folder.

    Without a ring, as version 0.1 did, and with one that not all records fit into.
    """

    def make(steps: list[tuple[int, Arrays]], **fields: Any) -> JournalWriter:
        return write_journal(tmp_path / "run.zarr", steps, ring=request.param, **fields)

    return make
