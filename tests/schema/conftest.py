"""Fixtures for the tests of the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from journals import Arrays, write_journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from steptrace_schema.journal.writer import JournalWriter


@pytest.fixture
def make_journal(tmp_path: Path) -> Callable[..., JournalWriter]:
    """Return a function that writes a journal for ``run.zarr`` in the test's folder."""

    def make(steps: list[tuple[int, Arrays]], **fields: Any) -> JournalWriter:
        return write_journal(tmp_path / "run.zarr", steps, **fields)

    return make
