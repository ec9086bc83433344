"""Comparing two traces: where they part, every tensor that both have, and the verdict."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.differences.absent import with_values
from steptrace_analyzer.differences.align import find_shift
from steptrace_analyzer.differences.coverage import covered
from steptrace_analyzer.differences.divergence import first_divergence
from steptrace_analyzer.differences.elements import Tolerance
from steptrace_analyzer.differences.ends import compare_ends
from steptrace_analyzer.differences.fingerprints import CLOCK
from steptrace_analyzer.differences.golden import is_fingerprint
from steptrace_analyzer.differences.matching import Matching, match_models
from steptrace_analyzer.differences.noise import noise_of
from steptrace_analyzer.differences.result import DiffResult, FirstDifference, Mismatch
from steptrace_analyzer.differences.sides import known_kinds, name_of, opened_side
from steptrace_analyzer.differences.table import compare_tensor, row_shape
from steptrace_analyzer.progress import untold
from steptrace_analyzer.trace.absent import absence_text, absent_rows
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import format_steps, get_tensor, has_tensor, recorded_steps
from steptrace_analyzer.trace.updates import is_derived
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import ATTRIBUTES_KEY, FINAL, KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr

    from steptrace_analyzer.differences.coverage import Coverage
    from steptrace_analyzer.differences.divergence_result import Divergence, Verdict
    from steptrace_analyzer.differences.noise import NoiseResult
    from steptrace_analyzer.differences.table import Compared
    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.trace.open import TraceOrPath


_NOT_ALIGNED: Final = (
    "no step of one run has the weights, samples or loss of a step of the other, so steps are "
    "compared by their numbers"
)


def diff(
    a: TraceOrPath,
    b: TraceOrPath,
    *,
    kinds: Sequence[Kind] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    ulp: int = 0,
    renamed: Mapping[str, str] | None = None,
    shift: int = 0,
    align: bool = False,
    noise: Sequence[TraceOrPath] = (),
    rounding: TraceOrPath | None = None,
    reference: TraceOrPath | None = None,
    whole: bool = True,
    names: tuple[str, str] | None = None,
    progress: Progress = untold,
) -> DiffResult:
    """Compare two traces: where they part, and tensor by tensor at the steps that both have.

    Parameters
    ----------
    a, b
        Traces, or their paths, or fingerprints that :func:`write_fingerprint` has written. Of a
        fingerprint it is only found where the two part.
    kinds
        Kinds of data to compare. By default all, except updates that are derived from the weights.
        Wall-clock time and step duration are never compared.
    rtol, atol, ulp
        Elements are equal where ``|a - b| <= atol + rtol * max(|a|, |b|)``, or where at most so
        many representable numbers lie between them.
    renamed
        Path of a layer in `a` to its path in `b`. Layers are matched by path, and those that are
        left by class, shape and order.
    shift
        Step t of `a` is compared with step t + shift of `b`.
    align
        Whether to look for the `shift` that makes most steps equal: in their weights, else in the
        samples of their batches, else in the loss. `divergence.recognised` says what was found.
    noise, rounding, reference
        What shows which differences are normal: repeats of one run; a run whose inputs were changed
        by one representable number, as ``steptrace perturb`` makes it; or the same training in
        higher precision. See :func:`compare_with_noise`, :func:`compare_with_rounding` and
        :func:`compare_with_reference`.
    whole
        Whether to compare all tensors. Without, only digests and the tensors of one step are read.
    names
        Names of the two in the result. By default their paths, or else their own names.
    progress
        Called with the number of tensors that are done, and the number of all.

    Returns
    -------
    DiffResult
        The verdict with its coverage, where the two part, and one entry per tensor, differences in
        the tensor's own unit. Steps, tensors, shapes or dtypes that only one side has are
        mismatches. What is damaged is skipped and named in `not_compared`.

    Raises
    ------
    UnknownNameError
        If there is no such kind, `renamed` names a layer that is not there, more than one thing is
        to show which differences are normal, or one together with `renamed`, `shift` or `align`.

    Examples
    --------
    >>> result = diff("a.zarr", "b.zarr")  # doctest: +SKIP
    >>> result.verdict, result.first_difference  # doctest: +SKIP
    ('differs', FirstDifference(step=12, kind='inputs', path='x'))
    """
    if (noise or rounding is not None or reference is not None) and (renamed or shift or align):
        msg = (
            "noise is learned at the steps' own numbers and under the layers' own paths; compare "
            "without a shift, an alignment or a map, or without noise"
        )
        raise UnknownNameError(msg)
    name_a, name_b = names or (name_of(a, "a"), name_of(b, "b"))
    a, b = opened_side(a), opened_side(b)
    known = known_kinds(kinds)
    described = all(ATTRIBUTES_KEY in trace.attrs for trace in (a, b))  # not a tree made by hand
    matching = Matching()
    if described:
        matching = match_models(trace_attributes(a), trace_attributes(b), renamed)
    note: str | None = None
    if align:
        aligned = find_shift(a, b, matching)
        shift = shift if aligned is None else aligned.shift
        note = _NOT_ALIGNED if aligned is None else str(aligned)
    tables = _Tables(a, b, (name_a, name_b), matching, shift)
    if whole and not (is_fingerprint(a) or is_fingerprint(b)):
        tables.compare(_chosen_kinds(known, a, b), Tolerance(rtol, atol, ulp), progress)
    found: Divergence | None = None
    if described:
        found = first_divergence(
            a,
            b,
            kinds=known,
            rtol=rtol,
            atol=atol,
            ulp=ulp,
            renamed=renamed,
            shift=shift,
            names=(name_a, name_b),
            values_compared=tables.equal_values(),
        )
        if note is not None:
            recognised = (note, *found.recognised)
            found = dataclasses.replace(found, recognised=recognised)
    normal = noise_of(a, b, noise, rounding, reference, kinds=known, names=(name_a, name_b))
    return tables.result(found, normal)


class _Tables:
    """The tensors of two traces, compared one by one."""

    def __init__(
        self,
        a: xr.DataTree,
        b: xr.DataTree,
        names: tuple[str, str],
        matching: Matching,
        shift: int,
    ) -> None:
        self.a, self.b, self.names, self.matching, self.shift = a, b, names, matching, shift
        self.order = Dataflow.of(a)
        self.compared: list[Compared] = []
        self.mismatches: list[Mismatch] = []
        self.left: list[Mismatch] = []
        self.steps: set[int] = set()
        self._absent = tuple(
            absent_rows(trace_attributes(trace)) if ATTRIBUTES_KEY in trace.attrs else {}
            for trace in (a, b)
        )

    def equal_values(self) -> dict[tuple[Kind, str], int] | None:
        """Return at how many steps each tensor is equal; None where not all of them are."""
        if not self.compared or any(each.diff.differs or each.damage for each in self.compared):
            return None
        return {
            (each.by_step.kind, each.by_step.path): len(each.by_step.steps)
            for each in self.compared
            if each.by_step is not None
        }

    def compare(self, kinds: Sequence[Kind], tolerance: Tolerance, progress: Progress) -> None:
        """Compare what both have of some kinds; note what only one has."""
        tensors: list[tuple[Kind, str]] = []
        for kind in kinds:
            self._compare_steps(kind)
            tensors += [(kind, path) for path in self._paths(kind) if path not in CLOCK]
        tensors.sort(key=lambda tensor: self.order.rank(*tensor))
        for done, (kind, path) in enumerate(tensors):
            progress(done, len(tensors))
            self._compare(kind, path, tolerance)
        progress(len(tensors), len(tensors))
        if "weights" in kinds:
            found, reason = compare_ends(self.a, self.b, self.matching, self.shift, tolerance)
            self.compared += found
            self.left += [] if reason is None else [Mismatch(FINAL, reason)]

    def _paths(self, kind: Kind) -> list[str]:
        """Return the tensors of either, as the first names them."""
        ours = Dataflow.of(self.a).paths[kind]
        theirs = (self.matching.in_a(path) for path in Dataflow.of(self.b).paths[kind])
        return list(dict.fromkeys([*ours, *theirs]))

    def _compare_steps(self, kind: Kind) -> None:
        if kind not in self.a.children or kind not in self.b.children:
            return  # every tensor of the kind is a mismatch already
        ours = set(recorded_steps(self.a.children[kind]))
        theirs = {step - self.shift for step in recorded_steps(self.b.children[kind])}
        self.steps |= ours & theirs
        for only, name in zip((ours - theirs, theirs - ours), self.names, strict=True):
            if only:
                found = f"steps {format_steps(sorted(only))} only in {name}"
                self.mismatches.append(Mismatch(kind, found))

    def _compare(self, kind: Kind, path: str, tolerance: Tolerance) -> None:
        other = self.matching.in_b(path)
        present = has_tensor(self.a, kind, path), has_tensor(self.b, kind, other)
        if not all(present):
            name, shown = (self.names[0], path) if present[0] else (self.names[1], other)
            self.mismatches.append(Mismatch(f"{kind}/{shown}", f"only in {name}"))
            return
        sides = get_tensor(self.a, kind, path), get_tensor(self.b, kind, other)
        self.mismatches += _type_mismatch(kind, path, sides, self.names)
        absent = self._absent[0].get((kind, path), {}), self._absent[1].get((kind, other), {})
        if any(absent):
            sides, only = with_values(sides, absent, self.shift)
            self.mismatches += [
                Mismatch(f"{kind}/{path}", f"{absence_text(found)} in {name}")
                for found, name in zip(only, self.names, strict=True)
                if found
            ]
        if row_shape(sides[0]) == row_shape(sides[1]):
            self.compared.append(compare_tensor(kind, path, sides, tolerance, self.shift))

    def result(self, found: Divergence | None, noise: NoiseResult | None) -> DiffResult:
        """Return all that was found."""
        damage = dict.fromkeys(text for each in self.compared for text in each.damage)
        first = self._first()
        if not self.compared and found is not None and found.place is not None:
            first = FirstDifference(found.place.step, found.place.kind, found.place.path)
        return DiffResult(
            a=self.names[0],
            b=self.names[1],
            verdict=self._verdict(found, noise, is_damaged=bool(damage)),
            coverage=self._coverage() if found is None else found.coverage,
            tensors=tuple(each.diff for each in self.compared),
            mismatches=tuple(self.mismatches),
            not_compared=(*self.left, *(Mismatch("damaged", text) for text in damage)),
            steps=tuple(sorted(self.steps)),
            first_difference=first,
            divergence=found,
            noise=noise,
            by_step=tuple(each.by_step for each in self.compared if each.by_step is not None),
        )

    def _verdict(
        self, found: Divergence | None, noise: NoiseResult | None, *, is_damaged: bool
    ) -> Verdict:
        if noise is not None and (found is None or found.verdict in ("rounding-sized", "differs")):
            if noise.verdict != "equal" or found is None:
                return noise.verdict
        ends_differ = any(each.diff.kind == FINAL and each.diff.differs for each in self.compared)
        if found is not None and found.verdict == "equal":
            return "differs" if ends_differ else "inconclusive" if is_damaged else "equal"
        if found is not None:
            return found.verdict
        if any(each.diff.differs for each in self.compared):
            return "differs"
        whole = any(each.diff.elements for each in self.compared) and not is_damaged
        only_steps = all("/" not in mismatch.name for mismatch in self.mismatches)
        return "equal" if whole and only_steps else "inconclusive"

    def _coverage(self) -> Coverage:
        count = sum(1 if e.by_step is None else len(e.by_step.steps) for e in self.compared)
        return covered(count, 0, count + len(self.mismatches), len(self.compared))

    def _first(self) -> FirstDifference | None:
        found = [each.diff for each in self.compared if each.diff.differs]
        if not found:
            return None
        first = min(
            found,
            key=lambda t: (
                (t.kind == FINAL, -1 if t.first_step is None else t.first_step),
                (0, 0) if t.kind == FINAL else self.order.rank(t.kind, t.path),
            ),
        )
        return FirstDifference(first.first_step, first.kind, first.path)


def _chosen_kinds(
    given: tuple[Kind, ...] | None, a: xr.DataTree, b: xr.DataTree
) -> tuple[Kind, ...]:
    if given is not None:
        return given
    derived = is_derived(a, "updates") and is_derived(b, "updates")
    return tuple(kind for kind in KINDS if not (derived and kind == "updates"))


def _type_mismatch(
    kind: Kind, path: str, arrays: tuple[xr.DataArray, xr.DataArray], names: tuple[str, str]
) -> Iterator[Mismatch]:
    first, second = arrays
    name_a, name_b = names
    shapes = row_shape(first), row_shape(second)
    if shapes[0] != shapes[1]:
        found = f"shape {shapes[0]} in {name_a} and {shapes[1]} in {name_b}"
        yield Mismatch(f"{kind}/{path}", found)
    if first.dtype != second.dtype:
        found = f"dtype {first.dtype} in {name_a} and {second.dtype} in {name_b}"
        yield Mismatch(f"{kind}/{path}", found)
