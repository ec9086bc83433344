"""What a training is told of while it runs; without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import pytest

from steptrace_tracer.record.live_rules import Alarm
from steptrace_tracer.session.live_watch import LiveFinding, LiveWatch

PATH = Path("run.zarr")
NAN = Alarm(5, "loss", "the loss is nan", is_jump=False)
JUMP = Alarm(7, "update", "the update of the weights is 40 times its usual size (3)", is_jump=True)


def unwanted() -> None:
    """Mark nothing."""
    pytest.fail("the step was marked")


def test_only_what_is_watched_for_is_told_and_only_once() -> None:
    told: list[LiveFinding] = []
    watch = LiveWatch(("update_jump", "loss_spike"), told.append, PATH)
    events = watch.note([NAN, JUMP])
    assert events == (f"update_jump: at step 7 {JUMP.reason}",)
    assert told == []  # until the step is over
    assert watch.tell(unwanted) is False
    assert told == [LiveFinding("update_jump", 7, JUMP.reason)]
    assert watch.tell(unwanted) is False
    assert len(told) == 1


def test_a_loss_and_a_gradient_that_are_not_finite_are_one_finding() -> None:
    told: list[LiveFinding] = []
    watch = LiveWatch("non_finite", told.append, PATH)
    watch.note([NAN, Alarm(5, "gradient", "the gradient of w is not finite", is_jump=False)])
    watch.tell(unwanted)
    assert told == [LiveFinding("non_finite", 5, "the loss is nan")]


def test_a_warning_names_trace_step_and_rule() -> None:
    watch = LiveWatch("non_finite", "warn", PATH)
    watch.note([NAN, JUMP])
    with pytest.warns(RuntimeWarning) as caught:
        assert watch.tell(unwanted) is False
    assert [str(w.message) for w in caught] == ["run.zarr: at step 5 the loss is nan (non_finite)"]


def test_a_stop_keeps_the_first_finding_and_says_so_in_the_events() -> None:
    watch = LiveWatch(("non_finite", "update_jump"), "stop", PATH)
    assert watch.stops
    assert watch.tell(unwanted) is False
    first, _ = watch.note([NAN, JUMP])
    assert first == "non_finite: at step 5 the loss is nan, so that the training is stopped"
    assert watch.tell(unwanted) is True
    assert watch.stop == LiveFinding("non_finite", 5, "the loss is nan")
    assert watch.tell(unwanted) is False


def test_a_mark_is_set_for_each_finding() -> None:
    marks: list[int] = []
    watch = LiveWatch(("non_finite", "update_jump"), "mark", PATH)
    watch.note([NAN, JUMP])
    watch.tell(lambda: marks.append(1))
    assert marks == [1, 1]


def test_events_are_bounded_and_findings_are_not() -> None:
    told: list[LiveFinding] = []
    watch = LiveWatch("non_finite", told.append, PATH)
    events = [event for _ in range(150) for event in watch.note([NAN])]
    watch.tell(unwanted)
    assert (len(events), len(told)) == (100, 150)


def test_what_cannot_be_watched_for_is_refused() -> None:
    with pytest.raises(ValueError, match="watch has 'nan'; the rules are non_finite, loss_spike"):
        LiveWatch(("non_finite", "nan"), "warn", PATH)
    with pytest.raises(ValueError, match="on_finding is 'halt'; it must be 'warn', 'mark', 'stop'"):
        LiveWatch((), "halt", PATH)  # type: ignore[arg-type]
