"""What a closed recording holds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.names import Status
    from steptrace_schema.storage.location import Location
    from steptrace_schema.validate.coverage import Coverage


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a closed recording holds."""

    path: Location
    status: Status
    steps: int
    raw_bytes: int
    stored_bytes: int
    missing: tuple[Missing, ...]
    coverage: tuple[Coverage, ...]
