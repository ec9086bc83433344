"""A journal of many records is moved with few of them open."""

from __future__ import annotations

import itertools
import os
import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from journals import write_journal
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import JournalMover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORDS = 200
MORE_FILES = 64
"""Files that may be opened besides those that are open already; fewer than records."""


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/dev/fd")}  # noqa: PTH208
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, MORE_FILES, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_more_records_than_files_may_be_open_are_moved_at_the_end_of_a_run(
    tmp_path: Path,
) -> None:
    store = tmp_path / "run.zarr"
    expected = np.arange(RECORDS * 6, dtype=np.float32).reshape(RECORDS, 2, 3)
    steps = [(step, {"weights/a": values}) for step, values in enumerate(expected)]
    write_journal(store, steps, shard_steps=8)
    JournalMover(journal_path(store), store).finish("complete", None)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["weights/a"], expected)
    assert not journal_path(store).exists()
