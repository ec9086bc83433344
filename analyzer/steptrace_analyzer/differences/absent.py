"""Tensors that have a value at a step in one of two runs alone, which is no difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.trace.absent import absence_text, absent_rows
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from steptrace_analyzer.trace.absent import Absent
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import Kind


class OnlyInOne:
    """What one of two runs has no value of, where the other one has.

    Parameters
    ----------
    attributes
        Of both runs.
    shift
        What is added to a step of the first for that of the second.
    """

    def __init__(self, attributes: tuple[TraceAttributes, TraceAttributes], shift: int) -> None:
        self._absent = tuple(map(absent_rows, attributes))
        self._shift = shift
        self._found: dict[tuple[Kind, str, int], Absent] = {}

    def has(self, kind: Kind, paths: tuple[str, str], step: int) -> bool:
        """Note whether one run, or both, have no value of a tensor at a step of the first."""
        steps = step, step + self._shift
        why = [
            rows.get((kind, path), {}).get(at)
            for rows, path, at in zip(self._absent, paths, steps, strict=True)
        ]
        for side, reason in enumerate(why):
            if reason is not None and why[1 - side] is None:
                self._found.setdefault((kind, paths[side], side), {})[steps[side]] = reason
        return any(reason is not None for reason in why)

    def sentences(self, names: tuple[str, str]) -> list[str]:
        """Say what was noted; `names` are those of the runs."""
        return [
            f"{kind}/{path}: {absence_text(absent)} in {names[side]}"
            for (kind, path, side), absent in self._found.items()
        ]


def with_values(
    sides: tuple[xr.DataArray, xr.DataArray],
    absent: tuple[Mapping[int, str], Mapping[int, str]],
    shift: int,
) -> tuple[tuple[xr.DataArray, xr.DataArray], tuple[Absent, Absent]]:
    """Leave out the rows of steps at which a tensor has no value in one of two traces.

    Parameters
    ----------
    sides
        The tensor in both, dims (step, ...).
    absent
        The steps at which it has no value in each, with the reasons.
    shift
        What is added to a step of the first for that of the second.

    Returns
    -------
    tuple
        Both without these rows; and where each has no value while the other one has.
    """
    a, b = sides
    if a.dims[:1] != (STEP,) or b.dims[:1] != (STEP,):
        return sides, ({}, {})
    steps_a, steps_b = (np.asarray(side.coords[STEP]) for side in sides)
    common = set(np.intersect1d(steps_a, steps_b - shift).tolist())
    no_a, no_b = set(absent[0]), {step - shift for step in absent[1]}
    either = np.array(sorted(no_a | no_b), np.int64)
    kept = (
        a.isel({STEP: np.flatnonzero(~np.isin(steps_a, either))}),
        b.isel({STEP: np.flatnonzero(~np.isin(steps_b - shift, either))}),
    )
    only_a = {step: absent[0][step] for step in (no_a - no_b) & common}
    only_b = {step + shift: absent[1][step + shift] for step in (no_b - no_a) & common}
    return kept, (only_a, only_b)
