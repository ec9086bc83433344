"""Root attributes that steps give values, each told once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_tracer.record.pending_step import Collected


class Told:
    """Remembers what the trace has been told, so that its declaration is not written again."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def with_news(self, collected: Collected, attributes: Mapping[str, Any]) -> Collected:
        """Return a step with the attributes that the trace does not have yet.

        Parameters
        ----------
        collected
            The step, with root attributes that are the same at most steps.
        attributes
            Further ones, which are news.
        """
        news = {k: v for k, v in collected.attributes.items() if self._values.get(k) != v}
        self._values |= news
        return dataclasses.replace(collected, attributes={**news, **attributes})
