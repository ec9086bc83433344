"""The metrics that a step returns, as taps."""

from __future__ import annotations

from typing import Any

from steptrace_schema.format.paths import safe_path
from steptrace_schema.names import LOSS, METRICS
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import leaves
from steptrace_tracer.capture.taps import storable


def metric_taps(logs: Any) -> dict[str, Any]:
    """Return the numbers among what a step logs, ``scalars/metrics/name`` to float32 tensor.

    Keras' loss is not among them: it is a mean over the epoch, and the step's own is a tap already.
    """
    return {
        f"scalars/{METRICS}/{safe_path(name)}": tf.cast(metric, tf.float32)
        for name, metric in leaves(logs)
        if name != LOSS and storable(metric) and metric.shape.rank == 0
    }
