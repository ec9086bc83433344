"""Whether a run learned anything, where some batches are harder than others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from plot_traces import make_trace
from quiet_run import quiet_layers, quiet_run
from steptrace_analyzer import diagnose
from steptrace_analyzer.anomalies.batch_levels import batch_levels
from steptrace_analyzer.anomalies.constant_losses import _with_less_padding
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_schema.format.attributes import TargetLoss

STEPS, BATCH = 120, 32


def _trace(targets: Any, costs: Any, loss: str, column: str, **fields: Any) -> xr.DataTree:
    """Return a trace that says the target of each sample, of which it holds the first four."""
    arrays = quiet_run(STEPS)
    arrays["inputs/y"] = targets[:, :4]
    arrays["inputs/sample_loss"] = costs.astype(np.float32)
    arrays["scalars/loss"] = costs.mean(axis=1).astype(np.float32)
    arrays["scalars/batch_size"] = np.full(STEPS, BATCH)
    arrays["inputs/sample_digest"] = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)
    arrays["inputs/sample_statistics"] = targets[..., np.newaxis].astype(np.float64)
    fields |= {"layers": quiet_layers(), "loss": loss, "sample_statistics": (column,)}
    trace = make_trace(arrays, **fields)
    inputs = trace["inputs"].to_dataset().assign_coords({"statistic": [column]})
    trace["inputs"] = xr.DataTree(inputs)
    return trace


def _numbers() -> Any:
    """Return targets with long tails, which get smaller and smaller."""
    targets = np.random.default_rng(3).standard_t(3, (STEPS, BATCH))
    return (targets * np.linspace(2, 1, STEPS)[:, np.newaxis]).astype(np.float32)


def _errors(trace: xr.DataTree) -> list[str]:
    return [found.rule for found in diagnose(trace, rules=["not_learning"]).findings]


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_loss_that_falls_because_the_batches_get_easier_is_no_learning(loss: str) -> None:
    targets = _numbers()
    middle = targets.mean() if loss == "mse" else np.median(targets)
    cost = (targets - middle) ** 2 if loss == "mse" else np.abs(targets - middle)
    assert cost[-20:].mean() < 0.8 * cost.mean()
    trace = _trace(targets, cost, loss, "y/mean")
    assert _errors(trace) == ["not_learning"]
    assert _errors(_trace(targets, 0.8 * cost, loss, "y/mean")) == []
    levels = batch_levels(Signals(trace), np.arange(STEPS))
    assert levels is not None
    assert levels == pytest.approx(cost.mean(axis=1), rel=2e-3)


def test_of_a_loss_with_settings_easy_batches_are_told_from_learning_as_well() -> None:
    targets, delta = _numbers(), 0.7
    size = np.abs(targets[..., np.newaxis] - np.linspace(-1, 1, 401, dtype=np.float32))
    every = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
    cost = every[..., every.mean(axis=(0, 1)).argmin()]
    assert cost[-20:].mean() < 0.8 * cost.mean()
    huber = TargetLoss(target="y", name="huber", function="huber", config={"delta": delta})
    for share, rules in ((1.0, ["not_learning"]), (0.8, [])):
        trace = _trace(targets, share * cost, "huber", "y/mean", losses=(huber,))
        assert _errors(trace) == rules
        levels = batch_levels(Signals(trace), np.arange(STEPS))
        assert levels is not None
        assert levels == pytest.approx(cost.mean(axis=1), rel=1e-2)


def test_a_loss_that_falls_because_a_rare_class_is_rarer_is_no_learning() -> None:
    rng = np.random.default_rng(4)
    share = np.linspace(0.2, 0.02, STEPS)[:, np.newaxis]
    classes = (rng.random((STEPS, BATCH)) < share).astype(np.int64)
    usual = np.bincount(classes.ravel()) / classes.size
    cost = -np.log(usual)[classes]
    assert cost[-20:].mean() < 0.8 * cost.mean()
    assert _errors(_trace(classes, cost, "sparse_categorical_crossentropy", "y/category")) == [
        "not_learning"
    ]


def test_where_the_targets_of_all_samples_are_not_known_batches_are_taken_as_equal() -> None:
    trace = _trace(_numbers(), np.ones((STEPS, BATCH)), "mse", "y/rms")
    assert batch_levels(Signals(trace), np.arange(STEPS)) is None
    trace = _trace(_numbers(), np.ones((STEPS, BATCH)), "huber", "y/mean")
    assert batch_levels(Signals(trace), np.arange(STEPS)) is None
    trace = _trace(_numbers(), np.ones((STEPS, BATCH)), "mse", "y/mean")
    assert batch_levels(Signals(trace), np.arange(1, STEPS)) is None


def test_a_loss_that_leaves_some_of_the_samples_out_is_what_counts() -> None:
    """As of sequences whose padding a mask leaves out, before samples' losses knew of masks."""
    rng = np.random.default_rng(5)
    targets = rng.normal(size=(STEPS, BATCH)).astype(np.float32)
    losses = np.linspace(1.0, 9.0, STEPS)[:, np.newaxis] * rng.uniform(0.9, 1.1, (STEPS, BATCH))
    trace = _trace(targets, losses, "mse", "y/mean")
    assert _errors(trace) == ["not_learning"]
    scalars = trace["scalars"].to_dataset()
    falling = np.geomspace(1.0, 1e-3, STEPS).astype(np.float32)
    trace["scalars"] = xr.DataTree(scalars.assign(loss=scalars["loss"].copy(data=falling)))
    assert _errors(trace) == []


def test_of_padded_sequences_the_highest_level_that_any_mask_gives_is_taken() -> None:
    padded = np.array([0] * 60 + [1] * 20 + [2] * 20)
    counts = np.array([60.0, 20.0, 20.0])
    level = _with_less_padding(counts)
    assert level == pytest.approx(np.log(3), rel=1e-3)  # with as much padding as of either class
    share = np.bincount(padded) / len(padded)
    assert level > -(share * np.log(share)).sum()
    assert _with_less_padding(np.array([8.0])) == 0
