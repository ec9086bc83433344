"""Taking the first batch of a ``fit``, and going no further."""

from __future__ import annotations

from typing import Any

from steptrace_tracer._tensorflow import keras
from steptrace_tracer.planning.first_batch import FirstBatch


class StopAtFirstBatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises :class:`.FirstBatch` in place of the first step."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the place of the model's train function."""
        model, original = self.model, self.model.train_function

        def stop(iterator: Any) -> Any:
            batch = next(iterator)
            model.train_function = original
            raise FirstBatch(model, batch, self.params.get("epochs"), self.params.get("steps"))

        model.train_function = stop
