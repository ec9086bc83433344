"""What one replica's step was asked for, once it is through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.names import LOSS, LOSS_SCALE, LOSSES
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.batch_taps import batch_taps

if TYPE_CHECKING:
    from collections.abc import Set

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.tap_collector import TapCollector

ROWS: Final = "rows"
"""Key of a tap that the record needs and that is no array of the trace."""

_NO_STEP: Final = (
    "the training step differentiates no loss with respect to weights of these models by "
    "tf.GradientTape, and gives their optimizers no gradients, so there is no step to record; name "
    "what it trains: tracer.wrap(train_step, models=[...], optimizers=[...])"
)
_NOT_SEEN: Final = (
    ", or, if it calls a tf.function that does so, wrap that function: what happens inside of it "
    "is not seen from outside; if it calls several, take tf.function off them, put it on the "
    "function that calls them, and wrap this"
)


def finished(
    collector: TapCollector, policy: Policy, layers: list[Any], in_loops: Set[int]
) -> dict[str, Any]:
    """Return what one replica's step was asked for, nothing where that failed."""
    taps = collector.taps
    try:
        collector.finish(layers, in_loops)
        if collector.finds_batch:
            data = batch_taps(collector.called_with, policy, None)
            taps.tensors |= data.tensors
            taps.missing |= data.missing
        if not taps.losses:
            raise TraceError(_NO_STEP + _NOT_SEEN)
        first = [loss for name, loss in taps.losses.items() if name not in taps.later_losses]
        taps.add("scalars", LOSS, tf.add_n(first))
        if len(taps.losses) > 1:
            for name, loss in taps.losses.items():
                taps.add("scalars", f"{LOSSES}/{name}", loss)
        if taps.scale is not None:
            taps.add("scalars", LOSS_SCALE, taps.scale)
    except Exception as error:  # the step itself continues, so that it need not be done again
        taps.error = taps.error or error
    return {} if taps.error is not None else {**taps.tensors, ROWS: taps.count_rows()}
