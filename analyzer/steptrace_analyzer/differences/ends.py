"""Comparing what two models ended with, where that is not what their last steps left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.differences.table import compare_tensor, row_shape
from steptrace_analyzer.trace.final import final_weights
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_schema.errors import TraceError
from steptrace_schema.names import ATTRIBUTES_KEY, FINAL

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_analyzer.differences.elements import Tolerance
    from steptrace_analyzer.differences.matching import Matching
    from steptrace_analyzer.differences.table import Compared


def compare_ends(
    a: xr.DataTree, b: xr.DataTree, matching: Matching, shift: int, tolerance: Tolerance
) -> tuple[list[Compared], str | None]:
    """Compare the weights that two models ended with, at the same step.

    Nothing is compared where the last rows of the weights say it all.

    Parameters
    ----------
    a, b
        Two traces.
    matching
        Which layers of both are the same.
    shift
        What is added to a step of the first for that of the second.
    tolerance
        What counts as equal.

    Returns
    -------
    tuple
        One entry for each weight that both have, and why nothing could be compared.
    """
    if any(ATTRIBUTES_KEY not in trace.attrs for trace in (a, b)):
        return [], None
    ends = [trace_attributes(trace).final for trace in (a, b)]
    if not any(end is not None and end.changed for end in ends):
        return [], None
    if None not in ends and ends[0].step + shift != ends[1].step:  # type: ignore[union-attr]
        return [], None
    try:
        ours, theirs = final_weights(a), final_weights(b)
    except TraceError as error:
        return [], str(error)
    compared = []
    for path, array in ours.items():
        other = theirs.get(matching.in_b(path))
        if other is not None and row_shape(array) == row_shape(other):
            compared.append(compare_tensor(FINAL, path, (array, other), tolerance))
    return compared, None
