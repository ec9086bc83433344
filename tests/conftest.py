"""Settings of all tests, and which of their cases the default run takes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings

# Two busy cores: how long one example takes says nothing.
settings.register_profile("steptrace", deadline=None)
settings.load_profile("steptrace")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as long what the default run has no time for: all but a few cases of sampled tests."""
    total = Counter(map(_test, items))
    seen: Counter[str] = Counter()
    for item in items:
        number, seen[_test(item)] = seen[_test(item)], seen[_test(item)] + 1
        if (marker := item.get_closest_marker("sampled")) is None:
            continue
        (count,) = marker.args
        kept = {n * total[_test(item)] // count for n in range(count)}  # evenly, with the first
        if number not in kept:
            item.add_marker(pytest.mark.long)


def _test(item: pytest.Item) -> str:
    """Return the name of a test without its case."""
    return item.nodeid.partition("[")[0]
