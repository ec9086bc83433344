"""The page about two runs: the verdict, where they part, how far each layer is from the other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.differences.matching import Matching
from steptrace_analyzer.differences.sides import opened_side
from steptrace_analyzer.plots.divergence import plot_difference_map, plot_divergence
from steptrace_analyzer.report.contents import Fact, Picture, Table
from steptrace_analyzer.report.page import render
from steptrace_analyzer.report.pictures import line_picture, pixel_picture
from steptrace_analyzer.report.write import replace_page
from steptrace_analyzer.trace.files import output_file
from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.divergence_result import Divergence, StepDifference
    from steptrace_analyzer.differences.result import DiffResult, TensorDiff
    from steptrace_analyzer.trace.open import TraceOrPath

_MOST_ROWS: Final = 200
_LONG: Final = 10**8


@dataclasses.dataclass(frozen=True)
class ComparisonPage:
    """What the page holds.

    Parameters
    ----------
    title, lead
        Of the page, and one sentence below it.
    facts
        Verdict, coverage, steps.
    said
        Where the two part, and what was recognised.
    lines
        Distance by layer; None where no tensors were compared step by step.
    first
        What differs at the first step that differs.
    map
        Where in the first tensor; None with the reason in `no_map`.
    tensors, more
        The tensors that differ, and how many are left out.
    rest
        What was not compared.
    """

    title: str
    lead: str
    facts: tuple[Fact, ...]
    said: tuple[str, ...]
    lines: Picture | None
    first: Table | None
    map: Picture | None
    no_map: str
    tensors: Table | None
    more: str
    rest: Table | None


def write_comparison(
    result: DiffResult, a: TraceOrPath, b: TraceOrPath | None, output: str | Path
) -> Path:
    """Write one self-contained HTML page about two runs; an existing file is replaced.

    It runs no script and loads nothing over the network.

    Parameters
    ----------
    result
        What :func:`steptrace_analyzer.diff` found.
    a, b
        The traces that were compared, for the map of the first tensor; `b` is None for two steps of
        one trace.
    output
        The file to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TraceError
        If `output` is a folder.

    Examples
    --------
    >>> a, b = "a.zarr", "b.zarr"
    >>> write_comparison(diff(a, b), a, b, "diff.html")  # doctest: +SKIP
    """
    target = output_file(output, "diff.html")
    found = result.divergence
    drawn, reason = None, "only two runs have a first step that differs"
    if found is not None and found.place is not None and b is not None:
        drawn, reason = _map(found, opened_side(a), opened_side(b))
    differing = [tensor for tensor in result.tensors if tensor.differs]
    left = len(differing) - _MOST_ROWS
    page = ComparisonPage(
        title=f"{result.a} and {result.b}",
        lead=f"{result}.",
        facts=_facts(result),
        said=_said(result),
        lines=_lines(result),
        first=_first(found.differing[:_MOST_ROWS]) if found and found.differing else None,
        map=drawn,
        no_map=reason,
        tensors=_tensors(differing[:_MOST_ROWS]) if differing else None,
        more=f"{left} more tensors differ; --json lists them" if left > 0 else "",
        rest=_rest(result),
    )
    return replace_page(target, render("diff.html", page=page))


def _facts(result: DiffResult) -> tuple[Fact, ...]:
    return (
        Fact("verdict", result.verdict),
        Fact("coverage", str(result.coverage)),
        Fact("steps", result.steps_text),
        Fact("tensors", f"{result.coverage.tensors} in both"),
        Fact("noise", str(result.noise) if result.noise is not None else ""),
    )


def _said(result: DiffResult) -> tuple[str, ...]:
    found = result.divergence
    if found is None:
        return ()
    return tuple(text for text in (found.origin, *found.recognised) if text)


def _lines(result: DiffResult) -> Picture | None:
    if not result.by_step:
        return None
    alt = "Distance of the two runs by layer and step, on a logarithmic axis"
    return line_picture(plot_divergence(result), alt)


def _map(found: Divergence, a: xr.DataTree, b: xr.DataTree) -> tuple[Picture | None, str]:
    """Draw the first tensor that differs; or say why not."""
    place = found.place
    assert place is not None
    other = Matching(found.renamed).in_b(place.path)
    if not (has_tensor(a, place.kind, place.path) and has_tensor(b, place.kind, other)):
        return None, f"the values of {place.name} are not recorded in both runs"
    sides = get_tensor(a, place.kind, place.path), get_tensor(b, place.kind, other)
    rows: list[npt.NDArray[np.generic]] = []
    for side, own in zip(sides, (place.step, _shifted(place.step, found.shift)), strict=True):
        if own is not None and STEP in side.dims:
            if own not in np.asarray(side.coords[STEP]):
                return None, f"the values of {place.name} are not recorded at step {place.step}"
            side = side.sel({STEP: own})
        try:
            rows.append(np.asarray(side))
        except DamagedTraceError as error:
            return None, str(error)
    if rows[0].shape != rows[1].shape or rows[0].size == 0:
        return None, f"{place.name} has the shapes {rows[0].shape} and {rows[1].shape}"
    alt = f"Difference of {place.name}, second minus first"
    return pixel_picture(plot_difference_map(rows[0], rows[1], place), alt), ""


def _shifted(step: int | None, shift: int) -> int | None:
    return None if step is None else step + shift


def _number(value: float | None) -> str:
    """Write a number; steps and positions are whole, and written whole."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and abs(value) < _LONG else f"{value:.3g}"


def _first(differing: Sequence[StepDifference]) -> Table:
    head = ("phase", "tensor", "sample", "unit", "elements", "max abs", "max ULP")
    rows = []
    for each in differing:
        distance = each.distance
        share = "" if distance is None else f"{distance.differing} of {distance.elements}"
        rows.append(
            (
                each.place.phase,
                each.place.name,
                _number(each.place.sample),
                _number(each.place.unit),
                share,
                _number(None if distance is None else distance.max_abs),
                _number(None if distance is None else distance.max_ulp),
            )
        )
    return Table(head, tuple(rows), numbers=5)


def _tensors(differing: Sequence[TensorDiff]) -> Table:
    head = ("tensor", "elements", "max abs", "max rel", "cosine", "max ULP", "since", "worst")
    rows = tuple(
        (
            tensor.name,
            f"{tensor.differing} of {tensor.elements}",
            _number(tensor.max_abs),
            _number(tensor.max_rel),
            "" if tensor.cosine is None else f"{tensor.cosine:.6f}",
            _number(tensor.max_ulp),
            _number(tensor.first_step),
            _number(tensor.worst_step),
        )
        for tensor in differing
    )
    return Table(head, rows, numbers=7)


def _rest(result: DiffResult) -> Table | None:
    rows = [(mismatch.name, mismatch.found) for mismatch in result.mismatches]
    rows += [(entry.name, entry.found) for entry in result.not_compared]
    if result.divergence is not None:
        rows += [("", text) for text in result.divergence.not_compared]
    return Table(("what", "why"), tuple(dict.fromkeys(rows))) if rows else None
