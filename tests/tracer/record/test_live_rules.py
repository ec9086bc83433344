"""Which steps are kept as a whole, by the numbers of each step; without TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_tracer.record.live_rules import LiveRules

if TYPE_CHECKING:
    import numpy.typing as npt


def steps(count: int = 40) -> list[dict[str, npt.NDArray[Any]]]:
    """Return steps of a training in which nothing happens."""
    rng = np.random.default_rng(0)
    found: list[dict[str, npt.NDArray[Any]]] = []
    weight = np.ones((3, 2), np.float32)
    for step in range(count):
        gradient = rng.normal(size=(3, 2)).astype(np.float32)
        found.append(
            {
                "scalars/loss": np.array(2.0 / (1 + step) + 0.1 * rng.random(), np.float32),
                "gradients/dense/kernel": gradient,
                "weights/dense/kernel": weight.copy(),
            }
        )
        weight = weight - 0.1 * gradient
    return found


def alarms(of: list[dict[str, npt.NDArray[Any]]], **settings: Any) -> list[tuple[int, str, bool]]:
    rules = LiveRules(**settings)
    return [
        (alarm.step, alarm.cause, alarm.is_jump)
        for step, arrays in enumerate(of)
        for alarm in rules.judge(step, arrays)
    ]


def test_a_quiet_training_has_no_alarm() -> None:
    assert alarms(steps()) == []


def test_a_loss_that_is_not_finite_is_told_when_it_begins() -> None:
    of = steps()
    for step in (3, 4, 5, 9):
        of[step]["scalars/loss"] = np.array(np.nan if step < 9 else np.inf, np.float32)
    assert alarms(of) == [(3, "loss", False), (9, "loss", False)]


def test_one_element_of_a_gradient_that_is_not_finite_is_told() -> None:
    of = steps()
    of[7]["gradients/dense/kernel"][1, 1] = -np.inf
    assert alarms(of) == [(7, "gradient", False)]
    of[7]["scalars/skipped"] = np.array(1, np.int64)  # loss scaling overflowed, which is no fault
    assert alarms(of) == []


def test_gradients_that_are_only_described_are_judged_by_their_statistics() -> None:
    of = steps()
    for arrays in of:
        arrays["gradients/dense/kernel"] = np.r_[np.zeros(5), 1.0, np.zeros(10)]
    of[30]["gradients/dense/kernel"][7] = 1
    described = ("gradients",)
    assert alarms(of, described=described) == [(30, "gradient", False)]
    of[30]["gradients/dense/kernel"][7] = 0
    of[35]["gradients/dense/kernel"][5] = 50
    assert alarms(of, described=described) == [(35, "gradient", True)]


def test_jumps_are_told_once_and_not_at_the_beginning() -> None:
    of = steps()
    for step in (5, 30, 31, 32):
        of[step]["gradients/dense/kernel"] *= 100
    assert alarms(of) == [(30, "gradient", True)]
    of = steps()
    of[33]["scalars/loss"] = np.array(10.0, np.float32)
    assert alarms(of) == [(33, "loss", True)]


def test_a_loss_that_changes_its_sign_has_no_jumps() -> None:
    of = steps()
    for step, arrays in enumerate(of):
        arrays["scalars/loss"] = np.array(10.0 if step % 7 == 6 else -0.1, np.float32)
    assert alarms(of) == []


def test_a_jump_of_an_update_is_of_the_step_before_the_weights_that_show_it() -> None:
    of = steps()
    for arrays in of[31:]:
        arrays["weights/dense/kernel"] = arrays["weights/dense/kernel"] + 100
    assert alarms(of) == [(30, "update", True)]
