"""What a training computes, as digests: of every weight and optimizer slot at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

from steptrace_tracer._tensorflow import keras
from steptrace_tracer.keras_private import update_count
from steptrace_tracer.verification.state import State

if TYPE_CHECKING:
    from collections.abc import Callable


class WeightDigests(keras.callbacks.Callback):  # type: ignore[misc]
    """Digests the state of the training before each execution of steps, and after the last one.

    It reads in ``on_train_batch_begin``, which Keras never calls from another thread, and changes
    nothing.

    Parameters
    ----------
    fit
        Number of the ``fit``, counted from 0.
    keep
        Called with each state, in order.
    """

    def __init__(self, fit: int, keep: Callable[[State], None]) -> None:
        super().__init__()
        self._fit = fit
        self._keep = keep

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Digest what the step begins with."""
        self._digest()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Digest what the last step of the epoch left."""
        self._digest()

    def _digest(self) -> None:
        optimizer = self.model.optimizer
        own = [] if optimizer is None else optimizer.variables
        digests = tuple(
            (variable.path, xxhash.xxh3_64_hexdigest(variable.numpy().tobytes()))
            for variable in (*self.model.variables, *own)
        )
        step = 0 if optimizer is None else update_count(optimizer)
        self._keep(State(self._fit, step, digests))
