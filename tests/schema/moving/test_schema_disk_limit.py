"""A trace is never larger than its policy allows; what is thinned for that is said in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from disk_use import DiskUse, taken, watching
from journals import Arrays, attributes, write_journal
from steptrace_schema.encoding.codecs import without_codec_warning
from steptrace_schema.errors import DiskLimitError
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.format.policy import Policy
from steptrace_schema.format.retention import Retain, around, last
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.moving.thinning import stride_for
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import Status

SHARD = 8
STEPS = 160
BESIDES = 24_000
"""More than a journal of these tests holds besides its records."""


def _steps(width: int, *, nan_at: int = 60) -> list[tuple[int, Arrays]]:
    """Return steps of random numbers, which no codec makes smaller, and the last weights."""
    rng = np.random.default_rng(width)

    def values() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.normal(size=(16, width)).astype(np.float32)

    steps: list[tuple[int, Arrays]] = [
        (
            step,
            {
                "weights/dense/kernel": values(),
                "gradients/dense/kernel": values(),
                "scalars/loss": np.array(np.nan if step == nan_at else step, np.float32),
            },
        )
        for step in range(STEPS)
    ]
    return [*steps, (STEPS, {"weights/dense/kernel": values()})]


def _record(store: Path, policy: Policy, steps: list[tuple[int, Arrays]]) -> DiskUse:
    """Write and move `steps` as a run does; return what the trace took at every moment."""
    limit = DiskLimit.of(policy)
    assert limit is not None
    ended: str | None = None
    with watching(store) as use:
        writer = write_journal(store, [], specify_for=steps[:1], shard_steps=SHARD, policy=policy)
        mover = JournalMover(writer.directory, store)
        try:
            for step, arrays in steps:
                room = limit.journal - limit.ballast - BESIDES - JournalWriter.size(step, arrays)
                while writer.pending_bytes() > room:
                    assert mover.move_ready() > 0
                writer.append(step, arrays)
                mover.move_ready()
        except DiskLimitError as error:
            ended = str(error)
        status: Status = "complete" if ended is None else "incomplete"
        writer.close(status, ended, attributes(shard_steps=SHARD, policy=policy))
        JournalMover(writer.directory, store).finish(status, ended)
    assert not journal_path(store).exists()
    return use


def _kept(store: Path, kind: str) -> list[int]:
    group = zarr.open_group(store, mode="r")
    return [int(s) for s in np.asarray(group[f"{kind}/step"])] if f"{kind}/step" in group else []


def _assert_is_whole(store: Path, steps: list[tuple[int, Arrays]]) -> TraceAttributes:
    """Check kept tensors bit by bit, and scalars and statistics of every step by formula."""
    found = read_attributes(store)
    with without_codec_warning():
        group = zarr.open_group(store, mode="r")
        _assert_values(group, found, store, steps)
    assert [p for p in validate(store) if p.rule != "R11"] == []
    return found


def _assert_values(
    group: zarr.Group, found: TraceAttributes, store: Path, steps: list[tuple[int, Arrays]]
) -> None:
    moved = steps if found.status == "complete" else steps[: len(_kept(store, "scalars"))]
    assert moved
    by_step = dict(moved)
    for kind in ("weights", "gradients"):
        if kept := _kept(store, kind):
            expected = np.stack([by_step[step][f"{kind}/dense/kernel"] for step in kept])
            assert np.asarray(group[f"{kind}/dense/kernel"]).tobytes() == expected.tobytes()
        norms = [
            np.linalg.norm(a[f"{kind}/dense/kernel"].astype(np.float64))
            for _, a in moved
            if f"{kind}/dense/kernel" in a
        ]
        values = np.asarray(group[f"statistics/{kind}/values"])
        assert values[:, 0, STATISTIC_NAMES.index("l2")] == pytest.approx(norms)
    losses = [a["scalars/loss"] for _, a in moved if "scalars/loss" in a]
    assert np.asarray(group["scalars/loss"]).tobytes() == np.stack(losses).tobytes()
    kernels = [a["weights/dense/kernel"].astype(np.float64) for _, a in moved]
    updates = [np.linalg.norm(b - a) for a, b in itertools.pairwise(kernels)]
    values = np.asarray(group["statistics/updates/values"])
    assert values[:, 0, STATISTIC_NAMES.index("l2")] == pytest.approx(updates, rel=1e-5)


def _strides(found: TraceAttributes) -> list[tuple[int, int]]:
    """Return the strides that the events name, with the steps from which on they hold."""
    words = [(event.step or 0, event.message) for event in found.events]
    assert all("disk_limit of" in text or "'retain' says" in text for _, text in words)
    named = [(step, text.partition("every ")[2]) for step, text in words if "every " in text]
    return [(step, int(text[: text.index(" ") - 2])) for step, text in named]


RETAINED: list[Retain] = ["all", last(6, every=4), last(1000), around("non_finite", "crash")]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("retain", RETAINED, ids=lambda r: r if isinstance(r, str) else repr(r))
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
@given(
    limit=st.integers(400_000, 3_000_000),
    width=st.integers(1, 96),
    profile=st.sampled_from(["fast", "none", "compact"]),
)
def test_a_trace_never_takes_more_than_the_policy_allows(
    tmp_path_factory: pytest.TempPathFactory, retain: Retain, limit: int, width: int, profile: str
) -> None:
    store, steps = tmp_path_factory.mktemp("run") / "run.zarr", _steps(width)
    policy = Policy.model_validate({"disk_limit": limit, "retain": retain, "profile": profile})
    use = _record(store, policy, steps)
    assert use.looks > STEPS
    assert 0 < use.most <= limit
    _assert_is_whole(store, steps)


def test_the_last_weights_have_room_beside_the_newest_steps_that_share_their_chunk(
    tmp_path: Path,
) -> None:
    # Without compression a chunk takes all of its bytes for one row, and twice while it is
    # replaced to add another one.
    store, steps = tmp_path / "run.zarr", _steps(93)
    policy = Policy(disk_limit=510_510, retain=last(1000), profile="none")
    _record(store, policy, steps)
    assert _assert_is_whole(store, steps).status == "complete"
    assert _kept(store, "weights")[-1] == STEPS


def test_as_the_room_is_used_up_fewer_steps_keep_their_tensors() -> None:
    """The stride is the power of two whose phase the room that is left is in."""
    room, phases = 10**9, [int(10**9 * 0.75**k) for k in range(16)]
    for k, left in enumerate(phases):
        assert stride_for(room, left + 1000) == (2 ** (k - 1) if k else 1)
        assert stride_for(room, left - 1000) == 2**k


def test_events_say_from_where_on_which_steps_keep_their_tensors(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(64)
    _record(store, Policy(disk_limit=1_100_000), steps)
    found = _assert_is_whole(store, steps)
    strides = _strides(found)
    assert [stride for _, stride in strides[:3]] == [2, 4, 8]
    kept = set(_kept(store, "gradients"))
    ends = [step for step, _ in strides[1:]] + [STEPS]
    assert kept >= set(range(strides[0][0]))
    for (begin, stride), end in zip(strides, ends, strict=True):
        between = {s for s in kept if begin <= s < end}
        # Steps before the next stride's first loss are kept by both.
        assert {s for s in range(begin, end) if s % (2 * stride) == 0} <= between
        assert all(s % stride == 0 for s in between)
    assert found.status == "complete"
    assert _kept(store, "weights")[-1] == STEPS


def test_a_limit_with_room_for_everything_thins_nothing(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(4)
    _record(store, Policy(disk_limit=50_000_000), steps)
    assert _assert_is_whole(store, steps).events == ()
    assert _kept(store, "gradients") == list(range(STEPS))


def test_of_the_last_steps_the_newest_are_kept_where_not_all_have_room(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(64)
    _record(store, Policy(disk_limit=1_500_000, retain=last(100)), steps)
    found = _assert_is_whole(store, steps)
    kept = _kept(store, "gradients")
    assert 5 < len(kept) < 100
    assert kept == list(range(STEPS - len(kept), STEPS))
    assert any("no room for all of the newest steps" in event.message for event in found.events)


def test_where_not_even_statistics_have_room_the_trace_says_at_which_step(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(64)
    use = _record(store, Policy(disk_limit=300_000, kinds=("weights", "gradients")), steps)
    found = _assert_is_whole(store, steps)
    assert use.most <= 300_000
    rows = len(_kept(store, "scalars"))
    assert found.status == "incomplete"
    assert found.status_reason == f"the policy's disk_limit of 300 kB was used up at step {rows}"


def test_what_a_killed_run_left_is_recovered_within_the_limit(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(64)
    policy = Policy(disk_limit=1_000_000)
    write_journal(store, steps[:20], specify_for=steps[:1], shard_steps=SHARD, policy=policy)
    with watching(store) as use:
        recover(store)
    assert use.most <= 1_000_000
    assert taken(store) <= DiskLimit(1_000_000, holds_newest=False).store
    assert len(_kept(store, "scalars")) == 20
