"""Memory that is borrowed and returned."""

from __future__ import annotations

import numpy as np
import pytest

from steptrace_schema.encoding.scratch import Scratch


@pytest.mark.parametrize("count", [1, 1_000, 3_000_000])
def test_memory_begins_with_a_line_of_the_cache(count: int) -> None:
    with Scratch().array((count,), np.float32) as memory:
        assert memory.shape == (count,)
        assert memory.ctypes.data % 64 == 0


def test_memory_is_used_again_but_never_by_two_at_once() -> None:
    scratch = Scratch()
    with scratch.array((4,), np.int64) as first, scratch.array((4,), np.int64) as second:
        assert not np.shares_memory(first, second)
    with scratch.array((2,), np.int64) as third:
        assert np.shares_memory(third, first) or np.shares_memory(third, second)
