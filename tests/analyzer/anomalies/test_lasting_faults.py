"""Rules on faults that hold from the start, or grow slowly, and on what looks like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from plot_traces import make_trace
from quiet_run import BATCH, CLASSES, STEPS, find, follow_gradients, quiet_layers, quiet_run
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.explain import explain_update
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.registry import _registered, register
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.format.attributes import Event, Layer, Missing, Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals


def _run() -> dict[str, Any]:
    """Return a quiet run in which the loss alone says how the training goes."""
    arrays = quiet_run()
    del arrays["inputs/sample_loss"]
    return arrays


def _entropy(arrays: dict[str, Any]) -> float:
    share = np.bincount(arrays["inputs/y"].ravel()) / arrays["inputs/y"].size
    return float(-(share * np.log(share)).sum())


def _unlearned(arrays: dict[str, Any]) -> dict[str, Any]:
    """Give the run a loss that stays where a constant prediction is."""
    noise = np.random.default_rng(9).normal(0, 0.01, STEPS)
    arrays["scalars/loss"] = (1.02 * _entropy(arrays) + noise).astype(np.float32)
    return arrays


def test_a_loss_no_better_than_a_constant_is_no_learning() -> None:
    arrays = _unlearned(_run())
    (found,) = find("not_learning", arrays)
    assert found.severity == "error"
    assert found.usual == pytest.approx(_entropy(arrays))
    assert found.observed == pytest.approx(float(arrays["scalars/loss"][-20:].mean()))


@pytest.mark.parametrize("loss", ["mse", "mean_absolute_error"])
def test_a_regression_is_compared_with_the_spread_of_its_targets(loss: str) -> None:
    arrays = _run()
    targets = np.random.default_rng(4).normal(3.3, 2.0, (STEPS, 4, 1)).astype(np.float32)
    usual = targets.var() if loss == "mse" else np.abs(targets - np.median(targets)).mean()
    arrays |= {"inputs/y": targets, "scalars/loss": np.full(STEPS, usual, np.float32)}
    (found,) = find("not_learning", arrays, loss=loss)
    assert found.usual == pytest.approx(float(usual), rel=1e-6)
    arrays["scalars/loss"] = np.linspace(usual, usual / 3, STEPS).astype(np.float32)
    assert find("not_learning", arrays, loss=loss) == []


def test_a_loss_that_only_is_slow_is_a_warning() -> None:
    arrays = _run()
    level = _entropy(arrays)
    arrays["scalars/loss"] = np.linspace(1.5 * level, level, STEPS).astype(np.float32)
    assert [found.severity for found in find("not_learning", arrays)] == ["warning"]


@pytest.mark.parametrize(("end", "severity"), [(1.1, "warning"), (1.3, "error")])
def test_a_loss_that_would_not_get_there_in_as_many_steps_again_is_an_error(
    end: float, severity: str
) -> None:
    arrays = _run()
    level = _entropy(arrays)
    arrays["scalars/loss"] = np.linspace(1.5 * level, end * level, STEPS).astype(np.float32)
    (found,) = find("not_learning", arrays)
    assert found.severity == severity
    assert ("fast enough" in found.explanation) == (severity == "error")
    twice = end * level - (1.5 - end) * level  # the same line, twice as long
    assert (twice > 0.97 * level) == (severity == "error")


def test_what_was_learned_and_lost_again_is_no_learning() -> None:
    arrays = _run()
    level = _entropy(arrays)
    noise = np.random.default_rng(5).normal(0, 0.01, STEPS)
    turns = [0, STEPS // 3, STEPS // 2, STEPS - 25]
    course = np.interp(np.arange(STEPS), turns, [1.0, 0.75, 0.75, 1.03])
    arrays["scalars/loss"] = (level * course + noise).astype(np.float32)
    (found,) = find("not_learning", arrays)
    assert found.severity == "error"
    assert f"what was learned by step {found.first_step} is lost" in found.explanation
    assert STEPS // 3 - 5 <= found.first_step <= STEPS // 2 + 10
    arrays["scalars/loss"] = (level * np.minimum(course, 0.98) + noise).astype(np.float32)
    assert find("not_learning", arrays) == []


def test_a_penalty_does_not_count_as_a_task_that_is_not_learned() -> None:
    arrays = quiet_run()
    task = (0.9 * np.exp(-np.arange(STEPS) / 30)).astype(np.float32)
    arrays["inputs/sample_loss"] = np.repeat(task[:, np.newaxis], BATCH, axis=1)
    arrays["scalars/loss"] = task + np.float32(3.0)
    assert find("not_learning", arrays) == []
    del arrays["inputs/sample_loss"]
    assert len(find("not_learning", arrays)) == 1


def test_what_was_learned_and_lost_is_diverging() -> None:
    arrays = _run()
    arrays["scalars/loss"][40:] = np.linspace(2.0, 4.0, STEPS - 40)
    assert find("not_learning", arrays) == []
    (found,) = find("diverging", arrays)
    assert found.severity == "error"
    assert 35 <= found.first_step <= 50
    assert "still rises" in found.explanation


def test_a_loss_that_is_lost_only_at_the_end_is_diverging_where_it_ends_above_a_constant() -> None:
    arrays = _run()
    arrays["scalars/loss"][90:] = 1.0
    assert find("diverging", arrays) == []
    raised = arrays["scalars/learning_rate"].copy()
    raised[95:] = 0.4
    (found,) = find("diverging", arrays | {"scalars/learning_rate": raised})
    assert (found.severity, found.cause_kind) == ("error", "learning_rate")
    raised[:20] = 0.4  # as at a restart
    assert find("diverging", arrays | {"scalars/learning_rate": raised}) == []
    arrays["scalars/loss"][90:] = 2.0
    (found,) = find("diverging", arrays)
    assert (found.severity, found.cause_kind) == ("error", "not known")
    arrays["scalars/learning_rate"][95:] = 0.25
    assert find("diverging", arrays)[0].cause_kind == "not known"
    arrays["scalars/learning_rate"][95:] = 0.4
    (found,) = find("diverging", arrays)
    assert found.cause_kind == "learning_rate"
    assert "raised to 4.0 times what it was at most before (0.4 instead of 0.1)" in found.cause


def test_weights_that_hardly_move_have_a_rate_that_is_too_low() -> None:
    arrays = _unlearned(_run())
    follow_gradients(arrays, 1e-7)
    (found,) = find("rate_too_low", arrays)
    assert (found.severity, found.cause_kind) == ("error", "set-up")
    weights = arrays["weights/net/first/kernel"].astype(np.float64)
    assert found.observed is not None
    sizes = np.linalg.norm(np.diff(weights, axis=0).reshape(STEPS, -1), axis=1)
    ratio = float(np.median(sizes[20:])) / float(np.linalg.norm(weights[0]))
    assert found.observed == pytest.approx(ratio, rel=0.7)
    assert find("rate_too_low", arrays | {"scalars/loss": _run()["scalars/loss"]}) == []


def test_first_updates_that_make_the_loss_far_worse_are_too_large() -> None:
    arrays = _run()
    level = _entropy(arrays)
    loss = np.full(STEPS, 0.9 * level)
    loss[:6] = level, 3 * level, 9 * level, 8 * level, 6 * level, 2 * level
    (found,) = find("rate_too_high", arrays | {"scalars/loss": loss.astype(np.float32)})
    assert found.severity == "error"
    assert found.observed == pytest.approx(8.0, rel=1e-5)  # the median of 9, 8 and 6 times
    loss[60:] = 0.1
    assert find("rate_too_high", arrays | {"scalars/loss": loss.astype(np.float32)}) == []


def _moved(arrays: dict[str, Any], sizes: dict[int, float], start: float) -> None:
    """Give the kernels first weights of a standard deviation, and updates of sizes beside it."""
    rng = np.random.default_rng(8)
    for name in ("first", "middle", "last"):
        shape = arrays[f"gradients/net/{name}/kernel"].shape
        parts = rng.normal(size=(STEPS + 1, *shape[1:]))
        scale = np.array([sizes.get(step, 1e-3) for step in range(STEPS)])
        parts[1:] *= scale[:, np.newaxis, np.newaxis]
        weights = start * np.cumsum(parts, axis=0)
        arrays[f"weights/net/{name}/kernel"] = weights.astype(np.float32)


@pytest.mark.parametrize(
    ("end", "severity"), [(0.5, "error"), (0.15, "error"), (0.07, "warning"), (0.02, None)]
)
def test_first_updates_as_long_as_the_weights_overwrite_them(
    end: float, severity: str | None
) -> None:
    arrays = _run()
    course = np.maximum(np.exp(-np.arange(STEPS) / 15), end) * _entropy(arrays)
    arrays["scalars/loss"] = course.astype(np.float32)
    _moved(arrays, {3: 0.3}, 1.0)
    assert find("rate_too_high", arrays) == []
    _moved(arrays, {3: 2.0}, 1.0)
    found = find("rate_too_high", arrays)
    assert [each.severity for each in found] == [severity] * (severity is not None)
    if severity is None:
        return
    ratios = {}
    for name in ("first", "middle", "last"):
        weights = arrays[f"weights/net/{name}/kernel"].astype(np.float64)
        update = np.linalg.norm(weights[4] - weights[3])
        ratios[f"updates/net/{name}/kernel"] = update / np.linalg.norm(weights[0])
    assert found[0].observed == pytest.approx(sorted(ratios.values())[1], rel=1e-5)
    assert ratios[str(found[0].tensor)] == pytest.approx(found[0].observed, rel=1e-5)
    _moved(arrays, {13: 2.0}, 1.0)  # late enough to be another fault
    assert find("rate_too_high", arrays) == []


@pytest.mark.parametrize(
    ("update", "peak", "end", "severity"),
    [
        (1e6, 1e9, 1.1, "error"),
        (1e6, -1e9, -1.1, "error"),  # as a reward that is maximised
        (1e6, 1e9, 0.2, "warning"),
        (1e-3, 1e9, 1.1, None),  # a batch of outliers
        (1e6, 100.0, 1.1, None),  # first weights that are tiny
    ],
)
def test_a_short_run_whose_first_updates_make_the_loss_explode(
    update: float, peak: float, end: float, severity: str | None
) -> None:
    arrays = _run()
    _moved(arrays, {3: update}, 1.0)
    loss = np.full(STEPS, end)
    loss[:6] = 1.1, 1.2, 99.0, peak / 2, peak, 40.0
    arrays["scalars/loss"] = loss.astype(np.float32)
    short = {path: values[: 28 + path.startswith("weights/")] for path, values in arrays.items()}
    found = find("rate_too_high", short)
    assert [each.severity for each in found] == [severity] * (severity is not None)
    if found:
        assert f"the loss went from 1.1 to {peak:.0e} by step 4" in found[0].explanation
        assert (found[0].observed or 0.0) > update / 10


def test_weights_that_begin_small_are_no_sign_of_a_rate_that_is_too_high() -> None:
    arrays = _run()
    arrays["scalars/loss"] = np.full(STEPS, 0.7 * _entropy(arrays), np.float32)
    _moved(arrays, {3: 2.0}, 0.01)
    assert find("rate_too_high", arrays) == []
    rows = np.arange(STEPS + 1)[:, np.newaxis, np.newaxis]
    for name in ("first", "middle", "last"):  # a penalty makes them small
        weights = arrays[f"weights/net/{name}/kernel"]
        weights[:] = np.sign(weights[:1]) * 0.8**rows + 1e-9
    assert find("rate_too_high", arrays) == []


def test_updates_along_the_gradient_go_uphill() -> None:
    arrays = _run()
    assert find("uphill", arrays) == []
    follow_gradients(arrays, -0.1)
    (found,) = find("uphill", arrays)
    assert found.severity == "error"
    assert found.observed == pytest.approx(1.0, abs=1e-5)


def test_one_kernel_that_goes_uphill_is_named_alone() -> None:
    arrays = _run()
    follow_gradients(arrays, 0.1)
    assert find("uphill", arrays) == []
    gradient = arrays["gradients/net/middle/kernel"].astype(np.float64)
    steps = np.concatenate([np.ones((1, *gradient.shape[1:])), 0.1 * gradient])
    arrays["weights/net/middle/kernel"] = np.cumsum(steps, axis=0).astype(np.float32)
    (found,) = find("uphill", arrays)
    assert (found.tensor, found.severity) == ("updates/net/middle/kernel", "error")
    assert "positive for no other" in found.explanation


def test_a_first_loss_far_above_a_constant_prediction_is_a_poor_start() -> None:
    arrays = _run()
    arrays["scalars/loss"] *= np.float32(0.3)
    arrays["scalars/loss"][0] = 40.0
    assert [found.severity for found in find("poor_start", arrays)] == ["info"]
    arrays["scalars/loss"][1:] = 1.0
    (found,) = find("poor_start", arrays)
    assert (found.severity, found.observed) == ("error", 40.0)


def test_a_regression_that_begins_at_zero_begins_well_however_far_its_mean_is() -> None:
    arrays = _run()
    targets = np.random.default_rng(4).normal(3.0, 0.5, (STEPS, 4, 1)).astype(np.float32)
    zero = float((targets.astype(np.float64) ** 2).mean())
    arrays["inputs/y"] = targets
    arrays["scalars/loss"] = np.linspace(zero, 0.2, STEPS).astype(np.float32)
    assert zero > 30 * targets.var()
    assert find("poor_start", arrays, loss="mse") == []
    arrays["scalars/loss"][0] = 20 * zero
    (found,) = find("poor_start", arrays, loss="mse")
    assert found.severity == "error"
    assert found.usual == pytest.approx(zero)


@pytest.mark.parametrize("value", [0.0, 0.05])
def test_units_that_are_all_the_same_are_named(value: float) -> None:
    arrays = _run()
    assert find("identical_units", arrays) == []
    kernel = np.random.default_rng(1).normal(size=(STEPS + 1, 8, 1)) * value
    arrays["weights/net/middle/kernel"] = np.repeat(kernel, 8, axis=2).astype(np.float32)
    (found,) = find("identical_units", arrays)
    assert found.tensor == "weights/net/middle/kernel"


def test_inputs_off_scale_count_by_what_came_of_the_run() -> None:
    arrays = _run()
    arrays["inputs/x"] = arrays["inputs/x"] * 100 + 300
    (found,) = find("unscaled_inputs", arrays)
    assert (found.severity, found.tensor) == ("info", "inputs/x")
    assert found.evidence["mean"] == pytest.approx(300, rel=0.1)
    (found,) = find("unscaled_inputs", _unlearned(arrays))
    assert found.severity == "error"
    layers = quiet_layers()
    layers = (layers[0].model_copy(update={"class_name": "Normalization"}), *layers[1:])
    assert find("unscaled_inputs", arrays, layers=layers) == []


def test_targets_that_are_fitted_need_no_scaling() -> None:
    arrays = _run()
    arrays["inputs/y"] = np.random.default_rng(2).normal(900, 300, (STEPS, 4, 1)).astype(np.float32)
    arrays["scalars/loss"] = (9e4 * np.exp(-np.arange(STEPS) / 20)).astype(np.float32)
    assert find("unscaled_inputs", arrays, loss="mse") == []
    arrays["scalars/loss"] = np.full(STEPS, 9e5, np.float32)
    assert [f.tensor for f in find("unscaled_inputs", arrays, loss="mse")] == ["inputs/y"]


def test_labels_in_order_are_told_from_mixed_ones() -> None:
    arrays = _run()
    assert find("sorted_labels", arrays) == []
    ordered = np.sort(arrays["inputs/y"].ravel()).reshape(STEPS, 4)
    (found,) = find("sorted_labels", arrays | {"inputs/y": ordered})
    share = (ordered == ordered[:, :1]).all(axis=1).mean()
    assert found.observed == pytest.approx(float(share))


def test_one_batch_for_ever_is_told_from_copies_within_a_batch() -> None:
    arrays = _run()
    assert find("repeated_inputs", arrays) == []
    same = np.tile(np.arange(BATCH, dtype=np.int64), (STEPS, 1))
    (found,) = find("repeated_inputs", arrays | {"inputs/sample_digest": same})
    assert (found.severity, "the same 16 samples" in found.explanation) == ("info", True)
    copies = arrays["inputs/sample_digest"].copy()
    copies[:, BATCH // 2 :] = copies[:, : BATCH // 2]
    (found,) = find("repeated_inputs", arrays | {"inputs/sample_digest": copies})
    assert (found.severity, found.observed) == ("warning", 0.5)


def _outputs(arrays: dict[str, Any], values: Any) -> dict[str, Any]:
    return arrays | {"activations/net/last/output": np.asarray(values, np.float32)}


def _entropies(share: Any, labels: Any) -> Any:
    picked = np.take_along_axis(share, labels[..., np.newaxis], axis=-1)[..., 0]
    return -np.log(np.clip(picked, 1e-7, 1 - 1e-7))


def test_a_softmax_over_one_unit_is_an_error() -> None:
    arrays = _outputs(_run(), np.ones((STEPS, 4, 1)))
    layers = quiet_layers(last="softmax")
    (found,) = find("output_mismatch", arrays, layers=layers, loss="binary_crossentropy")
    assert (found.severity, "one unit" in found.explanation) == ("error", True)


def test_a_cross_entropy_says_itself_what_it_took_the_outputs_for() -> None:
    arrays = quiet_run()
    labels = arrays["inputs/y"]
    raw = np.random.default_rng(8).normal(size=(STEPS, 4, CLASSES))
    share = np.exp(raw) / np.exp(raw).sum(axis=-1, keepdims=True)
    twice = np.exp(share) / np.exp(share).sum(axis=-1, keepdims=True)
    positive = np.maximum(raw, 0)
    clipped = np.clip(positive, 1e-7, 1 - 1e-7)
    losses = arrays["inputs/sample_loss"]

    def judge(outputs: Any, of: Any, last: str | None) -> list[str]:
        seen = losses.copy()
        seen[:, :4] = _entropies(of, labels)
        made = _outputs(arrays | {"inputs/sample_loss": seen}, outputs)
        found = find("output_mismatch", made, layers=quiet_layers(last=last))
        return [each.explanation for each in found]

    assert judge(raw, share, None) == []  # logits, and a loss that knows
    assert judge(share, share, "softmax") == []
    (text,) = judge(share, twice, "softmax")
    assert "softmax or sigmoid is applied twice" in text
    arrays["activations/net/middle/output"] = share.astype(np.float32)
    (text,) = judge(twice, twice, "softmax")
    assert "is a softmax of what is a softmax already" in text
    del arrays["activations/net/middle/output"]
    (text,) = judge(positive, clipped / clipped.sum(axis=-1, keepdims=True), "relu")
    assert "for probabilities, which they are not" in text
    zeros, equal = np.zeros_like(share), np.full_like(share, 1 / CLASSES)
    (text,) = judge(zeros, equal, "relu")
    assert "is a ReLU that gives zero for 100% of the recorded samples" in text
    assert judge(zeros, equal, None) == []  # logits that have not learned anything yet


def test_targets_beyond_the_last_activation_are_named() -> None:
    arrays = _outputs(_run(), np.full((STEPS, 4, 1), 0.5))
    arrays["inputs/y"] = np.random.default_rng(2).normal(2, 1, (STEPS, 4, 1)).astype(np.float32)
    layers = quiet_layers(last="sigmoid")
    (found,) = find("output_mismatch", arrays, layers=layers, loss="mse")
    outside = (arrays["inputs/y"] < 0) | (arrays["inputs/y"] > 1)
    assert found.observed == pytest.approx(float(outside.mean()), abs=0.05)
    assert find("output_mismatch", arrays, layers=quiet_layers(), loss="mse") == []


def test_ids_of_classes_are_no_targets_beyond_a_softmax() -> None:
    """A custom loop does not say that its loss takes ids; they are not one for each output."""
    arrays = quiet_run()
    raw = np.random.default_rng(8).normal(size=(STEPS, 4, CLASSES))
    share = np.exp(raw) / np.exp(raw).sum(axis=-1, keepdims=True)
    assert arrays["inputs/y"].max() > 1
    layers = quiet_layers(last="softmax")
    assert find("output_mismatch", _outputs(arrays, share), layers=layers, loss=None) == []


def test_a_gradient_that_does_not_reach_the_first_layer_vanishes() -> None:
    arrays = _unlearned(_run())
    assert find("vanishing", arrays) == []
    arrays["gradients/net/first/kernel"] *= np.float32(1e-5)
    follow_gradients(arrays)
    (found,) = find("vanishing", arrays)
    assert (found.severity, found.tensor) == ("error", "gradients/net/first/kernel")
    assert found.observed == pytest.approx(1e-5, rel=0.2)
    assert find("vanishing", arrays | {"scalars/loss": _run()["scalars/loss"]}) == []


def test_a_gradient_that_grows_without_end_explodes() -> None:
    arrays = _unlearned(_run())
    growth = np.exp(np.arange(STEPS) / 10).astype(np.float32)[:, np.newaxis, np.newaxis]
    arrays["gradients/net/middle/kernel"] *= growth
    (found,) = find("exploding", arrays)
    assert found.tensor == "gradients/net/middle/kernel"
    assert found.observed is not None
    assert found.usual is not None
    assert found.observed > 100 * found.usual


def test_a_gradient_that_grew_slowly_before_the_loss_did_is_dated() -> None:
    arrays = _run()
    arrays["scalars/loss"][80:] = np.linspace(0.6, 3.0, STEPS - 80)
    assert find("drift", arrays) == []
    growth = np.ones(STEPS, np.float32)
    growth[70:] = 1.06 ** np.arange(STEPS - 70)
    arrays["gradients/net/middle/kernel"] *= growth[:, np.newaxis, np.newaxis]
    (found,) = find("drift", arrays)
    assert (found.tensor, found.severity) == ("gradients/net/middle/kernel", "warning")
    assert 70 <= found.first_step <= 80
    learned = arrays | {"scalars/loss": _run()["scalars/loss"]}
    assert find("drift", learned) == []


def test_a_growth_is_not_blamed_for_what_a_sudden_fault_did_nor_what_came_after_it() -> None:
    arrays = _run()
    path = "gradients/net/middle/kernel"
    grown = arrays[path].copy()
    grown[70:] *= (1.06 ** np.arange(STEPS - 70))[:, np.newaxis, np.newaxis]
    arrays |= {path: grown, "scalars/loss": _run()["scalars/loss"]}
    arrays["scalars/loss"][90:] = 5.0
    (found,) = find("drift", arrays)
    assert 70 <= found.first_step <= 80
    jumped = dict(arrays)
    kernel = jumped["weights/net/first/kernel"].copy()
    kernel[91:] += 4.0
    jumped["weights/net/first/kernel"] = kernel
    assert [each.first_step for each in find("update_jump", jumped)] == [90]
    assert find("drift", jumped) == []
    late = arrays | {path: np.concatenate([_run()[path][:100], grown[70 : STEPS - 30]])}
    assert find("drift", late) == []


def test_noise_gives_as_few_alarms_as_the_limit_promises() -> None:
    alarms = 0
    for seed in range(40):
        arrays = _run()
        rng = np.random.default_rng(seed)
        for path in [path for path in arrays if path.startswith("gradients/")]:
            arrays[path] = rng.normal(size=arrays[path].shape).astype(np.float32)
        arrays["scalars/loss"][80:] = 3.0
        alarms += len(find("drift", arrays))
    assert alarms <= 4  # 0.05 of 40 runs is 2


def test_saturated_units_matter_where_nothing_is_learned() -> None:
    arrays = _unlearned(_run())
    arrays["probe/net/first/preactivation"] = np.full((STEPS, 4, 8), 9.0, np.float32)
    arrays["probe/net/last/preactivation"] = np.zeros((STEPS, 4, 3), np.float32)
    layers = quiet_layers("tanh")
    (found,) = find("saturation", arrays, layers=layers)
    assert (found.severity, found.observed) == ("error", 1.0)
    learned = arrays | {"scalars/loss": _run()["scalars/loss"]}
    assert find("saturation", learned, layers=layers) == []
    assert find("saturation", arrays, layers=quiet_layers("relu")) == []


def test_a_weight_with_a_gradient_that_does_not_move_is_named() -> None:
    arrays = _run()
    assert find("unchanged", arrays) == []
    kernel = arrays["weights/net/middle/kernel"]
    kernel[70:] = kernel[70]
    (found,) = find("unchanged", arrays)
    assert (found.tensor, found.first_step) == ("updates/net/middle/kernel", 70)
    assert found.observed == STEPS - 70


def test_gradients_that_were_computed_beside_are_not_taken_for_exact() -> None:
    arrays = _run()
    follow_gradients(arrays)
    rng = np.random.default_rng(7)
    for name in ("first", "middle", "last"):
        gradient = arrays[f"gradients/net/{name}/kernel"]
        noise = 1 + 1e-4 * rng.normal(size=gradient.shape)
        arrays[f"gradients/net/{name}/kernel"] = (gradient * noise).astype(np.float32)
    sgd = Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False})
    inside: dict[str, Any] = {"optimizer": sgd, "capture": {"gradients": "inside"}}
    beside: dict[str, Any] = {"optimizer": sgd, "capture": {"gradients": "beside"}}
    assert find("outside", arrays, **inside) != []
    assert find("outside", arrays, **beside) == []
    explained = explain_update(make_trace(arrays, **beside), 30, "first/kernel")
    assert explained.explained is True
    assert "computed beside the training" in explained.explain()
    arrays["weights/net/first/kernel"][50:, 2, 3] += 5.0
    (found,) = find("outside", arrays, **beside)
    assert (found.first_step, found.evidence["element"]) == (49, [2, 3])


def test_gradients_that_each_replica_clipped_say_nothing_of_the_updates() -> None:
    arrays = _run()
    follow_gradients(arrays)
    clipped = {"momentum": 0.0, "nesterov": False, "clipvalue": 1e-4}
    sgd: dict[str, Any] = {"optimizer": Optimizer(class_name="SGD", config=clipped)}
    assert find("outside", arrays, **sgd) != []  # on one replica, these updates are too large
    arrays["inputs/sample_replica"] = np.arange(4) % 2 + np.zeros((STEPS, 1), int)
    assert find("outside", arrays, **sgd) == []
    explained = explain_update(make_trace(arrays, **sgd), 30, "first/kernel")
    assert "each replica clipped its own gradients" in explained.explain()
    sgd["optimizer"] = Optimizer(class_name="SGD", config=clipped | {"clipvalue": None})
    assert explain_update(make_trace(arrays, **sgd), 30, "first/kernel").explained is True


def test_frozen_layers_are_told_from_weights_that_no_loss_depends_on() -> None:
    first, *rest = quiet_layers()
    variables = ("net/first/kernel", "net/first/bias")
    still = first.model_copy(update={"trainable": False, "variables": variables, "parameters": 56})
    (found,) = find("frozen", _run(), layers=(still, *rest))
    assert (found.severity, found.observed) == ("info", 56.0)
    reason = "the loss does not depend on this tensor"
    missing = (Missing(kind="gradients", path="net/middle/bias", reason=reason),)
    (found,) = find("frozen", _run(), missing=missing)
    assert (found.severity, found.tensor) == ("warning", "weights/net/middle/bias")
    (found,) = find("frozen", _unlearned(_run()), missing=missing)
    assert found.severity == "error"
    assert find("frozen", _run()) == []


def test_a_validation_loss_that_rises_while_training_goes_on_is_overfitting() -> None:
    arrays = _run()
    arrays["validation/loss"] = np.array([1.0, 0.6, 0.5, 0.7, 0.8, 0.9])
    steps = {"validation": [0, 20, 40, 60, 80, 100]}
    trace = make_trace(arrays, steps=steps, layers=quiet_layers())
    (found,) = diagnose(trace, rules=["overfitting"]).findings
    assert (found.severity, found.first_step, found.usual) == ("warning", 40, 0.5)
    norm = Layer(path="net/norm", name="norm", class_name="BatchNormalization")
    trace = make_trace(arrays, steps=steps, layers=(norm, *quiet_layers()))
    (found,) = diagnose(trace, rules=["overfitting"]).findings
    assert (found.severity, found.cause_kind) == ("info", "not known")


def test_samples_that_stay_wrong_are_listed() -> None:
    arrays = quiet_run()
    wrong = 7
    arrays["inputs/sample_loss"][arrays["inputs/sample_digest"] == wrong] = 6.0
    (found,) = find("suspect_samples", arrays)
    assert found.severity == "info"
    assert [sample["digest"] for sample in found.evidence["samples"]] == [wrong]
    last = tuple(np.argwhere(arrays["inputs/sample_digest"] == wrong)[-1])
    arrays["inputs/sample_loss"][last] = 1.5  # it is learned at last, and its mean still above
    assert find("suspect_samples", arrays) == []


def test_a_loss_that_is_mostly_penalty_is_named() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"] = np.full((STEPS, BATCH), _entropy(arrays), np.float32)
    arrays["scalars/loss"] = np.full(STEPS, 5.0, np.float32)
    (found,) = find("regulariser", arrays)
    assert found.observed == pytest.approx(1 - _entropy(arrays) / 5.0, rel=1e-5)


def test_a_loss_that_is_a_sum_over_the_batch_holds_no_penalty() -> None:
    arrays = quiet_run()
    arrays["inputs/sample_loss"] = np.full((STEPS, BATCH), _entropy(arrays), np.float32)
    arrays["scalars/loss"] = arrays["inputs/sample_loss"].sum(axis=1)
    assert find("regulariser", arrays) == []


def test_what_came_of_a_run_stands_last_in_the_story_of_its_cause() -> None:
    arrays = _unlearned(_run())
    follow_gradients(arrays, 1e-7)
    (story,) = diagnose(
        make_trace(arrays, layers=quiet_layers(), loss="sparse_categorical_crossentropy"),
        rules=["rate_too_low", "not_learning"],
    ).stories
    assert [found.rule for found in story.findings] == ["rate_too_low", "not_learning"]
    assert story.severity == "error"
    first, second, last = story.text.splitlines()
    assert first.startswith("error, steps 0 to 119: the weights hardly moved")
    assert second.startswith("  -> nothing was learned in 120 steps")
    assert last.startswith("  what to do: raise the learning rate")


@pytest.mark.parametrize(
    ("reason", "severity"),
    [("the training step raised ValueError: no", "error"), ("the process ended", "info")],
)
def test_a_run_that_broke_off_says_why(reason: str, severity: str) -> None:
    (found,) = find("broken_off", _run(), status="incomplete", status_reason=reason)
    assert (found.severity, found.first_step) == (severity, STEPS - 1)
    assert reason in found.explanation
    assert find("broken_off", _run()) == []


def test_updates_of_a_quiet_run_are_explained_and_of_a_resumed_one_not_judged() -> None:
    arrays = _run()
    sgd = Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False})
    assert find("outside", arrays, optimizer=sgd) == []
    arrays["weights/net/middle/kernel"][61:, 2, 3] += np.float32(0.01)
    (found,) = find("outside", arrays, optimizer=sgd)
    assert (found.first_step, found.tensor) == (60, "updates/net/middle/kernel")
    assert found.evidence["element"] == [2, 3]
    assert found.observed == pytest.approx(0.01, rel=1e-3)
    event = Event(time="2026-01-01T00:00:00+00:00", message="recording was resumed here", step=60)
    trace = make_trace(arrays, optimizer=sgd, events=(event,))
    (reason,) = diagnose(trace, rules=["outside"]).not_judged
    assert "the run was resumed" in reason.reason


def test_weights_that_a_program_sets_again_and_again_are_not_changed_at_every_step() -> None:
    arrays = _run()
    sgd = Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False})
    for row in range(4, STEPS, 4):  # as meta-learning does after each task
        arrays["weights/net/middle/kernel"][row:] += np.float32(0.01)
    (found,) = find("outside", arrays, optimizer=sgd)
    assert "something changes them again and again" in found.explanation
    assert "weights that the program sets" in str(found.cause)
    weights = arrays["weights/net/middle/kernel"]
    weights += np.float32(0.01) * np.arange(len(weights), dtype=np.float32)[:, None, None]
    (found,) = find("outside", arrays, optimizer=sgd)
    assert "something changes them at every step" in found.explanation


def test_gradients_that_a_program_adds_up_are_not_called_changes_of_weights() -> None:
    arrays = _run()
    sgd = Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False})
    weights = arrays["weights/net/middle/kernel"]
    for row in range(len(weights)):
        weights[row] = weights[row - row % 4]  # three of four steps apply nothing
    (found,) = find("outside", arrays, optimizer=sgd)
    assert "of them leave it as it is" in found.explanation
    assert "something changes" not in found.explanation
    assert "adds up those of several batches" in str(found.cause)


def test_a_run_that_ends_in_nan_has_what_was_off_before_at_every_step() -> None:
    arrays = _run()
    sgd = Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False})
    follow_gradients(arrays, -0.1)
    for name in ("first", "middle", "last"):
        arrays[f"weights/net/{name}/kernel"][11:] = np.nan
        arrays[f"gradients/net/{name}/kernel"][11:] = np.nan
    found = find("outside", arrays, optimizer=sgd)
    assert [each.severity for each in found] == ["info"] * 3
    assert {each.observed for each in found} == {1.0}


def test_a_rule_of_ones_own_is_run_with_its_threshold() -> None:
    def loud(signals: Signals, *, most: float = 10.0) -> Iterator[Finding]:
        """Find losses above `most`."""
        for step, loss in zip(signals.loss.steps, signals.loss.values[:, 0], strict=True):
            if loss > most:
                yield Finding("loud", "warning", int(step), int(step), f"the loss is {loss:.3g}.")

    register(loud)
    try:
        trace = make_trace(_run(), layers=quiet_layers())
        assert diagnose(trace, rules=["loud"]).findings == ()
        found = diagnose(trace, rules=["loud"], settings={"loud.most": 1.2}).findings
        assert [each.first_step for each in found] == list(range(len(found)))
        assert len(found) == int((_run()["scalars/loss"] > 1.2).sum())
    finally:
        del _registered["loud"]
    with pytest.raises(UnknownNameError, match="no rule 'loud'"):
        diagnose(trace, rules=["loud"])


def test_rules_say_what_they_miss() -> None:
    arrays = {"scalars/loss": _run()["scalars/loss"]}
    found = diagnose(make_trace(arrays))
    reasons = {each.rule: each.reason for each in found.not_judged}
    assert found.findings == ()
    assert reasons["dead_units"] == "the trace holds no values of gradients of kernels"
    assert reasons["bad_batch"] == "the trace holds no statistics of inputs"
    assert reasons["overfitting"] == "the training does not validate"
    assert "loss_spike" not in reasons


def test_findings_become_rows_of_a_table() -> None:
    arrays = _unlearned(_run())
    table = diagnose(
        make_trace(
            arrays,
            layers=quiet_layers(),
            optimizer=Optimizer(class_name="SGD", config={"momentum": 0.0, "nesterov": False}),
            loss="sparse_categorical_crossentropy",
        )
    ).to_dataframe()
    assert table["rule"].tolist() == ["not_learning"]
    assert table["severity"].tolist() == ["error"]
