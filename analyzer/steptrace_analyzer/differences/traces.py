"""Comparing two traces, or two steps of one, within a fixed memory budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.differences.divergence import first_divergence, name_of
from steptrace_analyzer.differences.elements import Accumulated, Tolerance
from steptrace_analyzer.differences.result import DiffResult, FirstDifference, Mismatch, TensorDiff
from steptrace_analyzer.progress import untold
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import (
    format_steps,
    get_tensor,
    has_tensor,
    recorded_steps,
    resolve_step,
)
from steptrace_analyzer.trace.updates import is_derived
from steptrace_schema.errors import StepNotRecordedError, UnknownNameError
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    BATCH_INDEX,
    EPOCH,
    KINDS,
    SAMPLE_DIGEST,
    STEP,
    STEP_DURATION,
    WALL_TIME,
    Kind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.divergence_result import Divergence
    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.trace.open import TraceOrPath

    _Block = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64] | None]

_CLOCK: Final = frozenset({WALL_TIME, STEP_DURATION})
"""Scalars of the clock, which no two runs share."""
_COUNTERS: Final = frozenset({EPOCH, BATCH_INDEX})
_BLOCK_BYTES: Final = 8 * 2**20  # of one side; float64 copies take a few times as much


def diff(
    a: TraceOrPath,
    b: TraceOrPath,
    *,
    kinds: Sequence[Kind] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    names: tuple[str, str] | None = None,
    progress: Progress = untold,
) -> DiffResult:
    """Compare two traces tensor by tensor, at the steps that both have.

    Parameters
    ----------
    a, b
        Traces, or their paths.
    kinds
        Kinds of data to compare. By default all, except updates that are derived from the weights.
        Wall-clock time and step duration are never compared.
    rtol, atol
        Elements are equal where ``|a - b| <= atol + rtol * max(|a|, |b|)``.
    names
        Names of the two in the result. By default their paths, or else their own names.
    progress
        Called with the number of tensors that are done, and the number of all.

    Returns
    -------
    DiffResult
        One entry per tensor, differences in the tensor's own unit. Steps, tensors, shapes or
        dtypes that only one side has are mismatches, and count as a difference.

    Examples
    --------
    >>> result = diff("a.zarr", "b.zarr")  # doctest: +SKIP
    >>> result.first_difference  # doctest: +SKIP
    FirstDifference(step=12, kind='inputs', path='x')
    """
    name_a, name_b = names or (name_of(a, "a"), name_of(b, "b"))
    a, b = opened(a), opened(b)
    order = Dataflow.of(a, b)
    tolerance = Tolerance(rtol, atol)
    chosen = _chosen_kinds(kinds, a, b)
    compared: list[TensorDiff] = []
    mismatches = [m for kind in chosen for m in _step_mismatches(kind, a, b, name_a, name_b)]
    tensors = sorted(
        ((kind, path) for kind in chosen for path in order.paths[kind] if path not in _CLOCK),
        key=lambda tensor: order.rank(*tensor),
    )
    for done, (kind, path) in enumerate(tensors):
        progress(done, len(tensors))
        sides = [t if has_tensor(t, kind, path) else None for t in (a, b)]
        if sides[0] is None or sides[1] is None:
            only = name_a if sides[1] is None else name_b
            mismatches.append(Mismatch(f"{kind}/{path}", f"only in {only}"))
            continue
        array_a, array_b = get_tensor(a, kind, path), get_tensor(b, kind, path)
        mismatches += _type_mismatch(kind, path, (array_a, array_b), (name_a, name_b))
        if _row_shape(array_a) == _row_shape(array_b):
            compared.append(_compare(kind, path, _aligned(array_a, array_b), tolerance))
    progress(len(tensors), len(tensors))
    steps = sorted({step for kind in chosen for step in _common_steps(kind, a, b)})
    found: Divergence | None = None
    if all(ATTRIBUTES_KEY in trace.attrs for trace in (a, b)):  # not so in a tree made by hand
        found = first_divergence(
            a,
            b,
            kinds=kinds,
            rtol=rtol,
            atol=atol,
            names=(name_a, name_b),
            values_are_equal=not any(tensor.differs for tensor in compared),
        )
    return DiffResult(
        a=name_a,
        b=name_b,
        tensors=tuple(compared),
        mismatches=tuple(mismatches),
        not_compared=(),
        steps=tuple(steps),
        first_difference=_first(compared, order),
        divergence=found,
    )


def diff_steps(
    trace: TraceOrPath,
    a: int,
    b: int,
    *,
    kinds: Sequence[Kind] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    progress: Progress = untold,
) -> DiffResult:
    """Compare step `a` of a trace with its step `b`; like :func:`diff`.

    Parameters
    ----------
    trace
        A trace, or its path.
    a, b
        Step numbers; negative ones count from the last recorded step of the kind ``scalars``.
    kinds, rtol, atol, progress
        As in :func:`diff`; recorded or derived updates are compared too.

    Returns
    -------
    DiffResult
        `first_difference` names the first tensor in dataflow order; no entry names a step. The
        number of the epoch and of the batch, which always differ, are not compared.

    Raises
    ------
    StepNotRecordedError
        If no kind has both steps.

    Examples
    --------
    >>> diff_steps("run.zarr", 10, 20).tensors[0].max_abs  # doctest: +SKIP
    0.31
    """
    trace = opened(trace)
    order = Dataflow.of(trace)
    tolerance = Tolerance(rtol, atol)
    chosen = [kind for kind in _known(kinds) or KINDS if kind in trace.children]
    if not chosen:
        msg = f"{trace.name or 'the trace'} has nothing of kind {', '.join(kinds or KINDS)}"
        raise UnknownNameError(msg)
    clock = trace.children.get("scalars", trace.children[chosen[0]])
    a, b = (resolve_step(clock, step) if step < 0 else step for step in (a, b))
    compared: list[TensorDiff] = []
    skipped: list[Mismatch] = []
    tensors: list[tuple[Kind, str]] = []
    for kind in chosen:
        absent = sorted({a, b} - set(recorded_steps(trace.children[kind])))
        if absent:
            skipped.append(Mismatch(kind, f"step {format_steps(absent)} is not recorded"))
            continue
        tensors += [(kind, path) for path in order.paths[kind] if path not in _CLOCK | _COUNTERS]
    if not tensors:
        for step in (a, b):
            resolve_step(trace.children[chosen[0]], step)
        msg = f"no kind of data in {trace.name or 'the trace'} has both step {a} and step {b}"
        raise StepNotRecordedError(msg)
    tensors.sort(key=lambda tensor: order.rank(*tensor))
    for done, (kind, path) in enumerate(tensors):
        progress(done, len(tensors))
        array = get_tensor(trace, kind, path)
        if array.dims[:1] == (STEP,):
            row_a, row_b = (np.asarray(array.sel({STEP: step})) for step in (a, b))
            compared.append(_compare(kind, path, iter([(row_a, row_b, None)]), tolerance))
    progress(len(tensors), len(tensors))
    name = trace.name or "trace"
    return DiffResult(
        a=f"{name} step {a}",
        b=f"{name} step {b}",
        tensors=tuple(compared),
        mismatches=(),
        not_compared=tuple(skipped),
        steps=(a, b),
        first_difference=_first(compared, order),
    )


def _known(kinds: Sequence[Kind] | None) -> tuple[Kind, ...] | None:
    if kinds is None:
        return None
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        msg = f"there is no kind of data '{unknown[0]}'; the kinds are {', '.join(KINDS)}"
        raise UnknownNameError(msg)
    return tuple(kinds)


def _chosen_kinds(kinds: Sequence[Kind] | None, a: xr.DataTree, b: xr.DataTree) -> tuple[Kind, ...]:
    given = _known(kinds)
    if given is not None:
        return given
    derived = is_derived(a, "updates") and is_derived(b, "updates")
    return tuple(kind for kind in KINDS if not (derived and kind == "updates"))


def _steps(trace: xr.DataTree, kind: Kind) -> list[int]:
    return recorded_steps(trace.children[kind]) if kind in trace.children else []


def _common_steps(kind: Kind, a: xr.DataTree, b: xr.DataTree) -> list[int]:
    return sorted(set(_steps(a, kind)) & set(_steps(b, kind)))


def _step_mismatches(
    kind: Kind, a: xr.DataTree, b: xr.DataTree, name_a: str, name_b: str
) -> Iterator[Mismatch]:
    if kind not in a.children or kind not in b.children:
        return  # every tensor of the kind is a mismatch already
    steps_a, steps_b = set(_steps(a, kind)), set(_steps(b, kind))
    for only, name in ((steps_a - steps_b, name_a), (steps_b - steps_a, name_b)):
        if only:
            yield Mismatch(kind, f"steps {format_steps(sorted(only))} only in {name}")


def _row_shape(array: xr.DataArray) -> tuple[int, ...]:
    return tuple(size for dim, size in array.sizes.items() if dim != STEP)


def _type_mismatch(
    kind: Kind, path: str, arrays: tuple[xr.DataArray, xr.DataArray], names: tuple[str, str]
) -> Iterator[Mismatch]:
    first, second = arrays
    name_a, name_b = names
    shapes = _row_shape(first), _row_shape(second)
    if shapes[0] != shapes[1]:
        found = f"shape {shapes[0]} in {name_a} and {shapes[1]} in {name_b}"
        yield Mismatch(f"{kind}/{path}", found)
    if first.dtype != second.dtype:
        found = f"dtype {first.dtype} in {name_a} and {second.dtype} in {name_b}"
        yield Mismatch(f"{kind}/{path}", found)


def _aligned(a: xr.DataArray, b: xr.DataArray) -> Iterator[_Block]:
    """Yield the rows of the steps that both arrays have, some at a time."""
    if STEP not in a.dims or STEP not in b.dims:
        yield np.asarray(a), np.asarray(b), None
        return
    steps, rows_a, rows_b = np.intersect1d(
        np.asarray(a.coords[STEP]), np.asarray(b.coords[STEP]), return_indices=True
    )
    row_bytes = math.prod(_row_shape(a)) * max(a.dtype.itemsize, b.dtype.itemsize)
    count = max(1, _BLOCK_BYTES // max(1, row_bytes))
    chunk = a.chunks[0][0] if a.chunks else count
    # Whole chunks, or equal parts of one, so that little is decoded twice.
    if count > chunk > 0:
        count -= count % chunk
    while 0 < count < chunk and chunk % count:
        count -= 1
    for start in range(0, len(steps), count):
        block = slice(start, start + count)
        yield _rows(a, rows_a[block]), _rows(b, rows_b[block]), steps[block]


def _rows(array: xr.DataArray, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        return np.asarray(array.isel({STEP: slice(first, last + 1)}))
    return np.asarray(array.isel({STEP: rows}))


def _compare(kind: Kind, path: str, blocks: Iterator[_Block], tolerance: Tolerance) -> TensorDiff:
    state = Accumulated()
    for block_a, block_b, steps in blocks:
        state.add(block_a, block_b, steps, tolerance)
    is_number = path != SAMPLE_DIGEST
    return TensorDiff(
        kind=kind,
        path=path,
        elements=state.elements,
        differing=state.differing,
        max_abs=state.max_abs if is_number else None,
        mean_abs=state.mean_abs if is_number else None,
        max_rel=state.max_rel if is_number else None,
        mean_rel=state.mean_rel if is_number else None,
        cosine=state.cosine if is_number else None,
        max_ulp=state.max_ulp,
        first_step=state.first_step,
        worst_step=state.worst_step,
        steps_differing=state.steps_differing,
        non_finite_a=state.non_finite_a,
        non_finite_b=state.non_finite_b,
    )


def _first(compared: Sequence[TensorDiff], order: Dataflow) -> FirstDifference | None:
    found = [tensor for tensor in compared if tensor.differs]
    if not found:
        return None
    first = min(
        found,
        key=lambda t: (-1 if t.first_step is None else t.first_step, order.rank(t.kind, t.path)),
    )
    return FirstDifference(first.first_step, first.kind, first.path)
