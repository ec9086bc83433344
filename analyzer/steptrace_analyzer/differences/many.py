"""Which of many runs are equal, up to which step, and how they part."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from steptrace_analyzer.differences.divergence import first_divergence
from steptrace_analyzer.differences.divergence_result import Divergence, Place
from steptrace_analyzer.differences.recognise import flattened
from steptrace_analyzer.differences.sides import name_of, opened_side
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_analyzer.trace.open import TraceOrPath

_FEWEST: Final = 2
_ABSENT: Final = "absent"


@dataclasses.dataclass(frozen=True)
class Parting:
    """Where a group of runs that were equal becomes two."""

    place: Place
    origin: str
    """As `Divergence.origin` says it of the first of each group."""
    first: tuple[str, ...]
    """The runs that stay with the first run of the group; they may part later."""
    second: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is configured in another way in some runs."""

    name: str
    values: tuple[str, ...]
    """One for each run."""


@dataclasses.dataclass(frozen=True)
class ComparedRuns:
    """Many runs, and the tree of where they part."""

    runs: tuple[str, ...]
    partings: tuple[Parting, ...]
    """The first one comes first; those inside a group after it."""
    equal: tuple[tuple[str, ...], ...]
    """The groups that are left, in which nothing that was compared differs."""
    inconclusive: tuple[str, ...]
    """Runs that could not be compared with the first of their group."""
    settings: tuple[Setting, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields


def compare_runs(
    runs: "Sequence[TraceOrPath]",
    names: Sequence[str] | None = None,
    *,
    kinds: Sequence[Kind] | None = None,
) -> ComparedRuns:
    """Say which runs are equal, and where they part, as a tree.

    Parameters
    ----------
    runs
        At least two traces, or their paths.
    names
        Their names in the result; by default their paths, or else their own names.
    kinds
        Kinds of data to compare; by default all.

    Returns
    -------
    ComparedRuns
        With the partings, the groups of equal runs, and the settings that differ.

    Raises
    ------
    UnknownNameError
        If there are fewer than two runs.

    Examples
    --------
    >>> compare_runs(["a.zarr", "b.zarr", "c.zarr"]).equal  # doctest: +SKIP
    (('a.zarr', 'c.zarr'), ('b.zarr',))
    """
    if len(runs) < _FEWEST:
        msg = f"at least {_FEWEST} runs are compared, and {len(runs)} given"
        raise UnknownNameError(msg)
    named = names or [name_of(run, f"run {number}") for number, run in enumerate(runs)]
    trees = [opened_side(run) for run in runs]
    partings: list[Parting] = []
    equal: list[tuple[str, ...]] = []
    unknown: list[str] = []
    waiting = [list(range(len(trees)))]
    while waiting:
        group = waiting.pop(0)
        found = {
            other: first_divergence(
                trees[group[0]],
                trees[other],
                kinds=kinds,
                names=(named[group[0]], named[other]),
            )
            for other in group[1:]
        }
        apart = {other: result for other, result in found.items() if result.place is not None}
        unknown += [named[n] for n, result in found.items() if result.verdict == "inconclusive"]
        if not apart:
            equal.append(tuple(named[n] for n in group if named[n] not in unknown))
            continue
        earliest = min(map(_step, apart.values()))
        leaving = [other for other, result in apart.items() if _step(result) == earliest]
        staying = [n for n in group if n not in leaving]
        first = apart[leaving[0]]
        assert first.place is not None
        partings.append(
            Parting(
                first.place,
                first.origin or "",
                tuple(named[n] for n in staying),
                tuple(named[n] for n in leaving),
            )
        )
        waiting += [staying, leaving]
    return ComparedRuns(
        tuple(named),
        tuple(partings),
        tuple(equal),
        tuple(dict.fromkeys(unknown)),
        tuple(_settings(trees)),
    )


def _step(found: Divergence) -> int:
    return -1 if found.place is None or found.place.step is None else found.place.step


def _settings(trees: "Sequence[xr.DataTree]") -> Iterator[Setting]:
    """Yield what is not configured alike in all runs."""
    flat: list[dict[str, str]] = []
    for tree in trees:
        attributes = trace_attributes(tree)
        optimizer = attributes.optimizer
        known = {
            "loss": attributes.loss,
            "optimizer": None if optimizer is None else optimizer.class_name,
        }
        config = {} if optimizer is None else optimizer.config
        parts = (("", known), ("optimizer.", config), ("environment.", attributes.environment))
        flat.append(
            {key: str(value) for prefix, part in parts for key, value in flattened(prefix, part)}
        )
    for name in sorted({key for settings in flat for key in settings}):
        values = tuple(settings.get(name, _ABSENT) for settings in flat)
        if len(set(values)) > 1:
            yield Setting(name, values)
