"""What the trace says once: root attributes, and names that are missing."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from steptrace_tracer import private_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.storage.location import Location
    from steptrace_tracer.record.pending_step import Collected


class Told:
    """Remembers what the trace says already, so that its declaration is not written again.

    Attributes
    ----------
    notes
        Sentences about missing names.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        private_names.forget()

    def note_missing_names(self, path: Location) -> None:
        """Warn of names that this version of Keras or TensorFlow does not have, each once."""
        for name in private_names.noted():
            if (note := str(name)) not in self.notes:
                self.notes = (*self.notes, note)
                warnings.warn(f"{path}: {note}", RuntimeWarning, stacklevel=4)

    def with_news(self, collected: Collected, attributes: Mapping[str, Any]) -> Collected:
        """Return a step with the attributes that the trace does not have yet.

        Parameters
        ----------
        collected
            The step, with root attributes that are the same at most steps.
        attributes
            Further ones, which are news.
        """
        news = self.news(collected.attributes)
        return dataclasses.replace(collected, attributes={**news, **attributes})

    def news(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of these root attributes that the trace does not have yet."""
        news = {k: v for k, v in attributes.items() if self._values.get(k) != v}
        self._values |= news
        return news
