"""What ``steptrace diff`` prints of tensors and of where two runs part."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.cli._output import Column, cell_text, hint, write_line, write_table
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.differences.divergence_result import (
        Divergence,
        StepDifference,
        Verdict,
    )
    from steptrace_analyzer.differences.result import DiffResult, TensorDiff

_NAME_WIDTH: Final = 32
"""Characters of a tensor's name that leave room for the numbers within 80."""
_PATH_WIDTH: Final = 28
_SHORT_KINDS: Final = {"activation_gradients": "act_gradients"}
_MOST_ROWS: Final = 20
_MOST_TENSORS: Final = 40


def short_name(name: str, width: int = _NAME_WIDTH) -> str:
    """Return a tensor's name with its kind and the end of its path.

    Examples
    --------
    >>> short_name("activations/encoder/block_3/attention/output", 34)
    'activations/../attention/output'
    """
    if len(name) <= width:
        return name
    kind, *parts = name.split("/")
    kind = _SHORT_KINDS.get(kind, kind)
    while len(parts) > 1:
        parts = parts[1:]
        short = "/".join([kind, "..", *parts])
        if len(short) <= width:
            return short
    return f"{kind}/..{parts[0][-(width - len(kind) - 3) :]}" if parts else f"..{kind[2 - width :]}"


def show_result(result: DiffResult, *, every: bool, wide: bool) -> None:
    """Print what a comparison of all tensors found."""
    steps = result.steps_text
    write_line(f"{result}, steps {steps}" if result.verdict == "equal" and steps else str(result))
    if result.noise is not None:
        write_line(str(result.noise))
    found = result.divergence
    if found is not None:
        for text in (*([found.origin] if found.origin else []), *found.recognised):
            write_line(text)
    for mismatch in result.mismatches:
        write_line(f"{mismatch.name}: {mismatch.found}")
    shown = [tensor for tensor in result.tensors if every or tensor.differs]
    limit = len(shown) if every else _MOST_TENSORS
    if shown:
        write_line("")
        show_tensors(shown[:limit], wide=wide)
    if len(shown) > limit:
        hint(f"{len(shown) - limit} more tensors differ; --all lists them")
    equal = len(result.tensors) - len(shown)
    if equal and result.differs:
        hint(f"{equal} tensors are equal")
    if result.verdict != "equal" or result.coverage.share < 1:
        hint(f"verdict: {result.verdict}; {result.coverage}")
    said = {entry.found for entry in result.not_compared}
    for entry in result.not_compared:
        hint(f"not compared: {entry.name}, {entry.found}")
    for text in found.not_compared if found is not None else ():
        if text not in said and not result.mismatches:
            hint(f"not compared: {text}")


def show_divergence(found: Divergence, verdict: Verdict) -> None:
    """Print where two runs part, with the verdict on it."""
    where = "" if found.steps == "" else f", steps {found.steps}"
    write_line(f"{found.a} and {found.b}: {verdict}{where}")
    for text in (*([found.origin] if found.origin else []), *found.recognised):
        write_line(text)
    if found.differing:
        write_line("")
        _show_step(found.differing[:_MOST_ROWS])
    if len(found.differing) > _MOST_ROWS:
        hint(f"{len(found.differing) - _MOST_ROWS} more tensors differ at this step; see --json")
    hint(f"{found.coverage}; {found.coverage.tensors} tensors are in both")
    for text in found.not_compared:
        hint(f"not compared: {text}")


def _show_step(differing: Sequence[StepDifference]) -> None:
    names = ("unit", "differ", "max abs", "max ULP")
    write_table(
        [Column("phase"), Column("tensor"), *(Column(name, right=True) for name in names)],
        [
            (
                each.place.phase,
                short_name(each.place.path, _PATH_WIDTH),
                each.place.unit,
                None if each.distance is None else f"{100 * each.distance.share:.3g} %",
                None if each.distance is None else each.distance.max_abs,
                None if each.distance is None else each.distance.max_ulp,
            )
            for each in differing
        ],
    )


def show_tensors(tensors: Sequence[TensorDiff], *, wide: bool) -> None:
    """Print one row for each tensor; within 80 columns unless all numbers are wanted."""
    if wide:
        _show_all_columns(tensors)
        return
    names = ("differ", "max abs", "max rel", "max ULP", "since")
    write_table(
        [Column("tensor"), *(Column(name, right=True) for name in names)],
        [
            (
                short_name(tensor.name),
                f"{100 * tensor.differing / tensor.elements:.2g} %" if tensor.elements else None,
                None if tensor.max_abs is None else f"{tensor.max_abs:.2g}",
                None if tensor.max_rel is None else f"{tensor.max_rel:.2g}",
                None if tensor.max_ulp is None else f"{tensor.max_ulp:.2g}",
                tensor.first_step,
            )
            for tensor in tensors
        ],
    )


def _show_all_columns(tensors: Sequence[TensorDiff]) -> None:
    names = ["differing", "max abs", "mean abs", "max rel", "mean rel", "cosine", "max ULP"]
    right = [*names, "first step", "worst step", "non-finite"]
    write_table(
        [Column("tensor"), *(Column(name, right=True) for name in right)],
        [
            (
                tensor.name,
                f"{tensor.differing} of {tensor.elements}",
                tensor.max_abs,
                tensor.mean_abs,
                tensor.max_rel,
                tensor.mean_rel,
                None if tensor.cosine is None else f"{tensor.cosine:.6f}",
                tensor.max_ulp,
                tensor.first_step,
                tensor.worst_step,
                _non_finite(tensor),
            )
            for tensor in tensors
        ],
    )


def show_tensor(result: DiffResult, name: str) -> None:
    """Print all numbers of one tensor, a line each.

    Raises
    ------
    UnknownNameError
        If no tensor, or more than one, is meant.
    """
    found = [t for t in result.tensors if t.name == name] or [
        t for t in result.tensors if t.name.endswith(f"/{name}")
    ]
    if len(found) != 1:
        what = "means several tensors" if found else "is no tensor that was compared"
        near = found or [t for t in result.tensors if name.rpartition("/")[2] in t.name]
        listed = ", ".join(t.name for t in near[:5])
        msg = f"'{name}' {what}" + (f": {listed}" if listed else "")
        raise UnknownNameError(msg)
    for field in dataclasses.fields(found[0]):
        value = getattr(found[0], field.name)
        write_line(f"{field.name.replace('_', ' '):16} {cell_text(value)}")


def _non_finite(tensor: TensorDiff) -> str | None:
    if not tensor.non_finite_a and not tensor.non_finite_b:
        return None
    return f"{tensor.non_finite_a}, {tensor.non_finite_b}"
