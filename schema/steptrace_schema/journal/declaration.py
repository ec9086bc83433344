"""What a journal says of its records, and of how the run ended."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.declared import refuse_overlapping
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.format.layout import ArraySpec
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
        """Rebuild a declaration from :meth:`to_json`.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is none, or declares an array that no trace has.
        """
        fields = parse_json(text)
        arrays = tuple(ArraySpec.from_dict(spec) for spec in fields["arrays"])
        refuse_overlapping(spec.key for spec in arrays)
        return cls(TraceAttributes.model_validate(fields["attributes"]), arrays)


@dataclasses.dataclass(frozen=True)
class Closing:
    """How a run ended."""

    status: Status
    reason: str | None
    attributes: TraceAttributes

    @classmethod
    def from_json(cls, text: str) -> Closing:
        """Read what `JournalWriter.close` has written.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it does not say how a run ended.
        """
        fields = parse_json(text)
        status, reason = fields["status"], fields["reason"]
        ends = [known for known in get_args(Status) if known != "recording"]
        if status not in ends:
            msg = f"the status is {status!r:.80}, where a run ends as {' or '.join(ends)}"
            raise ValueError(msg)
        if not isinstance(reason, str | None):
            msg = f"the reason is {reason!r:.80}, where a sentence or null is expected"
            raise TypeError(msg)
        return cls(status, reason, TraceAttributes.model_validate(fields["attributes"]))
