"""What a journal says of its records, and of how the run ended."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.layout import ArraySpec

if TYPE_CHECKING:
    from steptrace_schema.names import Status


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a journal's records contain: the trace's attributes and the table of its arrays."""

    attributes: TraceAttributes
    arrays: tuple[ArraySpec, ...]

    def to_json(self) -> str:
        """Return the declaration as strict JSON."""
        fields = {
            "attributes": self.attributes.model_dump(mode="json"),
            "arrays": [spec.to_dict() for spec in self.arrays],
        }
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        """Rebuild a declaration from :meth:`to_json`."""
        fields = json.loads(text)
        return cls(
            TraceAttributes.model_validate(fields["attributes"]),
            tuple(ArraySpec.from_dict(spec) for spec in fields["arrays"]),
        )


@dataclasses.dataclass(frozen=True)
class Closing:
    """How a run ended."""

    status: Status
    reason: str | None
    attributes: TraceAttributes
