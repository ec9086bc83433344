"""The rules: what training faults look like, one family in each module.

A rule is a pure function. It takes :class:`~steptrace_analyzer.anomalies.signals.Signals` and its
thresholds as keyword-only parameters, and yields findings. Its docstring is what
``docs/diagnosis.md`` says of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.anomalies.rules.bad_batch import bad_batch
from steptrace_analyzer.anomalies.rules.broken_off import broken_off
from steptrace_analyzer.anomalies.rules.class_imbalance import class_imbalance
from steptrace_analyzer.anomalies.rules.data import (
    repeated_inputs,
    sorted_labels,
    unscaled_inputs,
)
from steptrace_analyzer.anomalies.rules.dead_units import dead_units
from steptrace_analyzer.anomalies.rules.drift import drift
from steptrace_analyzer.anomalies.rules.flow import exploding, vanishing
from steptrace_analyzer.anomalies.rules.frozen import frozen
from steptrace_analyzer.anomalies.rules.inference_gap import inference_gap
from steptrace_analyzer.anomalies.rules.jumps import gradient_jump, update_jump
from steptrace_analyzer.anomalies.rules.loss_scale import loss_scale
from steptrace_analyzer.anomalies.rules.loss_spike import loss_spike
from steptrace_analyzer.anomalies.rules.non_finite import non_finite
from steptrace_analyzer.anomalies.rules.normalisation import normalisation
from steptrace_analyzer.anomalies.rules.not_learning import diverging, not_learning
from steptrace_analyzer.anomalies.rules.output_mismatch import output_mismatch
from steptrace_analyzer.anomalies.rules.outside import outside
from steptrace_analyzer.anomalies.rules.plateau import oscillation, plateau
from steptrace_analyzer.anomalies.rules.rates import rate_too_high, rate_too_low, uphill
from steptrace_analyzer.anomalies.rules.replicas import replicas
from steptrace_analyzer.anomalies.rules.saturation import saturation
from steptrace_analyzer.anomalies.rules.start import identical_units, poor_start
from steptrace_analyzer.anomalies.rules.unchanged import unchanged
from steptrace_analyzer.anomalies.rules.validation import (
    overfitting,
    regulariser,
    suspect_samples,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from steptrace_analyzer.anomalies.finding import Finding

_ALL: Final[tuple[Callable[..., Iterable[Finding]], ...]] = (
    non_finite,
    loss_scale,
    outside,
    bad_batch,
    update_jump,
    gradient_jump,
    loss_spike,
    output_mismatch,
    uphill,
    unscaled_inputs,
    sorted_labels,
    repeated_inputs,
    class_imbalance,
    replicas,
    poor_start,
    identical_units,
    rate_too_high,
    rate_too_low,
    regulariser,
    dead_units,
    frozen,
    saturation,
    vanishing,
    exploding,
    unchanged,
    drift,
    oscillation,
    normalisation,
    inference_gap,
    plateau,
    diverging,
    not_learning,
    overfitting,
    broken_off,
    suspect_samples,
)
BUILT_IN: Final[dict[str, Callable[..., Iterable[Finding]]]] = {
    rule.__name__: rule for rule in _ALL
}
"""Every rule of this package by its name, in the order in which they run."""
