"""Rules on how a training goes on, on classes, on inference, and on replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from plot_traces import make_trace
from quiet_run import BATCH, CLASSES, follow_gradients, quiet_layers, quiet_run
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_schema.format.attributes import Layer

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.finding import Finding

LONG = 240


def _run(loss: Any = None) -> dict[str, Any]:
    arrays = quiet_run(LONG)
    del arrays["inputs/sample_loss"]
    if loss is not None:
        arrays["scalars/loss"] = np.asarray(loss, np.float32)
    return arrays


def _trace(arrays: dict[str, Any], fields: dict[str, Any]) -> xr.DataTree:
    fields = {"layers": quiet_layers(), "loss": "sparse_categorical_crossentropy", **fields}
    names = ("y/category",) if "inputs/sample_statistics" in arrays else ()
    trace = make_trace(arrays, sample_statistics=names, **fields)
    if names:  # as an opened trace has them
        inputs = trace["inputs"].to_dataset().assign_coords({"statistic": list(names)})
        trace["inputs"] = xr.DataTree(inputs)
    return trace


def _find(rule: str, arrays: dict[str, Any], **fields: Any) -> list[Finding]:
    return list(diagnose(_trace(arrays, fields), rules=[rule]).findings)


def _why_not(rule: str, arrays: dict[str, Any], **fields: Any) -> str:
    (reason,) = diagnose(_trace(arrays, fields), rules=[rule]).not_judged
    return reason.reason


def _noise(size: float, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(0, size, LONG)


def test_a_loss_that_stands_still_is_worth_knowing() -> None:
    falling = 0.5 + np.exp(-np.arange(LONG) / 25)
    (found,) = _find("plateau", _run(falling + _noise(0.01)))
    assert found.severity == "info"
    assert found.observed == pytest.approx(0.5, abs=0.01)
    assert 80 <= found.first_step <= 130  # exp(-110 / 25) is 0.012


def test_a_loss_that_stands_still_may_scatter_from_batch_to_batch() -> None:
    scatter = np.tile(_noise(0.1)[-20:] + 0.5, LONG // 20)[:LONG]
    scatter[-LONG // 8 :] -= 0.02  # 4 %, a fifth of what one batch scatters by
    scatter[:60] += np.linspace(1, 0, 60)
    (found,) = _find("plateau", _run(scatter))
    assert found.usual is not None
    assert found.observed is not None
    assert 0.5 < found.observed / found.usual < 0.99


def test_a_loss_that_still_falls_or_is_solved_or_never_fell_is_no_plateau() -> None:
    assert _find("plateau", _run(1.0 - 0.003 * np.arange(LONG) + _noise(0.02))) == []
    assert _find("plateau", _run(0.01 + np.exp(-np.arange(LONG) / 20))) == []
    assert _find("plateau", _run(1.1 + _noise(0.01))) == []
    assert "fewer than 200 steps" in _why_not("plateau", quiet_run())


def _turning(arrays: dict[str, Any]) -> dict[str, Any]:
    """Give each gradient the direction against the one before."""
    for name in ("first", "middle", "last"):
        gradient = arrays[f"gradients/net/{name}/kernel"]
        signs = (-1.0) ** np.arange(LONG)
        arrays[f"gradients/net/{name}/kernel"] = (
            0.3 * gradient + (signs[:, np.newaxis, np.newaxis] * gradient[:1])
        ).astype(np.float32)
    follow_gradients(arrays)
    return arrays


def test_gradients_that_turn_round_where_nothing_gets_better_oscillate() -> None:
    stuck = 0.8 + _noise(0.02)
    assert _find("oscillation", _run(stuck)) == []
    arrays = _turning(_run(stuck))
    (found,) = _find("oscillation", arrays)
    assert (found.severity, found.first_step) == ("warning", LONG // 2)
    rows = arrays[f"gradients/{'net/middle/kernel'}"].reshape(LONG, -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    cosines = (rows[1:] * rows[:-1]).sum(axis=1) / lengths[1:] / lengths[:-1]
    evidence = found.evidence["cosines"]["net/middle/kernel"]
    assert evidence == pytest.approx(float(np.median(cosines[LONG // 2 - 1 :])))
    assert evidence < -0.2


def test_gradients_that_turn_round_in_a_valley_that_goes_down_are_healthy() -> None:
    falling = 0.8 * np.exp(-np.arange(LONG) / 200) + _noise(0.01)
    assert _find("oscillation", _turning(_run(falling))) == []
    assert _find("oscillation", _turning(_run(np.full(LONG, 0.2) + _noise(0.02)))) == []


def test_a_loss_that_goes_up_and_down_for_good_oscillates_unless_its_rate_does_too() -> None:
    wave = 1.0 + 0.4 * np.sign(np.sin(np.arange(LONG) * np.pi / 10 + 0.1)) + _noise(0.02)
    arrays = _run(wave)
    (found,) = _find("oscillation", arrays)
    assert found.tensor == "scalars/loss"
    assert found.observed == pytest.approx(0.8, abs=0.1)
    arrays["scalars/learning_rate"] = np.tile([0.1] * 10 + [0.01] * 10, 12).astype(np.float32)
    assert _find("oscillation", arrays) == []
    assert _find("oscillation", _run(1.0 + _noise(0.3))) == []  # noise of batches


def _uneven(rare_loss: float) -> dict[str, Any]:
    """Return a run of which one sample in thirty is of class 2, with that loss."""
    arrays = quiet_run(LONG)
    rng = np.random.default_rng(4)
    labels = rng.choice(3, (LONG, BATCH), p=[0.5, 0.465, 0.035])
    losses = rng.gamma(2.0, 0.1, (LONG, BATCH))
    losses[labels == 2] = rare_loss
    arrays |= {
        "inputs/y": labels[:, :4],
        "inputs/sample_loss": losses.astype(np.float32),
        "inputs/sample_statistics": labels[..., np.newaxis].astype(np.float64),
        "scalars/loss": losses.mean(axis=1).astype(np.float32),
    }
    return arrays


def test_a_rare_class_that_is_not_learned_is_named() -> None:
    arrays = _uneven(5.0)
    (found,) = _find("class_imbalance", arrays)
    labels = arrays["inputs/sample_statistics"]
    counts = np.bincount(labels.astype(int).ravel())
    assert found.severity == "warning"
    assert found.observed == pytest.approx(counts.max() / counts[2])
    assert "recorded samples" not in found.explanation
    assert found.evidence["losses"][2] == pytest.approx(5.0)


def test_what_is_known_of_classes_is_said() -> None:
    arrays = _uneven(5.0)
    del arrays["inputs/sample_statistics"]
    (found,) = _find("class_imbalance", arrays)
    assert f"by the {LONG * 4:,} recorded samples of {LONG * BATCH:,}" in found.explanation
    arrays["inputs/sample_weight"] = np.ones((LONG, BATCH), np.float32)
    assert "weighted" in _why_not("class_imbalance", arrays)


def test_a_rare_class_that_is_learned_and_classes_that_are_even_are_none() -> None:
    assert _find("class_imbalance", _uneven(0.3)) == []
    arrays = _uneven(5.0)
    arrays["inputs/sample_statistics"][:, :6] = 2.0  # now the most frequent one
    assert _find("class_imbalance", arrays) == []
    assert "no cross entropy" in _why_not("class_imbalance", arrays, loss="mse")


def _normalised(moving: Any, spread: Any, **fields: Any) -> list[Finding]:
    """Judge a layer of batch normalisation with inputs of mean 3 and standard deviation 2."""
    arrays = _run()
    rng = np.random.default_rng(2)
    arrays["activations/net/first/output"] = rng.normal(3, 2, (LONG, 4, 8)).astype(np.float32)
    ones = np.ones((LONG + 1, 8))
    arrays["weights/net/norm/moving_mean"] = (np.reshape(moving, (-1, 1)) * ones).astype(np.float32)
    arrays["weights/net/norm/moving_variance"] = (np.reshape(spread, (-1, 1)) * ones).astype(
        np.float32
    )
    first, *rest = quiet_layers()
    norm = Layer(
        path="net/norm",
        name="norm",
        class_name="BatchNormalization",
        inputs=("net/first",),
        data=(),
        **fields,
    )
    return _find("normalisation", arrays, layers=(first, norm, *rest))


def test_moving_statistics_that_part_from_the_batches_are_a_warning() -> None:
    (found,) = _normalised(0.0, 1.0)
    assert (found.severity, found.tensor) == ("warning", "weights/net/norm/moving_mean")
    assert found.evidence["shift"] == pytest.approx(3 / np.sqrt(1.001), rel=0.1)
    assert found.evidence["scale"] == pytest.approx(np.sqrt(4.001 / 1.001), rel=0.1)
    assert "have never changed" in found.explanation
    assert _normalised(0.0, 1.0, trainable=False) == []


def test_moving_statistics_that_follow_are_healthy_or_on_their_way() -> None:
    assert _normalised(3.0, 4.0) == []
    assert _normalised(3.8, 5.5) == []
    weight = 1 - 0.998 ** np.arange(LONG + 1)
    (found,) = _normalised(3 * weight, 1 + 3 * weight)
    assert found.severity == "info"
    assert "not caught up" in found.explanation


def _probed(inference: float, training: float) -> dict[str, Any]:
    """Return a run in which the probe's samples, of digests 0 to 3, have these losses."""
    arrays = quiet_run(LONG)
    digests = arrays["inputs/sample_digest"]
    digests[0, :4] = [0, 1, 2, 3]
    digests[0, 4:] = 100 + np.arange(BATCH - 4)
    labels = arrays["inputs/y"]
    arrays["probe/x"] = arrays["inputs/x"][0].copy()

    def outputs(loss: float, of: Any) -> Any:
        share = np.full((*of.shape, CLASSES), (1 - np.exp(-loss)) / (CLASSES - 1))
        np.put_along_axis(share, of[..., np.newaxis], np.exp(-loss), axis=-1)
        return share.astype(np.float32)

    shown = np.repeat(labels[:1], LONG, axis=0)
    arrays["probe/net/last/output"] = outputs(inference, shown)
    arrays["activations/net/last/output"] = outputs(training, labels)
    arrays["inputs/sample_loss"] = np.full((LONG, BATCH), training, np.float32)
    arrays["scalars/loss"] = np.full(LONG, training, np.float32)
    return arrays


def test_a_model_that_is_worse_in_inference_is_an_error() -> None:
    layers = quiet_layers(last="softmax")
    (found,) = _find("inference_gap", _probed(2.0, 0.1), layers=layers)
    assert (found.severity, found.cause_kind) == ("error", "set-up")
    assert found.observed == pytest.approx(2.0, rel=1e-4)
    assert found.usual == pytest.approx(0.1, rel=1e-4)
    digests = _probed(2.0, 0.1)["inputs/sample_digest"][LONG // 2 :]
    assert len(found.evidence["steps"]) == int((digests < 4).sum())
    assert _find("inference_gap", _probed(0.1, 0.1), layers=layers) == []
    assert _find("inference_gap", _probed(0.05, 0.4), layers=layers) == []  # dropout
    assert _find("inference_gap", _probed(0.02, 0.001), layers=layers) == []  # solved


def test_moving_averages_that_need_more_steps_are_worth_knowing_only() -> None:
    norm = Layer(path="net/norm", name="norm", class_name="BatchNormalization")
    layers = (norm, *quiet_layers(last="softmax"))
    (found,) = _find("inference_gap", _probed(2.0, 0.1), layers=layers)
    assert found.severity == "info"
    assert "shorter than they need" in found.cause
    frozen = norm.model_copy(update={"trainable": False})
    (found,) = _find("inference_gap", _probed(2.0, 0.1), layers=(frozen, *layers[1:]))
    assert found.severity == "error"


def test_a_validation_loss_that_never_was_good_is_a_gap_and_one_that_rose_is_not() -> None:
    arrays = _probed(0.1, 0.1)
    steps = {"validation": [40, 80, 120, 160, 200]}
    layers = quiet_layers(last="softmax")

    def judge(values: Any) -> list[Finding]:
        made = arrays | {"validation/loss": np.asarray(values, np.float64)}
        return _find("inference_gap", made, layers=layers, steps=steps)

    (found,) = judge([1.5, 1.4, 1.3, 1.6, 1.7])
    assert (found.severity, found.cause_kind) == ("warning", "data")
    assert judge([0.4, 0.5, 1.4, 1.6, 1.7]) == []  # overfitting
    del arrays["probe/x"]
    assert "does not validate" in _why_not("inference_gap", arrays, layers=layers)


def _on_replicas(factor: float, data: float = 1.0, since: int = 0) -> dict[str, Any]:
    arrays = {key: values for key, values in _run().items() if not key.startswith("inputs/")}
    rng = np.random.default_rng(6)
    arrays["inputs/sample_replica"] = np.tile(np.repeat(np.arange(3), 4), (LONG, 1))
    size = np.ones((LONG, 12, 1))
    size[since:, 4:8] = factor
    for name in ("first", "middle"):
        scale = 1.0 if name == "first" and data == 1.0 else size
        values = rng.normal(size=(LONG, 12, 8)) * scale
        arrays[f"activations/net/{name}/output"] = values.astype(np.float32)
    arrays["inputs/x"] = rng.normal(size=(LONG, 12, 6)).astype(np.float32)
    arrays["inputs/x"][:, 4:8] *= np.float32(data)
    return arrays


def test_a_replica_whose_layers_give_something_else_is_named() -> None:
    (found,) = _find("replicas", _on_replicas(3.0, since=60))
    assert (found.severity, found.tensor) == ("warning", "activations/net/middle/output")
    assert "replica 1 is out of step" in found.explanation
    assert found.observed == pytest.approx(3.0, rel=0.15)
    assert 50 <= found.first_step <= 70
    assert found.cause_kind == "outside"
    (uneven,) = _find("replicas", _on_replicas(3.0, data=3.0))
    assert uneven.cause_kind == "data"


def test_replicas_that_compute_the_same_and_single_ones_are_none() -> None:
    assert _find("replicas", _on_replicas(1.0)) == []
    assert _find("replicas", _on_replicas(1.15)) == []
    assert "one replica" in _why_not("replicas", _run())


def test_a_loss_that_begins_at_zero_is_judged() -> None:
    found = diagnose(_trace(_run(np.arange(float(LONG))), {}))
    (rate,) = (each for each in found.findings if each.rule == "rate_too_high")
    assert rate.observed == np.inf
    assert "made the loss infinitely many times as large" in rate.explanation
