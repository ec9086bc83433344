"""Causes on traces of every shape: thinned, logged, with several inputs, with class ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from plot_traces import make_trace
from steptrace_analyzer.anomalies.batches import input_change
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.jumps_of import jumps_of
from steptrace_analyzer.anomalies.non_finite import NonFiniteTensor, first_non_finite
from steptrace_analyzer.anomalies.non_finite_cause import cause_of_non_finite
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.plots.steps import sudden_findings
from steptrace_analyzer.trace.batch import measured_arrays
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.attributes import RESUMED, Event
from steptrace_schema.format.retention import last
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.finding import Finding

ROWS = 40
AT = 30
Arrays = dict[str, "npt.NDArray[Any]"]


def _arrays(**changes: npt.NDArray[Any]) -> Arrays:
    """Return a run of one dense layer whose update is ten thousand times as large at step 30."""
    rng = np.random.default_rng(1)
    updates = rng.normal(size=(ROWS, 3, 2))
    updates[AT] *= 1e4
    weights = np.concatenate([np.zeros((1, 3, 2)), np.cumsum(updates, axis=0)])
    arrays: Arrays = {
        "scalars/loss": rng.uniform(1, 1.1, ROWS).astype("float32"),
        "scalars/learning_rate": np.full(ROWS, 0.1, "float32"),
        "scalars/batch_size": np.full(ROWS, 4),
        "inputs/x": rng.normal(size=(ROWS, 4, 3)).astype("float32"),
        "weights/net/dense/kernel": weights.astype("float32"),
        "gradients/net/dense/kernel": rng.normal(size=(ROWS, 3, 2)).astype("float32"),
        "activations/net/dense/output": rng.normal(size=(ROWS, 4, 2)).astype("float32"),
        "updates/net/dense/kernel": updates.astype("float32"),
    }
    return arrays | {key.replace("__", "/"): values for key, values in changes.items()}


def _jump(**changes: npt.NDArray[Any]) -> Finding:
    (found,) = sudden_findings(make_trace(_arrays(**changes)))
    assert (found.rule, found.step) == ("update_jump", AT)
    return found


def _first(trace: xr.DataTree) -> tuple[int, str, str]:
    """Return step, tensor and cause of the first value that is not finite."""
    first = first_non_finite(trace)[0]
    return first.step, f"{first.kind}/{first.path}", cause_of_non_finite(trace, first)


def _non_finite(**changes: npt.NDArray[Any]) -> tuple[int, str, str]:
    return _first(make_trace(_arrays(**changes)))


def _with(values: npt.NDArray[Any], index: Any, value: float) -> npt.NDArray[Any]:
    values = np.array(values, dtype="float32")
    values[index] = value
    return values


THINNED: dict[str, dict[str, Any]] = {
    "retain": {"retain": last(10), "steps": 80, "shard_steps": 4},
    "disk_limit": {"disk_limit": 1_000_000, "steps": 120, "shard_steps": 8},
}


@pytest.mark.parametrize("thinned", THINNED.values(), ids=THINNED)
def test_a_jump_at_a_step_without_tensors_is_found_from_statistics(
    write_run: Callable[..., Path], thinned: dict[str, Any]
) -> None:
    trace = open_trace(write_run(**thinned, input_scale={43: 40.0}))
    assert 43 not in trace["weights"].coords["step"].values.tolist()
    assert 43 in trace["statistics/updates"].coords["step"].values.tolist()
    (jump,) = jumps_of(Signals(trace), 8.0)
    assert (jump.step, jump.tensor) == (43, "sequential/dense/kernel")
    assert jump.units == ()
    whole = open_trace(write_run(steps=thinned["steps"], input_scale={43: 40.0}))
    (same,) = jumps_of(Signals(whole), 8.0)
    assert jump.tensors == same.tensors
    assert [unit.index for unit in same.units] != []


def test_a_nan_at_a_step_without_tensors_is_found_from_statistics(
    write_run: Callable[..., Path],
) -> None:
    trace = open_trace(write_run(**THINNED["retain"], poison=(43,)))
    assert _first(trace) == (43, "inputs/x", "the data itself is not finite")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_a_cause_for_its_first_nan(kind: Kind) -> None:
    trace = make_trace(_arrays())
    first = NonFiniteTensor(kind, "net/dense/kernel", 5, 1, 0)
    assert cause_of_non_finite(trace, first)


@pytest.mark.parametrize(
    ("key", "shape", "cause"),
    [
        ("logged/gates", (3,), "the training logged it; all that is recorded before it is finite"),
        (
            "optimizer/net/dense/kernel/momentum",
            (3, 2),
            "the update of the step before made it from a gradient that is finite as recorded",
        ),
        (
            "probe_gradients/net/dense/saliency",
            (4, 3),
            "the probe's backward pass made it from weights that are finite as recorded",
        ),
        ("inputs/sample_weight", (4,), "it came with the data"),
        (
            "inputs/x_gradient",
            (4, 3),
            "the backward pass made it from inputs, weights and layer outputs that are finite as "
            "recorded",
        ),
    ],
)
def test_a_nan_in_what_only_some_traces_hold_is_a_finding(
    key: str, shape: tuple[int, ...], cause: str
) -> None:
    changes = {key.replace("/", "__"): _with(np.ones((ROWS, *shape)), (12, 0), np.nan)}
    assert _non_finite(**changes) == (12, key, cause)


def test_a_nan_of_the_validation_is_a_finding() -> None:
    found = _non_finite(validation__loss=_with(np.ones(ROWS), 20, np.nan))
    cause = "the validation made it from weights that are finite as recorded"
    assert found == (20, "validation/loss", cause)


def test_of_logged_numbers_an_infinity_is_sure_and_a_nan_only_where_nothing_else_is_logged() -> (
    None
):
    assert _non_finite(logged__reward=_with(np.ones(ROWS), 7, np.inf))[0] == 7
    assert _non_finite(logged__reward=_with(np.ones(ROWS), 7, np.nan))[0] == 7
    two = _arrays(
        logged__reward=_with(np.ones(ROWS), 7, np.nan), logged__other=np.ones(ROWS, "float32")
    )
    assert first_non_finite(make_trace(two)) == ()


@pytest.mark.parametrize(
    ("key", "values", "cause"),
    [
        ("logged/gates", np.ones((ROWS, 3)), "the training logged it"),
        ("logged/reward", np.ones(ROWS), "the training logged it"),
        ("validation/loss", np.ones(ROWS), "the validation made it from weights that are finite"),
        ("scalars/metrics/auc", np.ones(ROWS), "the forward pass or the loss made it"),
        ("probe/net/dense/output", np.ones((ROWS, 4, 2)), "the probe's forward pass made it"),
        ("probe_gradients/net/dense/saliency", np.ones((ROWS, 4, 3)), "the probe's backward pass"),
    ],
)
def test_a_nan_beside_the_training_is_a_warning_with_its_cause(
    key: str, values: npt.NDArray[Any], cause: str
) -> None:
    bad = {key: _with(values, (12, *[0] * (values.ndim - 1)), np.nan)}
    (finding,) = diagnose(make_trace(_arrays() | bad), rules=["non_finite"]).findings
    assert (finding.severity, finding.first_step, finding.tensor) == ("warning", 12, key)
    assert finding.cause.startswith(cause)
    after = bad | {"gradients/net/dense/kernel": _with(np.ones((ROWS, 3, 2)), (9, 0, 0), np.nan)}
    found = diagnose(make_trace(_arrays() | after), rules=["non_finite"]).findings
    assert [f.tensor for f in found] == ["gradients/net/dense/kernel"]


def test_an_update_that_is_not_finite_at_a_rate_of_zero_is_not_told_to_lower_it() -> None:
    bad = {"updates/net/dense/kernel": _with(np.ones((ROWS, 3, 2)), (12, 0, 0), np.nan)}
    (finding,) = diagnose(make_trace(_arrays() | bad), rules=["non_finite"]).findings
    assert "at a learning rate of 0" not in finding.cause
    assert finding.remedy.startswith("lower the learning rate")
    bad["scalars/learning_rate"] = _with(np.full(ROWS, 0.1), 12, 0.0)
    (finding,) = diagnose(make_trace(_arrays() | bad), rules=["non_finite"]).findings
    assert finding.cause.endswith("finite as recorded, at a learning rate of 0")
    assert finding.remedy.startswith("keep the learning rate above zero")


def test_the_gradient_of_one_of_several_inputs_is_not_data() -> None:
    bad = {"inputs/x_gradient_0": _with(np.ones((ROWS, 4, 3)), (12, 0, 0), np.inf)}
    (finding,) = diagnose(make_trace(_arrays() | bad), rules=["non_finite"]).findings
    assert "the backward pass made it" in finding.cause


def test_the_rules_judge_a_thinned_trace_as_they_judge_a_whole_one(
    write_run: Callable[..., Path],
) -> None:
    for thinned in THINNED.values():
        spike = {"input_scale": {43: 40.0}, "steps": thinned["steps"]}
        found = diagnose(write_run(**(thinned | spike)))
        whole = diagnose(write_run(**spike))
        assert [(f.rule, f.first_step, f.tensor, f.cause) for f in found.findings] == [
            (f.rule, f.first_step, f.tensor, f.cause) for f in whole.findings
        ]
        assert {f.first_step for f in found.findings} == {43}


def test_a_learning_rate_that_is_not_finite_was_given_to_the_step() -> None:
    found = _non_finite(scalars__learning_rate=_with(np.full(ROWS, 0.1), 9, np.nan))
    assert found[2] == "it was given to the step, which did not compute it"


def test_a_loss_that_overflows_is_not_blamed_on_the_data() -> None:
    per_sample = _with(np.ones((ROWS, 4)), (15, slice(0, 3)), np.inf)
    loss = _with(np.ones(ROWS), 15, np.inf)
    found = _non_finite(inputs__sample_loss=per_sample, scalars__loss=loss)
    cause = (
        "the loss overflowed, or took the logarithm of zero from inputs, weights and layer outputs "
        "that are finite as recorded"
    )
    assert found == (15, "inputs/sample_loss", cause)
    before = _with(np.ones((ROWS, 4, 2)), (15, 0, 0), np.inf)
    found = _non_finite(
        inputs__sample_loss=per_sample, scalars__loss=loss, activations__net__dense__output=before
    )
    assert found[1] == "activations/net/dense/output"


def test_what_is_not_recorded_is_not_called_finite() -> None:
    arrays = {k: v for k, v in _arrays().items() if k.startswith("scalars/")}
    arrays["scalars/loss"] = _with(np.ones(ROWS), 15, np.nan)
    cause = "the loss function made it; what it was made from is not recorded"
    assert _first(make_trace(arrays))[2] == cause


def test_the_first_of_the_weights_and_those_after_a_gap_have_no_step_to_blame() -> None:
    poisoned = _with(np.zeros((ROWS + 1, 3, 2)), (slice(8, None), 0, 0), np.nan)
    steps = {"weights": range(0, 10 * (ROWS + 1), 10)}
    arrays = {"weights/net/dense/kernel": poisoned}
    cause = "a step from 70 to 79 made it, of which not all are recorded"
    assert _first(make_trace(arrays, steps=steps))[2] == cause
    arrays = {"weights/net/dense/kernel": poisoned[8:]}
    assert _first(make_trace(arrays))[2] == "the first recorded weights already are not finite"


def test_a_corrupted_batch_is_named_in_whichever_of_several_inputs_it_is() -> None:
    rng = np.random.default_rng(2)
    inputs = {f"inputs__x_{n}": rng.normal(size=(ROWS, 4, 3)).astype("float32") for n in range(3)}
    inputs["inputs__x_1"][AT] *= 20
    arrays = _arrays(**inputs)
    del arrays["inputs/x"]
    trace = make_trace(arrays)
    (found,) = sudden_findings(trace)
    assert found.cause_kind == "batch"
    change = input_change(Signals(trace), AT)
    assert change is not None
    assert (change.path, change.quantity) == ("x_1", "size")
    sizes = np.sqrt((inputs["inputs__x_1"].astype("float64") ** 2).mean(axis=(1, 2)))
    ratio = sizes[AT] / np.median(sizes[:AT])
    assert change.value / change.usual == pytest.approx(ratio, rel=1e-3)
    assert found.cause == f"the batch's inputs '1' were {ratio:.0f} times as large as usual"


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
def test_class_ids_are_categories_whatever_their_type(dtype: str) -> None:
    labels = np.random.default_rng(3).integers(1, 9, (ROWS, 4)).astype(dtype)
    labels[AT] = 0
    found = _jump(inputs__y=labels)
    assert found.cause_kind == "not known"
    assert "targets" not in found.explanation


def test_a_regression_target_that_jumps_is_a_cause() -> None:
    targets = np.random.default_rng(3).normal(size=(ROWS, 4, 1)).astype("float32")
    targets[AT] *= 50
    found = _jump(inputs__y=targets)
    assert found.cause_kind == "labels"
    assert "the batch's targets were " in found.explanation


def test_token_ids_are_categories_and_pixels_are_magnitudes() -> None:
    rng = np.random.default_rng(4)
    arrays = _arrays(
        inputs__x=rng.integers(0, 9, (ROWS, 4, 7)),
        inputs__x_picture=rng.integers(0, 255, (ROWS, 4, 5, 5, 1)).astype("uint8"),
        inputs__x_grey=rng.integers(0, 255, (ROWS, 4, 5, 5)).astype("uint8"),
        inputs__x_flag=rng.integers(0, 2, (ROWS, 4)).astype("bool"),
        inputs__x_age=rng.integers(0, 99, (ROWS, 4, 1)).astype("float32"),
        inputs__y_class=rng.integers(0, 9, (ROWS, 4)),
        inputs__y_height=rng.normal(size=(ROWS, 4)).astype("float32"),
        inputs__x_gradient_age=rng.normal(size=(ROWS, 4, 1)).astype("float32"),
        inputs__sample_loss=rng.normal(size=(ROWS, 4)).astype("float32"),
    )
    assert set(measured_arrays(make_trace(arrays))) == {"x_picture", "x_grey", "x_age", "y_height"}


@pytest.mark.parametrize("gradient_jumps", [False, True], ids=["calm", "exploding"])
def test_weights_of_another_model_are_no_update_where_a_recording_is_resumed(
    gradient_jumps: bool,
) -> None:
    arrays = _arrays()
    arrays["scalars/loss"][AT + 1 :] *= 20
    if gradient_jumps:
        arrays["gradients/net/dense/kernel"][AT] *= 1e4
    found: dict[bool, dict[str, Finding]] = {}
    for resumed in (False, True):
        events = (Event(time="2026-01-01T00:00:00+00:00", message=RESUMED, step=AT + 1),)
        trace = make_trace(arrays, events=events if resumed else ())
        rules = ["update_jump", "loss_spike"]
        # A spike is severe if it is not back: 8 steps are enough for that here.
        findings = diagnose(trace, rules=rules, settings={"loss_spike.patience": 8}).findings
        found[resumed] = {finding.rule: finding for finding in findings}
    jump, spike = found[True]["update_jump"], found[True]["loss_spike"]
    replaced = "the weights were replaced before step 31, where the recording was resumed"
    assert (replaced in str(jump.cause)) == (not gradient_jumps)
    assert jump.severity == spike.severity == "warning"
    assert found[False]["loss_spike"].severity == "error"
    assert replaced not in str(found[False]["update_jump"].cause)
