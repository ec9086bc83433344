"""How far two tensors are apart at one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.differences.divergence_result import Distance, Place, StepDifference
from steptrace_analyzer.differences.elements import ulp_distance
from steptrace_analyzer.differences.phases import phase_of
from steptrace_schema.names import (
    BATCH,
    RECORDED_ID,
    SAMPLE,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_REPLICA,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.names import Kind

_NAMES: Final = frozenset({SAMPLE_DIGEST, SAMPLE_ID, RECORDED_ID, SAMPLE_REPLICA})
"""Arrays whose numbers are names, with no distance between them."""


def is_name(path: str) -> bool:
    """Whether the numbers of an array are names, as digests and ids are."""
    return path in _NAMES


def difference_at(
    step: int | None,
    kind: Kind,
    path: str,
    dims: tuple[str, ...],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
) -> StepDifference:
    """Measure the difference of one tensor at one step.

    Parameters
    ----------
    step, kind, path
        Which tensor it is.
    dims
        Names of its dimensions, without the step.
    a, b
        The tensor in both runs, of one shape.
    """
    unequal = _bits_differ(a, b)
    is_number = not is_name(path)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide_a) & np.isfinite(wide_b)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.where(finite, np.abs(wide_a - wide_b), 0.0)
    # What is finite on one side alone is farther apart than any number.
    apart = np.where(unequal & ~finite, np.inf, apart)
    largest = apart if is_number and (apart > 0).any() else unequal.astype(np.float64)
    position = np.unravel_index(int(np.argmax(largest)), a.shape) if a.size else ()
    index = tuple(int(i) for i in position)
    distance = _distance(a, b, unequal, finite, apart) if is_number else _count(unequal)
    has_samples = bool(dims) and dims[0] in (SAMPLE, BATCH)
    rows = unequal.reshape(len(unequal), -1).any(axis=1) if has_samples else None
    has_units = len(dims) > has_samples and dims[-1] != BATCH
    along = unequal.reshape(-1, a.shape[-1]).any(axis=0) if has_units else None
    return StepDifference(
        Place(
            step=step,
            phase=phase_of(kind, path),
            kind=kind,
            path=path,
            unit=index[-1] if has_units else None,
            units=None if along is None else int(along.sum()),
            sample=None if rows is None or not rows.any() else int(np.argmax(rows)),
            index=index,
        ),
        distance,
    )


def _bits_differ(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if a.dtype != b.dtype:
        return np.asarray((a != b) & ~((a != a) & (b != b)))
    whole = np.dtype(f"u{a.dtype.itemsize}")
    left, right = np.ascontiguousarray(a).view(whole), np.ascontiguousarray(b).view(whole)
    return np.asarray(left != right).reshape(a.shape)


def _count(unequal: npt.NDArray[np.bool_]) -> Distance:
    return Distance(unequal.size, int(unequal.sum()), None, None, None, None, 0, 0)


def _distance(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    unequal: npt.NDArray[np.bool_],
    finite: npt.NDArray[np.bool_],
    apart: npt.NDArray[np.float64],
) -> Distance:
    both = apart[finite]
    max_abs = float(both.max(initial=0.0))
    sizes = np.maximum(np.abs(a[finite].astype(np.float64)), np.abs(b[finite].astype(np.float64)))
    largest = float(sizes.max(initial=0.0))
    is_float = a.dtype == b.dtype and a.dtype.kind == "f"
    place = float(np.spacing(a.dtype.type(largest))) if is_float else 0.0
    return Distance(
        elements=unequal.size,
        differing=int(unequal.sum()),
        max_abs=max_abs,
        max_rel=max_abs / largest if largest else 0.0,
        max_ulp=int(ulp_distance(a[finite], b[finite]).max(initial=0)) if is_float else None,
        in_last_place=max_abs / place if place and np.isfinite(place) else None,
        non_finite_a=int(a.size - np.isfinite(a.astype(np.float64)).sum()),
        non_finite_b=int(b.size - np.isfinite(b.astype(np.float64)).sum()),
    )
