"""The tensors that two traces have in common, and their values at one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer.differences.fingerprints import Marks, marks_of, steps_of
from steptrace_analyzer.trace.select import format_steps, get_tensor, has_tensor
from steptrace_analyzer.trace.updates import is_derived
from steptrace_schema.names import KINDS, STEP, TENSOR
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.matching import Matching
    from steptrace_schema.names import Kind

_MOST_NAMED = 3


class Pairs:
    """What of two traces can be compared.

    Parameters
    ----------
    a, b
        The traces.
    kinds
        The kinds to compare, None for all.
    matching
        Which layer is which.
    shift
        What is added to a step of the first for that of the second.

    Attributes
    ----------
    matching, shift
        As given.
    present
        Per kind that is compared, the fingerprints that both have; those of a kind may have none.
    marks
        The same, for the kinds of which both have a tensor.
    in_b
        Per kind, path of a tensor in the first trace to its path in the second.
    left_out
        What only one has, one sentence each.
    """

    def __init__(
        self,
        a: xr.DataTree,
        b: xr.DataTree,
        kinds: Collection[Kind] | None,
        matching: Matching,
        shift: int,
    ) -> None:
        self.a, self.b, self.shift, self.matching = a, b, shift, matching
        self.present: dict[Kind, tuple[Marks, Marks]] = {}
        self.marks: dict[Kind, tuple[Marks, Marks]] = {}
        self.in_b: dict[Kind, dict[str, str]] = {}
        self.left_out: list[str] = []
        for kind in KINDS:
            # Updates that are derived in one run, and absent in the other, are nobody's record.
            absent = [is_derived(side, kind) or not marks_of(side, kind).paths for side in (a, b)]
            derived = kind == "updates" and all(absent)
            if (kinds is None or kind in kinds) and not derived:
                self._add(kind, matching)

    def _add(self, kind: Kind, matching: Matching) -> None:
        ours, theirs = marks_of(self.a, kind), marks_of(self.b, kind)
        self.present[kind] = ours, theirs
        known = set(theirs.paths)
        pairs = {path: matching.in_b(path) for path in ours.paths}
        pairs = {path: other for path, other in pairs.items() if other in known}
        only_a = [path for path in ours.paths if path not in pairs]
        only_b = sorted(known - set(pairs.values()))
        for only, which in ((only_a, "first"), (only_b, "second")):
            if only:
                more = len(only) - _MOST_NAMED
                shown = ", ".join(only[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
                self.left_out.append(f"{kind}: only the {which} run has {shown}")
        if pairs:
            self.marks[kind], self.in_b[kind] = (ours, theirs), pairs

    def common_steps(self) -> list[int]:
        """Return the steps of the first trace that both have anything of."""
        ours: set[int] = set()
        theirs: set[int] = set()
        common: set[int] = set()
        for mine, other in self.marks.values():
            steps = steps_of(self.a, mine), {s - self.shift for s in steps_of(self.b, other)}
            ours |= steps[0]
            theirs |= steps[1]
            common |= steps[0] & steps[1]
        if self.marks and not common:
            self.left_out.append(
                "no step is recorded in both runs; --align looks for the shift that fits"
            )
        for only, which in ((ours - common, "first"), (theirs - common, "second")):
            if only:
                self.left_out.append(f"steps {format_steps(sorted(only))}: only in the {which} run")
        return sorted(common)

    def steps(self, kind: Kind) -> set[int]:
        """Return the steps, of the first trace, at which either has anything of a kind."""
        if kind not in self.present:
            return set()
        ours, theirs = self.present[kind]
        return steps_of(self.a, ours) | {s - self.shift for s in steps_of(self.b, theirs)}

    @property
    def nothing_common(self) -> str:
        """Say why there is nothing to compare."""
        marks = [*self.present.values()]
        ours, theirs = any(m.paths for m, _ in marks), any(m.paths for _, m in marks)
        if ours and theirs:
            return "the two have no tensor in common; --map OLD=NEW says which layer is which"
        if ours or theirs:
            return f"the {'second' if ours else 'first'} run has no tensor of what is compared"
        return "neither run has a tensor of what is compared"

    @property
    def count(self) -> int:
        """How many tensors both have."""
        return sum(len(pairs) for pairs in self.in_b.values())

    def arrays(self, kind: Kind, path: str) -> tuple[xr.DataArray, xr.DataArray] | None:
        """Return a tensor of both traces, lazy; None where one of them does not keep it."""
        other = self.in_b[kind].get(path)
        if other is None or not (
            has_tensor(self.a, kind, path) and has_tensor(self.b, kind, other)
        ):
            return None
        return get_tensor(self.a, kind, path), get_tensor(self.b, kind, other)

    def has_digests(self, kind: Kind, path: str, step: int) -> bool:
        """Whether both traces have the digest of a tensor at a step."""
        other = self.in_b[kind].get(path, path)
        for marks, name, own in zip(
            self.marks[kind], (path, other), (step, step + self.shift), strict=True
        ):
            (at,) = np.nonzero(marks.steps == own)
            if marks.digests is None or name not in marks.names or not len(at):
                return False
            found = marks.digests.isel({STEP: int(at[0]), TENSOR: marks.names.index(name)})
            if int(np.asarray(found)) == UNKNOWN_DIGEST:
                return False
        return True

    def rows(
        self, kind: Kind, path: str, step: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[str, ...]] | None:
        """Return a tensor of both traces at one step, and the names of its dimensions.

        None where one of them does not keep it at the step.
        """
        sides = self.arrays(kind, path)
        if sides is None:
            return None
        rows = []
        for side, own in zip(sides, (step, step + self.shift), strict=True):
            (at,) = np.nonzero(np.asarray(side.coords[STEP]) == own)
            if not len(at):
                return None
            rows.append(np.asarray(side.isel({STEP: int(at[0])})))
        return rows[0], rows[1], tuple(map(str, sides[0].dims[1:]))
