"""Models that predict far worse in inference than in training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.cross_entropy import binary_entropy, categorical, last_layer
from steptrace_analyzer.anomalies.finding import Finding, NotJudgedError, Severity
from steptrace_analyzer.anomalies.outcome import TAIL, outcome
from steptrace_analyzer.anomalies.rules.normalisation import is_short, learning_layers
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import number, plural
from steptrace_schema.names import STEP, X, Y

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.outcome import Outcome
    from steptrace_analyzer.anomalies.signals import Signals

    Floats = npt.NDArray[np.float64]

_PAIRS: Final = 5  # least losses of one sample in both modes
_EVALUATIONS: Final = 3
_MOST: Final = 0.8  # of the pairs
_TOO_SHORT: Final = (
    "the moving averages of batch normalisation still hold a part of where they began: the run is "
    "shorter than they need"
)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Losses of the same samples, with the same weights, in both modes: each (pair,)."""

    steps: npt.NDArray[np.int64]
    training: Floats
    inference: Floats


def inference_gap(signals: Signals, *, ratio: float = 3.0) -> Iterator[Finding]:
    """Find models that predict far worse in inference than in training, with the same weights.

    The probe pushes fixed inputs through the model in inference mode at every step. Where these are
    the first samples of the first batch, as by default, their labels are known, and so is their
    loss in training mode whenever a later batch has them again, by their digests. In the second
    half of the run, the mean loss in inference is `ratio` times that in training or more and above
    half of that of the best constant prediction, and for eight pairs of ten it is the larger one.
    It is an error where it is above that of the constant prediction altogether while the training
    loss is below half of it, and worth knowing only where the loss in inference has halved within
    those steps, or where layers of batch normalisation learn in a run of less than 1,000 steps.
    Else the validation loss is looked at: above the loss of the constant prediction at every
    evaluation, and `ratio` times the training loss at the last three, while that is below half of
    it. It is a warning, since the validation data may differ.

    Thresholds
        ratio: loss in inference over loss in training.
    Unit
        of the loss
    Needs
        probe and activations of the last layer, inputs/y, inputs/sample_loss and
        inputs/sample_digest, of a cross entropy after softmax or sigmoid; or validation/loss
    Source
        similarity of the modes: TheDeepChecker; samples and gates: own
    """
    found = outcome(signals)
    require(found is not None, "the run is too short, or has no one loss")
    assert found is not None
    require(found.trivial, "the loss of the best constant prediction is not known for this loss")
    reason = ""
    pairs: Pairs | None = None
    try:
        pairs = _pairs(signals)
    except NotJudgedError as error:
        reason = str(error)
    if pairs is not None and (gap := _of_pairs(pairs, found, ratio)) is not None:
        if learning_layers(signals) and is_short(signals):
            gap = dataclasses.replace(gap, severity="info", cause=_TOO_SHORT)
        yield gap
        return
    if signals.has("validation", "loss"):
        yield from _of_validation(signals, found, ratio, as_good=pairs is not None)
    else:
        require(pairs is not None, f"{reason}, and the training does not validate")


def _of_pairs(pairs: Pairs, found: Outcome, ratio: float) -> Finding | None:
    level = found.level
    training, inference = float(pairs.training.mean()), float(pairs.inference.mean())
    worse = float((pairs.inference > pairs.training).mean())
    if inference < ratio * training or inference <= found.at(0.5) or worse < _MOST:
        return None
    early, late = np.array_split(pairs.inference, 2)
    severity: Severity = "warning"
    if inference > level and found.last < found.at(0.5):
        severity = "error"
    if float(late.mean()) < 0.5 * float(early.mean()):
        severity = "info"
    return Finding(
        rule="inference_gap",
        severity=severity,
        first_step=int(pairs.steps[0]),
        last_step=int(pairs.steps[-1]),
        explanation=(
            f"the model predicts far worse in inference than in training: the same samples with "
            f"the same weights have a mean loss of {number(inference)} in inference and "
            f"{number(training)} in training ({plural(len(pairs.steps), 'time')} that one of the "
            f"probe's samples was trained on; a constant prediction has {number(level)})."
        ),
        tensor="inputs/sample_loss",
        observed=inference,
        usual=training,
        threshold=max(ratio * training, found.at(0.5)),
        cause="layers that act otherwise in inference: batch normalisation, dropout, noise",
        cause_kind="set-up",
        consequence="what the training loss shows is not what the model does in use",
        remedy=(
            "compare the moving statistics of batch normalisation with the batches', train "
            "longer, lower its momentum; lower dropout rates"
        ),
        evidence={
            "steps": pairs.steps.tolist(),
            "training": pairs.training.tolist(),
            "inference": pairs.inference.tolist(),
        },
    )


def _of_validation(
    signals: Signals, found: Outcome, ratio: float, *, as_good: bool
) -> Iterator[Finding]:
    values = np.asarray(signals.tensor("validation", "loss"), dtype=np.float64)
    steps = signals.steps("validation")
    known = np.flatnonzero(np.isfinite(values))
    enough = len(known) >= _EVALUATIONS
    require(enough, f"there are fewer than {_EVALUATIONS} evaluations")
    values, steps = values[known], steps[known]
    loss, level = signals.loss, found.level
    training = np.array(
        [
            float(np.median(before))
            if len(before := loss.values[loss.steps < s, 0][-TAIL:])
            else np.inf
            for s in steps
        ]
    )
    late = slice(-_EVALUATIONS, None)
    apart = (values[late] >= ratio * training[late]) & (training[late] < found.at(0.5))
    if not (values > level).all() or not apart.all():
        return
    cause = (
        "the validation data, or how it is prepared, differs from the training's, or nothing "
        "general is learned: samples of the training are predicted as well in inference"
        if as_good
        else "layers that act otherwise in inference, validation data that differs, or a model "
        "that learns nothing general: the trace does not say which"
    )
    yield Finding(
        rule="inference_gap",
        severity="warning",
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        explanation=(
            f"the validation loss was never better than that of a constant prediction "
            f"({number(float(values.min()))} at best, {number(level)}), while the training loss "
            f"came down to {number(float(training[-1]))}."
        ),
        tensor="validation/loss",
        observed=float(values[-1]),
        usual=float(training[-1]),
        threshold=level,
        cause=cause,
        cause_kind="data" if as_good else "set-up",
        consequence="what the training loss shows is not what the model does in use",
        remedy="evaluate on the training data: a good loss there means that the data differs",
    )


def _pairs(signals: Signals) -> Pairs:
    """Return the losses of the probe's samples in both modes, in the second half of the run.

    Raises
    ------
    NotJudgedError
        Where the trace does not say which samples the probe has, or how its last layer is.
    """
    require(signals.paths("activations"), "the trace holds no outputs of the last layer")
    layer = last_layer(signals)
    function = "" if layer is None else (layer.activation or "")
    require(function in ("softmax", "sigmoid"), "the probe gives no probabilities")
    assert layer is not None
    require("entropy" in (signals.attributes.loss or "").lower(), "the loss is no cross entropy")
    probe, x, y = (
        signals.tensor("probe", X),
        signals.tensor("inputs", X),
        signals.tensor("inputs", Y),
    )
    outputs = signals.tensor("probe", f"{layer.path}/output")
    digest_steps, digests = signals.digests
    loss_steps, losses = signals.sample_losses
    require(probe.ndim >= 1 and y.ndim >= 2 and outputs.ndim >= 2, "the probe has no samples")
    samples = int(probe.shape[0])
    require(len(x) and len(y) and len(digests), "no step has its inputs recorded")
    fit = y.shape[1] >= samples and outputs.shape[1] >= samples and digests.shape[1] >= samples
    require(fit, "the probe has other samples than the first batch")
    require(len(digest_steps) and np.array_equal(digest_steps, loss_steps), "there are no digests")
    same = x.shape[1:] == probe.shape and np.array_equal(np.asarray(x[0]), np.asarray(probe))
    require(same, "the probe is not the first batch's, so that its labels are not known")
    labels = np.asarray(y[0, :samples], dtype=np.float64)
    formula = binary_entropy if function == "sigmoid" else categorical
    _require_same_formula(signals, f"{layer.path}/output", formula)
    half = len(digest_steps) // 2
    rows, places = np.nonzero(np.isin(digests[half:], digests[0, :samples]))
    known = np.isin(digest_steps[half + rows], signals.steps("probe"))
    known &= np.isfinite(losses[half + rows, places])
    rows, places = rows[known] + half, places[known]
    require(len(rows) >= _PAIRS, "the probe's samples were hardly trained on again")
    order = {int(d): i for i, d in enumerate(digests[0, :samples].tolist())}
    of = np.array([order[int(d)] for d in digests[rows, places]])
    steps = digest_steps[rows]
    given = np.asarray(outputs.sel({STEP: np.unique(steps)}), dtype=np.float64)
    picked = given[np.searchsorted(np.unique(steps), steps), of]
    inference = formula(picked, labels[of])
    require(inference is not None, "the probe's outputs do not fit its labels")
    assert inference is not None
    return Pairs(steps, losses[rows, places], inference)


def _require_same_formula(signals: Signals, path: str, formula: object) -> None:
    """End where the recorded losses are not what the formula gives of the recorded outputs."""
    steps = np.intersect1d(signals.steps("activations"), signals.steps("inputs"))[-TAIL:]
    require(len(steps), "the outputs of the last layer are not recorded with their losses")
    outputs = np.asarray(signals.tensor("activations", path).sel({STEP: steps}), dtype=np.float64)
    labels = np.asarray(signals.tensor("inputs", Y).sel({STEP: steps}), dtype=np.float64)
    loss_steps, losses = signals.sample_losses
    count = min(outputs.shape[1], labels.shape[1], losses.shape[1])
    recorded = losses[np.isin(loss_steps, steps)][:, :count].reshape(-1)
    flat = [each[:, :count].reshape(-1, *each.shape[2:]) for each in (outputs, labels)]
    computed = formula(*flat)  # type: ignore[operator]
    require(computed is not None, "the outputs do not fit the labels")
    good = np.isclose(computed, recorded, rtol=5e-2, atol=1e-3) | ~np.isfinite(recorded)
    require(good.mean() > 0.9, "the loss is not the cross entropy of the recorded outputs")
