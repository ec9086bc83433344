from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.anomalies.batches import input_change
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.jumps import Jump, find_episodes
from steptrace_analyzer.anomalies.jumps_of import jumps_of
from steptrace_analyzer.anomalies.measurements import norms
from steptrace_analyzer.anomalies.non_finite import first_non_finite
from steptrace_analyzer.anomalies.scores import LOG_FLOOR, high_scores, log_sizes, trailing_scores
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.plots.steps import sudden_findings
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.select import get_tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.finding import Finding


def _jumps(path: Path) -> list[Jump]:
    trace = open_trace(path)
    found = jumps_of(Signals(trace), 8.0)
    marked = sudden_findings(trace)
    assert [jump.step for jump in found] == [finding.step for finding in marked]
    assert [jump.kind == "gradient" for jump in found] == [
        finding.rule == "gradient_jump" for finding in marked
    ]
    return found


def _cause(path: Path) -> Finding:
    (found,) = sudden_findings(open_trace(path))
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "optimizer",
    [{}, {"momentum": 0.9}, {"adam": True, "learning_rate": 0.005}],
    ids=["sgd", "momentum", "adam"],
)
def test_nothing_is_found_in_a_healthy_run(
    write_run: Callable[..., Path], seed: int, optimizer: dict[str, Any]
) -> None:
    path = write_run(steps=100, seed=seed, **optimizer)
    assert sudden_findings(open_trace(path)) == ()


def test_a_spike_in_one_step_is_found_at_that_step(
    write_run: Callable[..., Path], make_run: Callable[..., Any]
) -> None:
    spike = {"input_scale": {40: 40.0}}
    path = write_run(**spike)
    (jump,) = _jumps(path)
    assert (jump.kind, jump.step, jump.tensor) == ("jump", 40, "sequential/dense/kernel")
    assert _cause(path).cause_kind == "batch"
    assert jump.duration == 1

    records = dict(make_run(**spike).records())
    key = "weights/sequential/dense/kernel"
    updates = [
        records[t + 1][key].astype("float64") - records[t][key].astype("float64") for t in range(41)
    ]
    sizes = [float(np.sqrt((update**2).sum())) for update in updates]
    top = jump.tensors[0]
    assert top.norm == pytest.approx(sizes[40], rel=1e-5)
    assert top.usual == pytest.approx(np.median(sizes[:40]), rel=1e-5)
    logs = np.log(sizes[:40])
    mad = np.median(np.abs(logs - np.median(logs)))
    expected = (np.log(sizes[40]) - np.median(logs)) / max(1.4826 * mad, 0.2)
    assert top.z == pytest.approx(expected, rel=1e-5)

    by_unit = np.sqrt((updates[40] ** 2).sum(axis=0))
    assert [unit.index for unit in jump.units] == np.argsort(-by_unit)[:3].tolist()
    assert jump.units[0].norm == pytest.approx(by_unit.max(), rel=1e-5)
    assert jump.units[0].share == pytest.approx((by_unit**2).max() / (by_unit**2).sum(), rel=1e-5)


def test_the_evidence_names_the_batch_and_what_did_not_change(
    write_run: Callable[..., Path], make_run: Callable[..., Any]
) -> None:
    spike = {"input_scale": {40: 40.0}}
    path = write_run(**spike)
    (jump,) = _jumps(path)
    inputs = input_change(Signals(open_trace(path)), 40)
    assert inputs is not None
    assert (inputs.path, inputs.quantity) == ("x", "size")
    batches = [arrays["inputs/x"] for _, arrays in list(make_run(**spike).records())[:41]]
    sizes = [float(np.sqrt((batch.astype("float64") ** 2).mean())) for batch in batches]
    assert inputs.value / inputs.usual == pytest.approx(sizes[40] / np.median(sizes[:40]), 1e-3)
    assert jump.evidence.gradient_jumped
    assert not jump.evidence.learning_rate_changed
    found = _cause(path)
    assert found.cause == "the batch's inputs were 38 times as large as usual"
    assert found.explanation.startswith("at step 40 the update of sequential/dense/kernel was ")
    assert "its gradient was " in found.explanation


def test_a_spike_is_found_from_the_values_where_there_are_no_statistics(
    write_run: Callable[..., Path],
) -> None:
    trace = open_trace(write_run(input_scale={40: 40.0}))
    kept = norms(trace, "updates")
    del trace["statistics"]
    computed = norms(trace, "updates")
    assert kept is not None
    assert computed is not None
    columns = [computed.paths.index(path) for path in kept.paths]
    np.testing.assert_allclose(computed.values[:, columns], kept.values, rtol=1e-6)
    (jump,) = jumps_of(Signals(trace), 8.0)
    assert (jump.kind, jump.step) == ("jump", 40)


def test_an_adaptive_optimizer_does_not_hide_a_corrupted_batch(
    write_run: Callable[..., Path],
) -> None:
    path = write_run(steps=100, adam=True, learning_rate=0.005, input_scale={40: 40.0})
    (jump,) = _jumps(path)
    assert (jump.kind, jump.step) == ("gradient", 40)
    assert jump.evidence.update is not None
    assert jump.evidence.update.ratio < 2
    found = _cause(path)
    assert found.cause_kind == "batch"
    assert "the optimizer damped it" in found.explanation


def test_two_corrupted_batches_are_two_findings(write_run: Callable[..., Path]) -> None:
    found = _jumps(write_run(steps=100, input_scale={40: 40.0, 46: 40.0}))
    assert [jump.step for jump in found] == [40, 46]


def test_a_learning_rate_that_rises_is_named_as_the_cause(write_run: Callable[..., Path]) -> None:
    path = write_run(steps=100, learning_rates={50: 0.5})
    (jump,) = _jumps(path)
    assert jump.step == 50
    assert jump.evidence.learning_rate is not None
    assert jump.evidence.learning_rate.ratio == pytest.approx(10)
    found = _cause(path)
    assert found.cause_kind == "learning_rate"
    assert found.cause.startswith("the learning rate was 10 times its usual value")


@pytest.mark.parametrize(
    "schedule",
    [
        {50: 0.005},
        {step: 0.05 * min(1, (step + 1) / 30) for step in range(100)},
        {step: 0.05 * 0.97**step for step in range(100)},
    ],
    ids=["drop", "warm-up", "decay"],
)
def test_usual_schedules_are_no_anomaly(
    write_run: Callable[..., Path], schedule: dict[int, float]
) -> None:
    assert _jumps(write_run(steps=100, learning_rates=schedule)) == []


def test_a_jump_that_nothing_recorded_explains_says_so(write_run: Callable[..., Path]) -> None:
    found = _cause(write_run(hidden_rate={30: 30.0}))
    assert (found.rule, found.step, found.cause_kind) == ("update_jump", 30, "not known")
    assert "nothing that the trace records explains it" in found.explanation


def test_nan_is_traced_to_the_tensor_where_it_began(
    write_run: Callable[..., Path], make_run: Callable[..., Any]
) -> None:
    path = write_run(poison=(30,))
    found = first_non_finite(open_trace(path))
    assert (found[0].step, found[0].kind, found[0].path) == (30, "inputs", "x")
    assert (found[0].nan, found[0].inf) == (1, 0)
    spread = {tensor.kind: (tensor.step, tensor.path) for tensor in found}
    assert spread["activations"] == (30, "sequential/dense/output")
    assert spread["gradients"] == (30, "sequential/dense_1/bias")
    assert spread["scalars"] == (30, "loss")
    assert spread["weights"] == (31, "sequential/dense/kernel")
    assert [t.kind for t in found[-2:]] == ["weights", "probe"]
    arrays = dict(make_run(poison=(30,)).records())[30]
    expected = int(np.isnan(arrays["activations/sequential/dense/output"]).sum())
    assert next(t.nan for t in found if t.kind == "activations") == expected


def test_a_metric_that_was_not_recorded_is_no_anomaly(healthy: xr.DataTree) -> None:
    metrics = healthy.children["scalars"].children["metrics"]
    values = metrics.dataset["accuracy"].load().copy()
    values[:5] = np.nan
    healthy["scalars/metrics/accuracy"] = values
    (finding,) = sudden_findings(healthy)
    assert (finding.step, finding.tensor) == (0, "scalars/metrics/accuracy")
    entry = {"kind": "scalars", "path": "metrics/accuracy", "reason": "no value"}
    healthy.attrs["steptrace"]["missing"] = [entry | {"steps": [0, 1, 2, 3, 4]}]
    assert sudden_findings(healthy) == ()
    healthy.attrs["steptrace"]["missing"] = [entry | {"steps": None}]
    assert sudden_findings(healthy) == ()


def test_a_smaller_last_batch_may_have_a_noisier_gradient(write_run: Callable[..., Path]) -> None:
    trace = open_trace(write_run(input_scale={40: 40.0}))
    (jump,) = jumps_of(Signals(trace), 8.0)
    scalars = trace["scalars"].to_dataset()
    sizes = scalars["batch_size"].load().copy()
    sizes[40] = 1
    trace["scalars"] = trace["scalars"].assign(batch_size=sizes)
    (smaller,) = jumps_of(Signals(trace), 8.0)
    scale = np.log(jump.tensors[0].ratio) / jump.tensors[0].z
    taken_off = (jump.tensors[0].z - smaller.tensors[0].z) * scale
    assert taken_off == pytest.approx(0.5 * np.log(16), rel=1e-6)


def _column(values: list[float]) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)[:, np.newaxis]


def test_scores_equal_a_computation_by_hand() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=120)
    values[5] = np.nan
    scores = trailing_scores(_column(values.tolist()), floor=0.01)
    for row in (11, 40, 119):
        history = values[max(0, row - 50) : row]
        history = history[~np.isnan(history)]
        median = np.median(history)
        mad = np.median(np.abs(history - median))
        assert scores.median[row, 0] == pytest.approx(median)
        assert scores.z[row, 0] == pytest.approx((values[row] - median) / (1.4826 * mad))


@pytest.mark.parametrize("least", [1.0, 4.0])
def test_high_scores_are_those_of_all_scores(least: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 0.3, size=(400, 7)) + rng.normal(0, 1, 7)
    values += np.where(rng.random((400, 7)) < 0.02, 3.0, 0.0)
    values[rng.random((400, 7)) < 0.05] = np.nan
    values[200:, 3] += 2.0
    all_scores, high = trailing_scores(values), high_scores(values, least)
    wanted = np.nan_to_num(all_scores.z, nan=-np.inf) >= least
    assert wanted.sum() > 20
    for one, other in ((all_scores.z, high.z), (all_scores.scale, high.scale)):
        np.testing.assert_array_equal(one[wanted], other[wanted])
    known = ~np.isnan(high.z)
    np.testing.assert_array_equal(all_scores.z[known], high.z[known])
    assert known.mean() < (0.6 if least == 1.0 else 0.3)


def test_there_is_no_score_before_ten_values() -> None:
    scores = trailing_scores(_column([*range(12)]))
    assert np.flatnonzero(~np.isnan(scores.z[:, 0])).tolist() == [10, 11]


def test_a_quiet_history_does_not_make_small_changes_unusual() -> None:
    quiet = np.log([1.0] * 30 + [1.3])
    z = trailing_scores(_column(quiet.tolist())).z[30, 0]
    assert z == pytest.approx(np.log(1.3) / LOG_FLOOR)


def test_zero_norms_are_no_history_and_no_jump() -> None:
    sizes = log_sizes(_column([0.0] * 20 + [1.0] * 5))
    assert np.isnan(trailing_scores(sizes).z).all()
    mixed = log_sizes(_column([0.0, 1.0] * 12 + [1.0]))
    assert trailing_scores(mixed).z[24, 0] == 0


def _episodes(sizes: list[float], threshold: float = 8.0) -> list[tuple[int, int]]:
    column = _column(sizes)
    found = find_episodes(column, trailing_scores(column), threshold, lambda row: False)
    return [(episode.onset, episode.last) for episode in found]


def test_after_effects_belong_to_the_jump_that_caused_them() -> None:
    decay = [4.0 * 0.8**step for step in range(25)]
    ((onset, last),) = _episodes([0.0] * 30 + decay + [0.0] * 20)
    assert onset == 30
    # z is size / 0.2; the last step that scores above half the threshold is 4 * 0.8**7 = 0.84.
    assert last == 37


def test_after_effects_that_flicker_are_one_finding() -> None:
    sizes = [0.0] * 30 + [4.0, 1.0, 2.0, 0.2, 2.0, 0.1, 0.1, 1.8] + [0.0] * 20
    assert _episodes(sizes) == [(30, 37)]


def test_a_second_jump_inside_the_after_effects_is_a_finding_of_its_own() -> None:
    sizes = [0.0] * 30 + [2.0, 1.5, 1.0, 4.0] + [0.0] * 20
    assert _episodes(sizes) == [(30, 32), (33, 33)]


def test_an_update_is_read_only_where_it_jumped(write_run: Callable[..., Path]) -> None:
    trace = open_trace(write_run(input_scale={40: 40.0}))
    (jump,) = jumps_of(Signals(trace), 8.0)
    update = get_tensor(trace, "updates", jump.tensor).sel(step=40).values
    assert jump.tensors[0].norm == pytest.approx(float(np.linalg.norm(update)), rel=1e-6)


def test_a_finding_becomes_json(write_run: Callable[..., Path]) -> None:
    path = write_run(input_scale={40: 40.0})
    (found,) = diagnose(path, rules=["update_jump"]).findings
    fields = found.to_dict()
    assert (fields["rule"], fields["first_step"], fields["cause_kind"]) == (
        "update_jump",
        40,
        "batch",
    )
    assert fields["evidence"]["ratio"] > 10
    assert fields["explanation"] == found.explanation
