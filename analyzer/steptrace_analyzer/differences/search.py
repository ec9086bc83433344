"""The search for the first step and tensor at which two runs differ."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.differences.absent import OnlyInOne
from steptrace_analyzer.differences.coverage import covered, declared_count
from steptrace_analyzer.differences.divergence_result import (
    Divergence,
    Place,
    StepDifference,
)
from steptrace_analyzer.differences.fingerprints import (
    Marks,
    Unequal,
    unequal_in,
    unequal_plain,
    windows,
)
from steptrace_analyzer.differences.matching import Matching, match_models
from steptrace_analyzer.differences.measuring import difference_at
from steptrace_analyzer.differences.origin import origin_of
from steptrace_analyzer.differences.pairs import Pairs
from steptrace_analyzer.differences.phases import Execution, phase_of
from steptrace_analyzer.differences.recognise import (
    recognised_batch,
    recognised_precision,
    recognised_settings,
)
from steptrace_analyzer.differences.verdict import Obstacles, verdict_of
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import format_steps
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.names import STEP
from steptrace_schema.statistics.digests import row_digests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr

    from steptrace_analyzer.differences.coverage import Coverage
    from steptrace_analyzer.differences.divergence_result import Verdict
    from steptrace_analyzer.differences.elements import Tolerance
    from steptrace_schema.names import Kind


_MOST_LOOKED_AT: Final = 5
"""Tensors that differ whose numbers are looked at for the precision they were computed in."""


class Search:
    """One comparison of two traces.

    Parameters
    ----------
    a, b
        The traces.
    kinds
        Kinds to compare, None for all.
    allowed
        What counts as equal.
    renamed, shift
        As in :func:`steptrace_analyzer.differences.first_divergence`.
    """

    def __init__(
        self,
        a: xr.DataTree,
        b: xr.DataTree,
        kinds: Sequence[Kind] | None,
        allowed: Tolerance,
        renamed: Mapping[str, str] | None,
        shift: int,
    ) -> None:
        self.allowed, self.shift, self.kinds = allowed, shift, kinds
        self.attributes = trace_attributes(a), trace_attributes(b)
        layers_a, layers_b = (attributes.layers for attributes in self.attributes)
        self.matching: Matching = match_models(*self.attributes, renamed)
        self.execution = Execution.of(layers_a)
        self.pairs = Pairs(a, b, kinds, self.matching, shift)
        self.not_compared = self.pairs.left_out
        self.compared: set[tuple[Kind, str]] = set()
        self.by_digest = 0
        self.weak: Counter[Kind] = Counter()
        self.absent = 0
        self.only = OnlyInOne(self.attributes, shift)
        self.precisions: list[str] = []
        self.confirmed = 0
        self.last: int | None = None
        self.obstacles = Obstacles(
            other_layers=bool(self.matching.only_a or self.matching.only_b),
            other_model=bool(layers_a and layers_b)
            and len(self.matching.only_a) == len(layers_a)
            and len(self.matching.only_b) == len(layers_b),
        )

    def run(
        self, name_a: str, name_b: str, *, values_compared: Mapping[tuple[Kind, str], int] | None
    ) -> Divergence:
        """Compare, and say what was found."""
        common = self.pairs.common_steps()
        if not self.pairs.marks:
            self.not_compared.append(self.pairs.nothing_common)
        recognised = [*recognised_settings(*self.attributes, self.matching)]
        differing: list[StepDifference] = self._static()
        step: int | None = None
        for window in windows(common) if not differing else ():
            step, differing = self._in_window(window)
            if differing:
                self.last = window[1] - 1
                break
        for kind, (ours, theirs) in self.pairs.marks.items():
            if values_compared and (ours.digests is None or theirs.digests is None):
                steps = sum(values_compared.get((kind, path), 0) for path in ours.names)
                known = min(steps, self.weak[kind])
                self.by_digest += known
                self.weak[kind] -= known
        if not differing and self.by_statistics and common and values_compared is None:
            step, differing = self._by_values(common)
        at_first = not common or step in (None, common[0])
        if at_first and any(each.place.phase == "weights" for each in differing):
            recognised.insert(0, "other initial weights")
        self.not_compared += self.only.sentences((name_a, name_b))
        if differing and differing[0].place.phase == "batch" and step is not None:
            batch = recognised_batch(self.pairs.a, self.pairs.b, step, self.shift)
            recognised = ([batch] if batch else []) + recognised
        recognised = [*self.precisions[:1], *recognised]
        origin = None
        if differing:
            first = differing[0]
            origin = origin_of(
                first,
                self.execution,
                lambda kind, path: self._was_compared(kind, path, step),
                is_first=at_first,
                is_whole=not self.obstacles.any,
            )
            if not self.allowed.is_exact:
                origin += "; what is called equal is equal within the tolerance"
        return Divergence(
            a=name_a,
            b=name_b,
            verdict=self._verdict(differing, bool(common)),
            place=differing[0].place if differing else None,
            origin=origin,
            recognised=tuple(recognised),
            differing=tuple(differing),
            steps=format_steps(common),
            coverage=self._coverage(self.kinds),
            shift=self.shift,
            renamed=self.matching.renamed,
            not_compared=tuple(dict.fromkeys(self.not_compared)),
        )

    @property
    def by_statistics(self) -> int:
        """How many tensors and steps were compared by statistics alone."""
        return self.weak.total()

    def _was_compared(self, kind: Kind, path: str, step: int | None) -> bool:
        """Whether a tensor is known of both runs at a step, and equal or within the tolerance."""
        if step is None or path not in self.pairs.in_b.get(kind, {}):
            return False
        if self.pairs.has_digests(kind, path, step):
            return True  # what differs comes later in the step
        try:
            rows = self.pairs.rows(kind, path, step)
        except DamagedTraceError:
            return False
        if rows is None or rows[0].shape != rows[1].shape:
            return False
        if rows[0].dtype.kind == "f" and np.isnan(rows[0]).all():
            return False  # the row of a step that has no value
        same = row_digests(rows[0][np.newaxis]) == row_digests(rows[1][np.newaxis])
        return bool(same[0]) or self.allowed.covers(rows[0], rows[1])

    def _static(self) -> list[StepDifference]:
        """Return which arrays without steps differ."""
        found = []
        for kind, (ours, _) in self.pairs.marks.items():
            for path in ours.plain:
                if path not in self.pairs.in_b[kind]:
                    continue
                sides = self.pairs.arrays(kind, path)
                if sides is None or STEP in sides[0].dims or STEP in sides[1].dims:
                    continue
                a, b = np.asarray(sides[0]), np.asarray(sides[1])
                self.compared.add((kind, path))
                self.by_digest += 1
                if a.shape != b.shape:
                    self.obstacles.reshaped = True
                    self.not_compared.append(f"{kind}/{path}: shapes {a.shape} and {b.shape}")
                elif row_digests(a[np.newaxis]) != row_digests(b[np.newaxis]):
                    dims = tuple(map(str, sides[0].dims))
                    found.append(difference_at(None, kind, path, dims, a, b))
        return found if found and not self._has_steps() else []

    def _has_steps(self) -> bool:
        return any(len(ours.steps) for ours, _ in self.pairs.marks.values())

    def _in_window(self, window: tuple[int, int]) -> tuple[int | None, list[StepDifference]]:
        """Return the first step of a window that differs, and what differs there."""
        candidates: dict[int, list[Unequal]] = {}
        for kind, (ours, theirs) in self.pairs.marks.items():
            try:
                found = [*self._of_kind(kind, ours, theirs, window)]
            except DamagedTraceError as error:
                self.obstacles.damaged = True
                self.not_compared.append(str(error))
                continue
            for each in found:
                candidates.setdefault(each.step, []).append(each)
        return self._earliest(candidates)

    def _earliest(
        self, candidates: Mapping[int, list[Unequal]]
    ) -> tuple[int | None, list[StepDifference]]:
        """Return the first step of candidates at which something is measured to differ."""
        for step in sorted(candidates):
            ranked = sorted(candidates[step], key=lambda u: self.execution.rank(u.kind, u.path))
            confirmed = [
                measured for each in ranked if (measured := self._confirmed(each)) is not None
            ]
            if confirmed:
                return step, confirmed
        return None, []

    def _of_kind(
        self, kind: Kind, ours: Marks, theirs: Marks, window: tuple[int, int]
    ) -> Iterator[Unequal]:
        found, exact, weak, absent = unequal_in(
            ours, theirs, self.pairs.in_b[kind], window, self.shift
        )
        self.by_digest += exact
        self.absent += absent
        self.weak[kind] += weak
        if exact or weak:
            self.compared |= {(kind, p) for p in ours.names if p in self.pairs.in_b[kind]}
        for each in found:
            if self.only.has(kind, (each.path, self.pairs.in_b[kind][each.path]), each.step):
                self.weak[kind] -= bool(weak)
            else:
                yield each
        for path in ours.plain:
            sides = self.pairs.arrays(kind, path)
            if sides is None or any(side.dims[:1] != (STEP,) for side in sides):
                continue
            steps, count = unequal_plain(sides[0], sides[1], window, self.shift)
            self.by_digest += count
            if count:
                self.compared.add((kind, path))
            yield from (Unequal(step, kind, path) for step in steps)

    def _confirmed(self, found: Unequal) -> StepDifference | None:
        """Measure a difference; None where it is within what is allowed."""
        unmeasured = StepDifference(
            Place(found.step, phase_of(found.kind, found.path), found.kind, found.path), None
        )
        try:
            rows = self.pairs.rows(found.kind, found.path, found.step)
        except DamagedTraceError as error:
            self.obstacles.damaged = True
            self.not_compared.append(str(error))
            return unmeasured
        if rows is None:
            if self.allowed.is_exact:
                return unmeasured
            self.obstacles.beyond_values = True
            self.not_compared.append(
                f"{found.kind}/{found.path}: its digests differ at step {found.step}, where its "
                "values are not recorded, so it is unknown whether it is within the tolerance"
            )
            return None
        a, b, dims = rows
        if a.shape != b.shape:
            self.obstacles.reshaped = True
            self.not_compared.append(f"{found.kind}/{found.path}: shapes {a.shape} and {b.shape}")
            return None
        measured = difference_at(found.step, found.kind, found.path, dims, a, b)
        if measured.distance is None or measured.distance.differing == 0:
            return None  # statistics that were computed in another way
        if self.allowed.covers(a, b):
            return None
        self.confirmed += 1
        if self.confirmed <= _MOST_LOOKED_AT:
            precision = recognised_precision(measured.place.name, a, b)
            self.precisions += [precision] if precision is not None else []
        return measured

    def _by_values(self, common: list[int]) -> tuple[int | None, list[StepDifference]]:
        """Read the tensors that no digest speaks for, in the order of steps."""
        for window in windows(common):
            candidates: dict[int, list[Unequal]] = {}
            for kind, (ours, theirs) in self.pairs.marks.items():
                if ours.digests is not None and theirs.digests is not None:
                    continue
                for path in ours.names:
                    sides = self.pairs.arrays(kind, path)
                    if sides is None:
                        continue
                    try:
                        steps, count = unequal_plain(sides[0], sides[1], window, self.shift)
                    except DamagedTraceError as error:
                        self.obstacles.damaged = True
                        self.not_compared.append(str(error))
                        continue
                    self.by_digest += count
                    self.weak[kind] -= min(count, self.weak[kind])
                    for step in steps:
                        candidates.setdefault(step, []).append(Unequal(step, kind, path))
            first, confirmed = self._earliest(candidates)
            if confirmed:
                return first, confirmed
        return None, []

    def _verdict(self, differing: list[StepDifference], has_steps: bool) -> Verdict:
        if self.by_statistics and not differing:
            kinds = [kind for kind, count in self.weak.items() if count]
            self.not_compared.append(
                f"{', '.join(kinds)}: tensors of which neither digests nor values are recorded "
                "have equal statistics, which does not show that they are equal"
            )
            # Where all weights are equal, what they were computed from was as good as equal.
            self.obstacles.weak_weights = (
                bool(self.weak["weights"]) or "weights" not in self.pairs.marks
            )
        compared = bool(self.by_digest or self.by_statistics)
        return verdict_of(differing, self.obstacles, compared=compared, has_steps=has_steps)

    def _coverage(self, kinds: Sequence[Kind] | None) -> Coverage:
        declared = declared_count(self.pairs, self.attributes, kinds, self.last)
        return covered(self.by_digest, self.by_statistics, declared - self.absent, self.pairs.count)
