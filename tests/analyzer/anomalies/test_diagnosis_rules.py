"""Rules on traces that are made of the numbers that a fault would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from plot_traces import make_trace
from quiet_run import BATCH, STEPS, find, quiet_layers, quiet_run
from steptrace_analyzer.anomalies.causes import cause_in_losses
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_nothing_is_found_in_a_quiet_run() -> None:
    found = diagnose(
        make_trace(quiet_run(), layers=quiet_layers(), loss="sparse_categorical_crossentropy")
    )
    assert found.findings == ()
    assert str(found) == "nothing unusual found"


def test_a_loss_that_spikes_and_comes_back_is_worth_knowing_only() -> None:
    arrays = quiet_run()
    usual = float(np.median(arrays["scalars/loss"][75:80]))
    arrays["scalars/loss"][80:83] = 5.0
    (found,) = find("loss_spike", arrays)
    assert (found.severity, found.first_step, found.last_step) == ("info", 80, 82)
    assert found.observed == 5.0
    assert found.usual == pytest.approx(usual)
    assert found.evidence["recovered_after"] == 3


def test_a_loss_that_does_not_come_back_is_an_error() -> None:
    arrays = quiet_run()
    arrays["scalars/loss"][80:] = 2.5
    (found,) = find("loss_spike", arrays)
    assert (found.severity, found.first_step, found.last_step) == ("error", 80, STEPS - 1)
    assert "has not come back: it is 2.5 over the last steps, 39 steps later" in found.explanation


def test_a_spike_is_compared_with_the_last_steps_of_a_loss_that_falls() -> None:
    arrays = quiet_run()
    loss = 100 * np.exp(-np.arange(STEPS) / 10) + 0.01
    loss[60] = 5.0  # a hundredth of the losses of fifty steps before, but far above the last
    (found,) = find("loss_spike", arrays | {"scalars/loss": loss.astype(np.float32)})
    assert found.first_step == 60
    assert found.usual == pytest.approx(float(np.median(loss[55:60])), rel=1e-6)


def test_a_spike_that_hardly_matters_is_none() -> None:
    arrays = quiet_run()
    loss = np.full(STEPS, 1e-4, np.float32)
    loss[:10] = 2.0
    loss[80] = 5e-3  # fifty times the usual, a four-hundredth of where the run began
    assert find("loss_spike", arrays | {"scalars/loss": loss}) == []


def test_units_without_gradient_ever_since_a_step_are_dead() -> None:
    arrays = quiet_run()
    dead = [0, 2, 3, 5, 7]
    arrays["gradients/net/first/kernel"][70:, :, dead] = 0
    (found,) = find("dead_units", arrays)
    assert (found.severity, found.first_step, found.last_step) == ("warning", 70, STEPS - 1)
    assert found.tensor == "gradients/net/first/kernel"
    assert found.observed == len(dead) / 8
    assert found.evidence["units"] == dead
    assert "5 of 8 units of net/first (62%)" in found.explanation
    assert "ever since step 70" in found.explanation


@pytest.mark.parametrize("first", [0, 500])
def test_units_dead_from_the_first_recorded_step_on_have_no_weights_from_before(first: int) -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][:, :, :5] = 0
    steps = {"gradients": range(first, first + STEPS)}
    (found,) = find("dead_units", arrays, steps=steps)
    assert "from before that step" not in str(found.remedy)
    assert found.cause_kind == ("set-up" if first == 0 else "not known")
    assert ("dead before the first step" in str(found.cause)) == (first == 0)
    assert ("step 500, the first one with gradients" in found.explanation) == (first == 500)


def test_dead_units_of_a_loss_that_got_worse_are_an_error() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][70:, :, :6] = 0
    arrays["inputs/sample_loss"][70:] = arrays["scalars/loss"][70:] = 2.0
    assert [found.severity for found in find("dead_units", arrays)] == ["error"]


def test_dead_units_are_an_error_where_little_was_learned() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][70:, :, :6] = 0
    _, counts = np.unique(arrays["inputs/y"], return_counts=True)
    shares = counts / counts.sum()
    constant = -(shares * np.log(shares)).sum()
    for share, severity in ((0.65, "error"), (0.55, "warning"), (0.2, "info")):
        course = np.maximum(np.linspace(1.0, 0.0, STEPS), share) * constant
        loss = course.astype(np.float32)
        losses = np.repeat(loss[:, np.newaxis], BATCH, axis=1)
        run = arrays | {"scalars/loss": loss, "inputs/sample_loss": losses}
        assert [found.severity for found in find("dead_units", run)] == [severity], share


def test_units_that_give_something_are_not_dead() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][70:, :, :6] = 0
    arrays["activations/net/first/output"] = np.ones((STEPS, 4, 8), np.float32)
    assert find("dead_units", arrays) == []
    arrays["activations/net/first/output"][-1, :, :6] = 0
    assert len(find("dead_units", arrays)) == 1


def test_units_that_get_a_gradient_now_and_then_are_not_dead() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][70:, :, :6] = 0
    arrays["gradients/net/first/kernel"][100, 0, :6] = 1e-30
    assert find("dead_units", arrays) == []


def test_a_task_that_is_solved_has_no_dead_units() -> None:
    arrays = quiet_run()
    for path in (
        f"{name}/{kind}" for name in ("first", "middle", "last") for kind in ("kernel", "bias")
    ):
        arrays[f"gradients/net/{path}"][70:] = 0
    assert find("dead_units", arrays) == []


def test_a_batch_whose_labels_are_wrong_is_named_by_the_losses_of_its_samples() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"][90] += 5.0
    (found,) = find("bad_batch", arrays)
    assert (found.first_step, found.last_step, found.cause_kind) == (90, 90, "labels")
    assert found.observed == pytest.approx(float(np.median(arrays["inputs/sample_loss"][90])))
    assert found.usual == pytest.approx(float(np.median(arrays["inputs/sample_loss"][70:90])))
    latest: dict[int, float] = {}
    for step in range(90):
        for digest, loss in zip(
            arrays["inputs/sample_digest"][step], arrays["inputs/sample_loss"][step], strict=True
        ):
            latest[int(digest)] = float(loss)
    now = [latest[int(d)] for d in arrays["inputs/sample_digest"][90] if int(d) in latest]
    assert found.evidence["seen_before"] == len(now)
    assert found.evidence["seen_loss"] == pytest.approx(float(np.median(now)))


def test_a_batch_of_samples_that_were_never_seen_may_be_either() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"][90] += 5.0
    arrays["inputs/sample_digest"][90] += 1000
    (found,) = find("bad_batch", arrays)
    assert found.cause_kind == "batch"
    assert "its labels, or rows that are not recorded" in found.cause


def test_losses_that_stay_high_are_not_the_batch() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"][90:] += 5.0
    assert find("bad_batch", arrays) == []


def test_of_the_last_batch_it_is_not_known_whether_it_or_the_weights_went_wrong() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"][-1] += 5.0
    (found,) = find("bad_batch", arrays)
    assert (found.first_step, found.cause_kind) == (STEPS - 1, "not known")
    assert "no batch comes after it" in found.explanation


@pytest.mark.parametrize(("factor", "count"), [(2.5, 1), (4.0, 0)])
def test_high_losses_after_updates_that_grew_are_not_laid_to_the_batch(
    factor: float, count: int
) -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"][90] += 5.0
    for name in ("first", "middle", "last"):
        weights = arrays[f"weights/net/{name}/kernel"].astype(np.float64)
        updates = np.diff(weights, axis=0)
        updates[80:] *= factor
        weights[1:] = weights[0] + np.cumsum(updates, axis=0)
        arrays[f"weights/net/{name}/kernel"] = weights.astype(np.float32)
    assert len(find("bad_batch", arrays)) == count
    trace = make_trace(arrays, layers=quiet_layers(), loss="sparse_categorical_crossentropy")
    assert (cause_in_losses(Signals(trace), 90) is not None) == bool(count)


def test_a_batch_of_other_inputs_is_named_without_any_jump() -> None:
    arrays = quiet_run()
    arrays["inputs/x"][90] *= 50
    (found,) = find("bad_batch", arrays)
    assert (found.first_step, found.tensor, found.cause_kind) == (90, "inputs/x", "batch")
    size = np.sqrt((arrays["inputs/x"][90].astype(np.float64) ** 2).mean())
    assert found.observed == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_class_ids_are_not_magnitudes(kind: type[np.number[Any]]) -> None:
    arrays = quiet_run()
    arrays["inputs/y"] = np.ones((STEPS, 4), kind)
    arrays["inputs/y"][90] = 900
    assert find("bad_batch", arrays) == []
    if kind is np.float32:
        arrays["inputs/y"] = arrays["inputs/y"] + np.float32(0.25)
        (found,) = find("bad_batch", arrays, loss="mse")
        assert (found.first_step, found.cause_kind) == (90, "labels")


def test_infinite_masks_do_no_harm() -> None:
    arrays = quiet_run()
    arrays["activations/net/first/output"] = np.full((STEPS, 4, 8), -np.inf, np.float32)
    assert find("non_finite", arrays) == []


def test_each_time_that_nan_appears_anew_is_a_finding() -> None:
    arrays = quiet_run()
    arrays["inputs/x"][[30, 80], 2, 0] = np.nan
    first, second = find("non_finite", arrays)
    assert [first.first_step, second.first_step] == [30, 80]
    assert first.cause == "the data itself is not finite in row 2 of the batch"
    assert first.cause_kind == "data"


def test_a_loss_that_overflows_after_its_gradients_grew_is_not_the_data() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][25:30] *= 1e4
    arrays["scalars/loss"][30:] = np.inf
    arrays["inputs/sample_loss"][30:] = np.inf
    (found,) = find("non_finite", arrays)
    assert (found.first_step, found.cause_kind) == (30, "overflow")
    assert "the loss overflowed: the gradient of net/first/kernel had grown to" in found.cause


def test_the_row_whose_loss_alone_is_nan_is_named() -> None:
    arrays = quiet_run()
    arrays["scalars/loss"][30] = np.nan
    arrays["inputs/sample_loss"][30, 11] = np.nan
    (found,) = find("non_finite", arrays)
    assert found.evidence["rows"] == [11]
    assert "a target outside what the loss is defined for" in found.cause


def test_a_row_that_is_not_recorded_is_inferred_from_kernel_and_bias() -> None:
    arrays = quiet_run()
    arrays["gradients/net/first/kernel"][30] = np.nan
    (found,) = find("non_finite", arrays)
    assert found.cause_kind == "data"
    assert "in a row that is not recorded" in found.cause


def test_an_update_from_a_weight_that_was_not_there_yet_is_no_nan_of_the_optimizer() -> None:
    arrays = quiet_run()
    arrays["updates/net/middle/kernel"] = np.diff(arrays["weights/net/middle/kernel"], axis=0)
    arrays["updates/net/middle/kernel"][49] = np.nan
    trace = make_trace(arrays, layers=quiet_layers())
    (found,) = diagnose(trace, rules=["non_finite"]).findings
    assert (found.first_step, found.tensor) == (49, "updates/net/middle/kernel")
    table = trace["statistics/weights/values"].copy()
    table.loc[{"step": slice(0, 49), "tensor": "net/middle/kernel"}] = np.nan
    trace["statistics/weights"] = trace["statistics/weights"].assign(values=table)
    assert diagnose(trace, rules=["non_finite"]).findings == ()


def test_skipped_steps_of_mixed_precision_are_told_when_there_are_many() -> None:
    arrays = quiet_run()
    arrays["scalars/loss_scale"] = np.full(STEPS, 1024.0, np.float32)
    arrays["gradients/net/first/kernel"][:3] = np.inf
    del arrays["weights/net/first/kernel"]
    assert find("non_finite", arrays) == []
    arrays["gradients/net/first/kernel"][:18] = np.inf
    arrays["inputs/x_gradient"] = arrays["inputs/x"].copy()
    arrays["inputs/x_gradient"][:18] = np.inf
    arrays["scalars/loss_scale"][:] = 0.125
    arrays["scalars/loss_scale"][:18] = 2.0 ** (15 - np.arange(18))
    assert find("non_finite", arrays) == []
    (found,) = find("loss_scale", arrays)
    assert (found.severity, found.first_step, found.last_step) == ("warning", 0, 17)
    assert "18 steps in a row, 0 to 17, were skipped" in found.explanation
    assert "fell from 3.28e+04 to 0.125" in found.explanation
    # A trace of version 1.3 says it itself, whatever its gradients are.
    arrays["scalars/skipped"] = np.zeros(STEPS, np.int64)
    assert find("loss_scale", arrays) == []
    assert [f.rule for f in find("non_finite", arrays)] == ["non_finite"]


def test_a_scale_that_never_stops_falling_is_an_error() -> None:
    arrays = quiet_run()
    arrays["scalars/loss_scale"] = np.full(STEPS, 1024.0, np.float32)
    arrays["scalars/loss_scale"][-12:] = 1024 * 0.5 ** np.arange(12)
    arrays["scalars/skipped"] = np.zeros(STEPS, np.int64)
    arrays["scalars/skipped"][-12:] = 1
    arrays["gradients/net/first/kernel"][-12:] = np.inf
    (found,) = find("loss_scale", arrays)
    assert (found.severity, found.first_step, found.last_step) == ("error", STEPS - 12, STEPS - 1)
    assert (found.observed, found.cause_kind) == (12.0, "overflow")
    assert find("non_finite", arrays) == []
    # What is NaN in the forward pass is a fault, whatever the optimizer did.
    arrays["scalars/loss"][-12:] = np.nan
    assert "the loss itself was not finite" in find("loss_scale", arrays)[0].cause
    assert find("non_finite", arrays)[0].tensor == "scalars/loss"


def test_a_jump_names_the_update_and_a_changed_learning_rate(
    write_run: Callable[..., Path],
) -> None:
    from steptrace_analyzer.trace.open import open_trace

    trace = open_trace(write_run(steps=100, learning_rates={50: 0.5}))
    found = next(f for f in diagnose(trace).findings if f.rule == "update_jump")
    assert (found.first_step, found.cause_kind) == (50, "learning_rate")
    assert "the update of sequential/" in found.explanation
    assert "the learning rate was 10 times its usual value" in found.cause
