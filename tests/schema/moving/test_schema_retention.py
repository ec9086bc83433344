"""Which steps keep their tensors; statistics and scalars are there of all."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from pydantic import ValidationError

from journals import Arrays, attributes, random_steps, write_journal
from steptrace_schema.format.policy import Policy
from steptrace_schema.format.retention import Retain, around, last
from steptrace_schema.journal.ring import RingSize
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.format.attributes import TraceAttributes

STEPS = 40


def _steps(
    *,
    nan_at: int | None = None,
    nan_loss_at: int | None = None,
    jump_at: int | None = None,
    mark_at: int | None = None,
) -> list[tuple[int, Arrays]]:
    """Return steps of small updates, with a NaN, a jump, or a mark at one of them.

    Their loss is their number.
    """
    rng = np.random.default_rng(0)
    kernel = np.zeros((3, 4), np.float32)
    steps: list[tuple[int, Arrays]] = []
    for step in range(STEPS):
        gradient = rng.normal(size=(3, 4)).astype(np.float32)
        kernel = kernel + gradient * (np.float32(50 if step - 1 == jump_at else 1))
        recorded = gradient.copy()
        if step == nan_at:
            recorded[0, 0] = np.nan
        steps.append(
            (
                step,
                {
                    "weights/dense/kernel": kernel,
                    "gradients/dense/kernel": recorded,
                    "scalars/loss": np.array(np.nan if step == nan_loss_at else step, np.float32),
                },
            )
        )
        if step == mark_at:
            steps.append((step, {"logged/mark": np.array(1.0)}))
    steps.append((STEPS, {"weights/dense/kernel": kernel + 1}))
    return steps


RINGS = [None, RingSize(7, 4096)]
"""Without a ring, and with one that not all of the steps that wait have room in."""


def _record(
    store: Path,
    retain: Retain,
    steps: list[tuple[int, Arrays]],
    *,
    restart: bool = False,
    ring: RingSize | None = None,
) -> TraceAttributes:
    """Write `steps` as a run does, moving what is ready after each."""
    policy = Policy(retain=retain)
    writer = write_journal(store, [], specify_for=steps, ring=ring, shard_steps=4, policy=policy)
    mover = JournalMover(writer.directory, store)
    for step, arrays in steps:
        writer.append(step, arrays)
        if restart:
            mover = JournalMover(writer.directory, store)
        mover.move_ready()
    writer.close("complete", None, attributes(shard_steps=4, policy=policy))
    JournalMover(writer.directory, store).finish("complete", None)
    return read_attributes(store)


def _kept(store: Path, kind: str) -> list[int]:
    group = zarr.open_group(store, mode="r")
    return [int(step) for step in np.asarray(group[f"{kind}/step"])]


def _assert_is_whole(store: Path, steps: list[tuple[int, Arrays]]) -> None:
    """Check kept tensors bit by bit, and statistics and scalars of all steps by formula."""
    group = zarr.open_group(store, mode="r")
    by_step = {step: arrays for step, arrays in steps if "weights/dense/kernel" in arrays}
    for kind in ("weights", "gradients"):
        if f"{kind}/step" in group:
            expected = [by_step[step][f"{kind}/dense/kernel"] for step in _kept(store, kind)]
            found = np.asarray(group[f"{kind}/dense/kernel"])
            assert found.tobytes() == np.stack(expected).tobytes()
    losses = [a["scalars/loss"] for a in by_step.values() if "scalars/loss" in a]
    assert np.asarray(group["scalars/loss"]).tobytes() == np.stack(losses).tobytes()
    assert np.asarray(group["scalars/step"]).tolist() == list(range(STEPS))
    l2 = STATISTIC_NAMES.index("l2")
    for kind in ("weights", "gradients"):
        rows = [a[f"{kind}/dense/kernel"] for a in by_step.values() if f"{kind}/dense/kernel" in a]
        found = np.asarray(group[f"statistics/{kind}/values"])[:, 0, l2]
        assert found == pytest.approx(
            [np.linalg.norm(row.astype(np.float64)) for row in rows], nan_ok=True
        )
    kernels = [a["weights/dense/kernel"].astype(np.float64) for a in by_step.values()]
    norms = [np.linalg.norm(b - a) for a, b in itertools.pairwise(kernels)]
    updates = np.asarray(group["statistics/updates/values"])[:, 0, l2]
    assert updates == pytest.approx(norms, rel=1e-5)
    assert np.asarray(group["statistics/updates/step"]).tolist() == list(range(STEPS))
    assert [p for p in validate(store) if p.rule != "R11"] == []


@pytest.mark.parametrize("ring", RINGS, ids=["files", "ring"])
@pytest.mark.parametrize("restart", [False, True])
def test_the_last_steps_and_every_few_older_ones_keep_their_tensors(
    tmp_path: Path, restart: bool, ring: RingSize | None
) -> None:
    store, steps = tmp_path / "run.zarr", _steps()
    found = _record(store, last(5, every=10), steps, restart=restart, ring=ring)
    assert _kept(store, "gradients") == [0, 10, 20, 30, 35, 36, 37, 38, 39]
    assert _kept(store, "weights") == [0, 10, 20, 30, 35, 36, 37, 38, 39, 40]
    assert found.policy.retain == last(5, every=10)
    (event,) = found.events
    assert "only some steps keep their tensors" in event.message
    assert event.step == 1
    _assert_is_whole(store, steps)


def test_no_more_than_the_last_steps_wait_in_the_journal(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps()
    writer = write_journal(
        store, [], specify_for=steps, shard_steps=4, policy=Policy(retain=last(6))
    )
    mover = JournalMover(writer.directory, store)
    for step, arrays in steps:
        writer.append(step, arrays)
        mover.move_ready()
        assert writer.pending_records() <= 6 + 4 + 1


TRIGGERS: list[tuple[dict[str, Any], Any]] = [
    ({"nan_at": 17}, "non_finite"),
    ({"nan_loss_at": 17}, "non_finite"),
    ({"jump_at": 16}, "update_jump"),
    ({"mark_at": 17}, "mark"),
]


@pytest.mark.parametrize("ring", RINGS, ids=["files", "ring"])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("trouble", "trigger"), TRIGGERS)
def test_steps_around_a_trigger_keep_their_tensors(
    tmp_path: Path, trouble: dict[str, Any], trigger: Any, restart: bool, ring: RingSize | None
) -> None:
    store, steps = tmp_path / "run.zarr", _steps(**trouble)
    _record(store, around(trigger, before=4, after=12), steps, restart=restart, ring=ring)
    assert _kept(store, "gradients") == list(range(13, 30))
    assert _kept(store, "weights") == [*range(13, 30), 40]
    _assert_is_whole(store, steps)


def test_without_a_trigger_no_step_is_kept_and_the_trace_says_why(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps(nan_at=17)
    found = _record(store, around("mark", before=4, after=3), steps)
    assert _kept(store, "weights") == [40]
    (missing,) = found.missing
    assert (missing.kind, missing.path, missing.steps) == ("gradients", "dense/kernel", None)
    assert "no step was retained" in missing.reason
    _assert_is_whole(store, steps)


def test_a_crash_keeps_the_steps_before_it(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", _steps()
    policy = Policy(retain=around("crash", before=6))
    write_journal(store, steps[:30], shard_steps=4, policy=policy)
    recover(store)
    assert read_attributes(store).status == "incomplete"
    assert _kept(store, "gradients") == [24, 25, 26, 27, 28, 29]


WITHOUT_WEIGHTS: list[dict[str, Any]] = [
    {"kinds": ("gradients", "logged")},
    {"statistics_only": ("weights",)},
]


@pytest.mark.parametrize("fields", WITHOUT_WEIGHTS)
def test_a_trigger_that_no_record_can_show_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"'update_jump' compares.*add 'weights' to kinds"):
        Policy(retain=around("update_jump"), **fields)


@pytest.mark.parametrize("fields", WITHOUT_WEIGHTS)
def test_without_names_the_triggers_are_those_that_records_can_show(fields: dict[str, Any]) -> None:
    assert Policy(retain=around(before=3), **fields).retain == around(
        "non_finite", "mark", "crash", before=3
    )
    assert Policy(retain=around()).retain == around("non_finite", "update_jump", "mark", "crash")


def test_a_mark_is_covered_where_it_is_a_trigger() -> None:
    fields: dict[str, Any] = {"kinds": ("weights",), "include": ("*/dense*",)}
    assert Policy(retain=around("mark"), **fields).covers("logged", "mark")
    assert not Policy(retain=around("mark"), **fields).covers("logged", "other")
    assert not Policy(retain=around("crash"), **fields).covers("logged", "mark")
    assert Policy(retain=around("crash")).covers("logged", "mark")


def test_retention_is_part_of_the_serialised_policy() -> None:
    for retain in ("all", last(3), around("mark", before=2)):
        policy = Policy(retain=retain)
        assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_a_mover_that_is_asked_to_stop_leaves_the_other_shards(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    writer = write_journal(store, random_steps(24))  # three shards of eight
    mover = JournalMover(writer.directory, store)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(mover.records_moved)
        return len(asked) == 2

    assert mover.move_ready(stop) == 16
    assert asked == [8, 16]
    assert mover.move_ready() == 8
