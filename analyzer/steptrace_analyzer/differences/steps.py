"""Comparing two steps of one trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.differences.coverage import covered
from steptrace_analyzer.differences.elements import Tolerance
from steptrace_analyzer.differences.fingerprints import CLOCK
from steptrace_analyzer.differences.result import DiffResult, FirstDifference, Mismatch
from steptrace_analyzer.differences.sides import known_kinds
from steptrace_analyzer.differences.table import compare_blocks
from steptrace_analyzer.progress import untold
from steptrace_analyzer.trace.absent import absence_text, absent_rows
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_analyzer.trace.open import opened, trace_attributes
from steptrace_analyzer.trace.select import format_steps, get_tensor, recorded_steps, resolve_step
from steptrace_schema.errors import DamagedTraceError, StepNotRecordedError, UnknownNameError
from steptrace_schema.names import ATTRIBUTES_KEY, BATCH_INDEX, EPOCH, KINDS, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from steptrace_analyzer.differences.divergence_result import Verdict
    from steptrace_analyzer.differences.table import Block, Compared
    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

_COUNTERS: Final = frozenset({EPOCH, BATCH_INDEX})


def diff_steps(
    trace: TraceOrPath,
    a: int,
    b: int,
    *,
    kinds: Sequence[Kind] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    ulp: int = 0,
    progress: Progress = untold,
) -> DiffResult:
    """Compare step `a` of a trace with its step `b`; like :func:`diff`.

    Parameters
    ----------
    trace
        A trace, or its path.
    a, b
        Step numbers; negative ones count from the last recorded step of the kind ``scalars``.
    kinds, rtol, atol, ulp, progress
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
    tolerance = Tolerance(rtol, atol, ulp)
    chosen = [kind for kind in known_kinds(kinds) or KINDS if kind in trace.children]
    if not chosen:
        msg = f"{trace.name or 'the trace'} has nothing of kind {', '.join(kinds or KINDS)}"
        raise UnknownNameError(msg)
    clock = trace.children.get("scalars", trace.children[chosen[0]])
    a, b = (resolve_step(clock, step) if step < 0 else step for step in (a, b))
    compared: list[Compared] = []
    skipped: list[Mismatch] = []
    tensors: list[tuple[Kind, str]] = []
    declared = 0
    for kind in chosen:
        known = [path for path in order.paths[kind] if path not in CLOCK | _COUNTERS]
        declared += len(known)
        unrecorded = sorted({a, b} - set(recorded_steps(trace.children[kind])))
        if unrecorded:
            skipped.append(Mismatch(kind, f"step {format_steps(unrecorded)} is not recorded"))
            continue
        tensors += [(kind, path) for path in known]
    if not tensors:
        for step in (a, b):
            resolve_step(trace.children[chosen[0]], step)
        msg = f"no kind of data in {trace.name or 'the trace'} has both step {a} and step {b}"
        raise StepNotRecordedError(msg)
    absent = absent_rows(trace_attributes(trace)) if ATTRIBUTES_KEY in trace.attrs else {}
    tensors.sort(key=lambda tensor: order.rank(*tensor))
    for done, (kind, path) in enumerate(tensors):
        progress(done, len(tensors))
        array = get_tensor(trace, kind, path)
        gone = {s: why for s, why in absent.get((kind, path), {}).items() if s in (a, b)}
        if gone:
            skipped.append(Mismatch(f"{kind}/{path}", absence_text(gone)))
            continue
        if array.dims[:1] == (STEP,):
            damage: list[str] = []
            blocks = _rows(array, (a, b), damage)
            compared.append(compare_blocks(kind, path, blocks, tolerance, damage))
        else:
            declared -= 1
    progress(len(tensors), len(tensors))
    name = trace.name or "trace"
    read = [each.diff for each in compared if not each.damage]
    skipped += [Mismatch("damaged", text) for each in compared for text in each.damage]
    first = next((each for each in read if each.differs), None)
    verdict: Verdict = "equal" if len(read) == len(compared) and read else "inconclusive"
    return DiffResult(
        a=f"{name} step {a}",
        b=f"{name} step {b}",
        verdict=verdict if first is None else "differs",
        coverage=covered(len(read), 0, declared, len(tensors)),
        tensors=tuple(read),
        mismatches=(),
        not_compared=tuple(skipped),
        steps=(a, b),
        first_difference=None if first is None else FirstDifference(None, first.kind, first.path),
    )


def _rows(array: xr.DataArray, steps: tuple[int, int], damage: list[str]) -> Iterator[Block]:
    try:
        row_a, row_b = (np.asarray(array.sel({STEP: step})) for step in steps)
    except DamagedTraceError as error:
        damage.append(str(error))
        return
    yield row_a, row_b, None
