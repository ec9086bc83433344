"""How a trace stays within its policy's ``disk_limit``.

Journal and store each have a fixed share, so that neither process has to ask the other. As the
store's share is used up, fewer and fewer steps keep their tensors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

from steptrace_schema.human import human_bytes

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy

BALLAST: Final = 256 * 2**10
"""More than it takes to say how a run ended."""
_BALLAST_PARTS: Final = 32
_WAITING: Final = 3 / 8


@dataclasses.dataclass(frozen=True)
class DiskLimit:
    """The shares of journal and store.

    Attributes
    ----------
    total
        Bytes that both may take together.
    holds_newest
        Whether the newest steps wait in the journal, which then needs more.
    """

    total: int
    holds_newest: bool

    @classmethod
    def of(cls, policy: Policy) -> DiskLimit | None:
        """Return the limit of a policy, None where it has none."""
        if policy.disk_limit is None:
            return None
        return cls(policy.disk_limit, policy.retain != "all")

    @property
    def journal(self) -> int:
        """Bytes that the journal may take."""
        return self.total // (2 if self.holds_newest else 4)

    @property
    def store(self) -> int:
        """Bytes that the store may take."""
        return self.total - self.journal

    @property
    def waiting(self) -> int:
        """Bytes of records that may wait; of more, the oldest are moved, whatever would wait."""
        return int(self.journal * _WAITING)

    def largest_record(self, besides: int) -> int:
        """Return how many bytes a record may take, so that it gets its turn.

        Parameters
        ----------
        besides
            What the journal holds besides records.
        """
        room = self.journal - besides
        # The last record that was moved stays, and those that wait need not be moved.
        return max(0, min(room // 2, room - self.waiting))

    @property
    def ballast(self) -> int:
        """Bytes that the journal keeps free for the end, where the disk has not more."""
        return min(BALLAST, self.total // _BALLAST_PARTS)

    def least(self, record: int, besides: int, store: int) -> int:
        """Return the smallest limit that records like one have room within.

        Parameters
        ----------
        record, besides
            Bytes of the record, and of what the journal holds besides records and ballast.
        store
            Bytes that the store takes without any tensor.
        """
        journal = 1 / 2 if self.holds_newest else 1 / 4
        # As in `largest_record`, where the ballast is a part of the limit too.
        halves = (2 * record + besides) / (journal - 1 / _BALLAST_PARTS)
        waiting = (record + besides) / (journal * (1 - _WAITING) - 1 / _BALLAST_PARTS)
        return math.ceil(max(halves, waiting, store / (1 - journal)))

    def __str__(self) -> str:
        return f"the policy's disk_limit of {human_bytes(self.total)}"
