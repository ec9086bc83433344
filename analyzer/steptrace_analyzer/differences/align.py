"""Which step of one run is which of another: of resumed runs, and runs that count otherwise."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from steptrace_analyzer.differences.fingerprints import marks_of
from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.names import LOSS, SAMPLE_DIGEST, STEP
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, row_digests

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from steptrace_analyzer.differences.matching import Matching
    from steptrace_schema.names import Kind

    _Steps = Mapping[int, int]
    """Digest by step."""

_MOST_EQUAL: Final = 16
"""Steps with one and the same digest that still say something of which is which."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Which step of the second run is which of the first.

    Attributes
    ----------
    shift
        Step t of the first is step t + shift of the second.
    matched
        At how many steps this makes both equal.
    by
        In what they are equal there.
    """

    shift: int
    matched: int
    by: Literal["weights", "samples", "loss"]

    def __str__(self) -> str:
        """Say it in one sentence."""
        moved = f"{'+' if self.shift >= 0 else '-'} {abs(self.shift)}"
        steps = "step has" if self.matched == 1 else "steps have"
        return (
            f"step t of the first run is step t {moved} of the second: {self.matched} {steps} "
            f"equal {self.by} so"
        )


def find_shift(a: xr.DataTree, b: xr.DataTree, matching: Matching) -> Alignment | None:
    """Return the shift that makes most steps of two runs equal, None where none does.

    Weights are looked at first, which are equal where a run was resumed; then the samples of the
    batches; then the loss.

    Parameters
    ----------
    a, b
        Traces, or fingerprints of them. Only digests and numbers are read; of traces without
        digests, statistics.
    matching
        Which layer is which.

    Examples
    --------
    >>> find_shift(a, b, Matching()).shift  # doctest: +SKIP
    500
    """
    weights = [path for path in marks_of(a, "weights").names if _has(b, matching.in_b(path))]
    if weights:
        theirs = [matching.in_b(path) for path in weights]
        found = _best(_digests(a, "weights", weights), _digests(b, "weights", theirs))
        if found is not None:
            return Alignment(*found, "weights")
    for kind, path, name in (("inputs", SAMPLE_DIGEST, "samples"), ("scalars", LOSS, "loss")):
        sides = [_digests(side, kind, [path]) for side in (a, b)]  # type: ignore[arg-type]
        found = _best(*sides)
        if found is not None:
            return Alignment(*found, name)  # type: ignore[arg-type]
    return None


def _has(trace: xr.DataTree, path: str) -> bool:
    return path in marks_of(trace, "weights").names


def _digests(trace: xr.DataTree, kind: Kind, paths: list[str]) -> _Steps:
    """Return one digest for each step of some tensors of a kind together."""
    marks = marks_of(trace, kind)
    if all(path in marks.names for path in paths):
        columns = [marks.names.index(path) for path in paths]
        if marks.digests is not None:
            table = np.asarray(marks.digests)[:, columns]
            known = (table != UNKNOWN_DIGEST).all(axis=1)
        elif marks.statistics is not None:
            table = np.asarray(marks.statistics)[:, columns]
            known = ~np.isnan(table).all(axis=(1, 2))
        else:
            return {}
        steps, digests = marks.steps[known], row_digests(table[known])
    elif len(paths) == 1 and has_tensor(trace, kind, paths[0]):
        array = get_tensor(trace, kind, paths[0])
        if array.dims[:1] != (STEP,):
            return {}
        steps, digests = np.asarray(array.coords[STEP]), row_digests(np.asarray(array))
    else:
        return {}
    return dict(zip(steps.tolist(), digests.tolist(), strict=True))


def _best(a: _Steps, b: _Steps) -> tuple[int, int] | None:
    """Return the shift at which most steps have equal digests, and how many."""
    places: dict[int, list[int]] = {}
    for step, digest in b.items():
        places.setdefault(digest, []).append(step)
    votes: Counter[int] = Counter()
    for step, digest in a.items():
        found = places.get(digest, [])
        if len(found) <= _MOST_EQUAL:
            votes.update(other - step for other in found)
    if not votes:
        return None
    shift = max(votes, key=lambda each: (votes[each], -abs(each)))
    return shift, votes[shift]
