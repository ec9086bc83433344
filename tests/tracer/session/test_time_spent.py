"""The line at the end of a run that says how long steps took."""

from __future__ import annotations

from steptrace_tracer.session.time_spent import TimeSpent


def test_the_first_two_executions_do_not_count_in_the_time_of_a_step() -> None:
    spent = TimeSpent()
    for seconds, more in ((2.0, 1.0), (0.5, 0.5), (0.010, 0.002), (0.020, 0.004)):
        spent.add(1, seconds, more)
    assert str(spent) == (
        "the first 2 steps took 4.0 s, each other 15.0 ms, and handing it over 3.0 ms more"
    )


def test_steps_of_one_execution_are_counted_one_by_one() -> None:
    spent = TimeSpent()
    for _ in range(3):
        spent.add(32, 0.32, 0.064)
    assert str(spent) == (
        "the first 64 steps took 0.8 s, each other 10.0 ms, and handing it over 2.0 ms more"
    )


def test_a_run_of_one_step_says_what_it_took() -> None:
    spent = TimeSpent()
    spent.add(1, 1.5, 0.5)
    assert str(spent) == "the first step took 2.0 s"
