"""The first batch of a ``fit``, as an exception that carries it out of the program."""

from __future__ import annotations

from typing import Any


class FirstBatch(BaseException):
    """Ends a program at the first step of its ``fit``; no ``except Exception`` keeps it.

    Parameters
    ----------
    model
        The model, untrained.
    batch
        What its first step would have been trained on.
    epochs, steps_per_epoch
        What the ``fit`` was to do; None where it does not say.
    """

    def __init__(
        self, model: Any, batch: Any, epochs: int | None, steps_per_epoch: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.batch = batch
        self.steps_per_epoch = steps_per_epoch
        known = epochs is not None and steps_per_epoch is not None
        self.steps = epochs * steps_per_epoch if known else None  # type: ignore[operator]
