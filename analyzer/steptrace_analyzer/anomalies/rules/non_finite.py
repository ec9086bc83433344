"""NaN and infinity: which computation made them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.bad_samples import bad_rows, bad_samples, category_outside
from steptrace_analyzer.anomalies.finding import CauseKind, Finding, NotJudgedError
from steptrace_analyzer.anomalies.growth import growth
from steptrace_analyzer.anomalies.rules.non_finite_beside import non_finite_beside
from steptrace_analyzer.anomalies.signals import layer_path
from steptrace_analyzer.anomalies.words import listed, plural
from steptrace_analyzer.trace.batch import is_input_gradient
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_schema.names import LOSS, SAMPLE_LOSS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.measurements import Series
    from steptrace_analyzer.anomalies.signals import Signals

_KINDS: Final[tuple[Kind, ...]] = (
    "inputs",
    "weights",
    "optimizer",
    "activations",
    "scalars",
    "activation_gradients",
    "gradients",
    "updates",
)

_REMEDY: Final[dict[str, str]] = {
    "data": "find the sample in the data set and drop or repair it; check for 0/0 in its scaling",
    "overflow": (
        "lower the learning rate, clip gradients by their global norm, or use a numerically "
        "stable form (from_logits=True, log_softmax, an epsilon under roots and logarithms)"
    ),
    "update": "lower the learning rate or clip gradients; see how the norms grew before this step",
    "no rate": "keep the learning rate above zero; some optimizers, such as Ftrl, divide by it",
}

_NO_RATE: Final = ", at a learning rate of 0"


@dataclasses.dataclass(frozen=True)
class _Bad:
    """A tensor that is not finite at a step."""

    kind: Kind
    path: str
    nan: int
    inf: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.path}"


def non_finite(signals: Signals) -> Iterator[Finding]:
    """Find the computations that turned finite numbers into NaN or infinity.

    Within a step tensors are in the order of the dataflow: inputs, weights, forward pass, loss,
    backward pass, update. The origin is the first that is not finite. A step whose weights
    already were not finite has no separate origin, so there is one finding for each time that
    non-finite values appear again. An activation that is not finite while the step's loss and all
    gradients are (a mask of minus infinity) did no harm and is none. What the backward
    pass gave at steps that mixed precision skipped because of its loss scale is none either.
    What does not train (metrics, validation, the probe, what was logged) is a warning of its own
    where it is not finite before anything else is.

    Thresholds
        none
    Unit
        elements
    Needs
        statistics, scalars
    Source
        the first operation whose inputs are finite and whose output is not: TensorFlow
        `debugging.enable_check_numerics`.
    """
    at = _by_step(signals)
    spread: list[int] = []
    finding: Finding | None = None
    for step in sorted(at):
        bad = at[step]
        if _is_harmless(bad):
            continue
        from_before = any(b.kind == "weights" for b in bad)
        repeated = bool(spread) and step == spread[-1] + 1 and _persists(bad, at, step)
        if finding is not None and (from_before or repeated):
            spread.append(step)
            continue
        if finding is not None:
            yield dataclasses.replace(finding, last_step=spread[-1])
        finding, spread = _finding(signals, step, bad), [step]
    if finding is not None:
        yield dataclasses.replace(finding, last_step=spread[-1])
    yield from non_finite_beside(signals)


def _persists(bad: list[_Bad], at: dict[int, list[_Bad]], step: int) -> bool:
    """Whether the same tensors were not finite at the step before."""
    return {b.name for b in bad} <= {b.name for b in at.get(step - 1, ())}


def _is_harmless(bad: list[_Bad]) -> bool:
    return all(b.kind == "activations" for b in bad)


def _by_step(signals: Signals) -> dict[int, list[_Bad]]:
    """Return the tensors that are not finite, by step, in the order of the dataflow."""
    order = Dataflow.of(signals.trace)
    found: dict[int, list[_Bad]] = {}
    for kind in _KINDS:
        for step, bad in _scalars(signals) if kind == "scalars" else _tensors(signals, kind):
            found.setdefault(step, []).append(bad)
    for step, path, nan, inf in bad_samples(signals.trace):
        others = found.setdefault(step, [])
        # Of the recorded rows and the others together.
        others[:] = [b for b in others if (b.kind, b.path) != ("inputs", path)]
        others.append(_Bad("inputs", path, nan, inf))

    def rank(bad: _Bad) -> tuple[int, int]:
        if bad.kind == "inputs" and bad.path == SAMPLE_LOSS:
            return order.rank("scalars", LOSS)[0], -1  # computed with the loss, right before it
        return order.rank(bad.kind, bad.path)

    return {step: sorted(bad, key=rank) for step, bad in found.items()}


def _tensors(signals: Signals, kind: Kind) -> Iterator[tuple[int, _Bad]]:
    try:
        nan, inf = signals.statistic(kind, "nan"), signals.statistic(kind, "inf")
    except NotJudgedError:
        return
    counts = np.nan_to_num(nan.values) + np.nan_to_num(inf.values)  # NaN: not recorded then
    if kind == "updates":
        counts[_without_weights(signals, nan)] = 0
    for row, column in np.argwhere(counts > 0).tolist():
        number_of = (int(np.nan_to_num(s.values[row, column])) for s in (nan, inf))
        yield int(nan.steps[row]), _Bad(kind, nan.paths[column], *number_of)


def _without_weights(signals: Signals, updates: Series) -> npt.NDArray[np.bool_]:
    """Return where an update begins with a weight that is not recorded yet, (step, tensor)."""
    lost = np.zeros(updates.values.shape, dtype=bool)
    try:
        weights = signals.statistic("weights", "nan")
    except NotJudgedError:
        return lost
    rows = np.searchsorted(weights.steps, updates.steps)
    known = rows < len(weights.steps)
    for column, path in enumerate(updates.paths):
        if path in weights.paths:
            absent = np.isnan(weights.values[:, weights.paths.index(path)])
            lost[known, column] = absent[rows[known]]
    return lost


def _scalars(signals: Signals) -> Iterator[tuple[int, _Bad]]:
    try:
        loss = signals.loss
    except NotJudgedError:
        return
    values = loss.values[:, 0]
    absent = _absent(signals, loss.steps)
    absent |= np.isinf(values) & _with_finite_parts(signals, loss.steps)
    for row in np.flatnonzero(~np.isfinite(values) & ~absent).tolist():
        is_nan = bool(np.isnan(values[row]))
        yield int(loss.steps[row]), _Bad("scalars", LOSS, int(is_nan), int(not is_nan))


def _with_finite_parts(signals: Signals, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the skipped steps at which the losses of all samples are finite.

    Where the loss is infinite there, it overflowed as it was scaled.
    """
    skipped = np.isin(steps, signals.skipped)
    if not skipped.any() or not signals.has("inputs", SAMPLE_LOSS):
        return np.zeros(len(steps), dtype=bool)
    known, losses = signals.sample_losses
    sizes = signals.batch_size
    finite = np.isin(steps, known)
    for row in np.flatnonzero(skipped & finite):
        of = losses[np.searchsorted(known, steps[row])]
        size = sizes.row(int(steps[row]))
        count = len(of) if size is None else int(sizes.values[size, 0])
        finite[row] = bool(np.isfinite(of[:count]).all())
    return skipped & finite


def _absent(signals: Signals, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    absent = np.zeros(len(steps), dtype=bool)
    for entry in signals.attributes.missing:
        if (entry.kind, entry.path) == ("scalars", LOSS):
            absent |= True if entry.steps is None else np.isin(steps, entry.steps)
    return absent


def _finding(signals: Signals, step: int, bad: list[_Bad]) -> Finding:
    first = bad[0]
    kind, cause = _cause(signals, step, first)
    reached = [b.name for b in bad[1:]]
    text = f"at step {step} {first.name} has {_counts(first)}; {cause}"
    if reached:
        text += f"; it reached {listed(reached)} in the same step"
    return Finding(
        rule="non_finite",
        severity="error",
        first_step=step,
        last_step=step,
        explanation=f"{text}.",
        tensor=first.name,
        observed=float(first.nan + first.inf),
        usual=0.0,
        threshold=1.0,
        cause=cause,
        cause_kind=kind,
        consequence="whatever is computed from it is not finite either",
        remedy=_REMEDY.get("no rate" if cause.endswith(_NO_RATE) else kind, _REMEDY["overflow"]),
        evidence={"nan": first.nan, "inf": first.inf, "rows": _rows(signals, step, first)},
        others=tuple(reached),
    )


def _cause(signals: Signals, step: int, first: _Bad) -> tuple[CauseKind, str]:
    rows = _rows(signals, step, first)
    where = f" in row {listed(rows)} of the batch" if rows else ""
    if first.kind == "inputs" and first.path == SAMPLE_LOSS:
        return _loss_cause(signals, step, rows, where)
    if first.kind == "inputs" and not is_input_gradient(first.path):
        return "data", f"the data itself is not finite{where}"
    if first.kind == "scalars":
        return _loss_cause(signals, step, rows, where)
    if first.kind == "weights":
        steps = signals.statistic("weights", "nan").steps
        if step == int(steps[0]):
            return "set-up", "the first recorded weights already are not finite"
        return "update", (
            "the step before made it: its gradient is finite as recorded, its update is not, or "
            "the weight was overwritten from outside"
        )
    if first.kind == "optimizer":
        return "update", "what the optimizer remembers has left the range of its numbers"
    if first.kind == "activations":
        known = signals.layers.get(layer_path(first.path))
        if known is not None and known.class_name == "BatchNormalization":
            return "data", (
                "the layer normalises over the whole batch, of which the recorded rows are finite: "
                "a row that is not recorded was not, in the inputs or after them"
            )
        return "overflow", "the forward pass made it from inputs and weights that are finite"
    if first.kind == "updates":
        made = "the optimizer made it from a gradient that is finite as recorded"
        return "update", f"{made}{_NO_RATE}" if _has_no_rate(signals, step) else made
    if first.kind == "gradients" and _has_finite_bias(signals, step, first.path):
        layer, layers = layer_path(first.path), [layer_path(p) for p in signals.paths("gradients")]
        if layer == layers[0]:
            return "data", (
                "the inputs of the batch are not finite, in a row that is not recorded: the "
                "gradient of the first layer's kernel is made of them, and that of its bias, which "
                "is not, is finite"
            )
        return "overflow", (
            f"what goes into {layer} is not finite, in a row that is not recorded: the gradient of "
            "its bias, which is not made of that, is finite"
        )
    return "overflow", "the backward pass made it; the forward pass and the loss are finite"


def _has_no_rate(signals: Signals, step: int) -> bool:
    """Whether the learning rate of a step is recorded, and zero."""
    try:
        rates = signals.learning_rate
    except NotJudgedError:
        return False
    row = rates.row(step)
    return row is not None and bool(rates.values[row, 0] == 0)


def _has_finite_bias(signals: Signals, step: int, path: str) -> bool:
    """Whether the bias beside a kernel has a finite gradient at a step."""
    bias = f"{layer_path(path)}/bias"
    norms = signals.norms("gradients").of(bias) if not path.endswith("/bias") else None
    row = None if norms is None else norms.row(step)
    return norms is not None and row is not None and bool(np.isfinite(norms.values[row, 0]))


def _loss_cause(signals: Signals, step: int, rows: list[int], where: str) -> tuple[CauseKind, str]:
    """Say why a loss is not finite although inputs, weights and recorded activations are."""
    if rows and (outside := category_outside(signals, step, rows)) is not None:
        return "data", (
            f"the loss of {plural(len(rows), 'sample')} is not finite{where}, because {outside}"
        )
    if rows:
        return "data", (
            f"the loss of {plural(len(rows), 'sample')} is not finite{where}, while the recorded "
            "inputs, weights and outputs are: a target outside what the loss is defined for, an "
            "output at the edge of it, or an input of a row that is not recorded"
        )
    grown = growth(signals, step)
    if grown is not None:
        return "overflow", f"the loss overflowed: {grown}"
    return "overflow", "the loss overflowed: it was computed from finite inputs and weights"


def _rows(signals: Signals, step: int, first: _Bad) -> list[int]:
    """Return the places in the batch of the samples that are not finite, where they are few."""
    path = first.path if first.kind == "inputs" else SAMPLE_LOSS if first.kind == "scalars" else ""
    if (samples := bad_rows(signals.trace, path, step)) is not None:
        return samples
    values = signals.row("inputs", path, step) if path else None
    if values is None or values.dtype.kind != "f" or not values.ndim:
        return []
    size = signals.batch_size.of(signals.batch_size.paths[0])
    row = signals.batch_size.row(step)
    count = len(values) if size is None or row is None else int(size.values[row, 0])
    bad = ~np.isfinite(values[:count].reshape(min(count, len(values)), -1)).all(axis=1)
    return np.flatnonzero(bad).tolist() if 0 < bad.sum() <= max(1, len(bad) // 4) else []


def _counts(bad: _Bad) -> str:
    parts = [f"{bad.nan} NaN"] * (bad.nan > 0) + [f"{bad.inf} infinite"] * (bad.inf > 0)
    return " and ".join(parts) + f" element{'s' * (bad.nan + bad.inf > 1)}"
