"""What a trace was to hold against what it holds, by kind and layer."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Final

from steptrace_schema.names import KINDS, Kind
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate.files import files_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.storage.location import Location

_METADATA: Final = "/zarr.json"


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How many tensors of one layer and kind were declared, and what became of them.

    Attributes
    ----------
    kind, layer
        The kind, and the path of the layer; ``""`` for what belongs to no layer.
    declared
        Tensors that the policy covers.
    recorded
        Those that have data.
    explained
        Those that have none, with the reason in the trace.
    """

    kind: Kind
    layer: str
    declared: int
    recorded: int
    explained: int

    @property
    def unexplained(self) -> int:
        """Tensors that have neither data nor a reason."""
        return self.declared - self.recorded - self.explained


def coverage(attributes: TraceAttributes, arrays: Collection[str]) -> tuple[Coverage, ...]:
    """Return what became of everything that a trace declares.

    Parameters
    ----------
    attributes
        Root attributes of the trace.
    arrays
        ``kind/path`` of the arrays that have data.

    Returns
    -------
    tuple of Coverage
        One for each kind and layer, in the order of the kinds, then of the declaration.

    Examples
    --------
    >>> coverage(attributes, {"weights/dense/kernel"})[0].recorded  # doctest: +SKIP
    1
    """
    layers = {layer.path for layer in attributes.layers}
    reasons = {(m.kind, m.path) for m in attributes.missing if m.reason and m.steps is None}
    declared: Counter[tuple[Kind, str]] = Counter()
    recorded: Counter[tuple[Kind, str]] = Counter()
    explained: Counter[tuple[Kind, str]] = Counter()
    for kind in KINDS:
        for path in attributes.declared.get(kind, ()):
            place = kind, _layer(path, layers)
            declared[place] += 1
            if f"{kind}/{path}" in arrays:
                recorded[place] += 1
            elif (kind, path) in reasons:
                explained[place] += 1
    return tuple(
        Coverage(*place, count, recorded[place], explained[place])
        for place, count in declared.items()
    )


def stored_coverage(path: Location) -> tuple[Coverage, ...]:
    """Return what became of everything that the trace at `path` declares.

    Raises
    ------
    NotATraceError
        If there is no trace.

    Examples
    --------
    >>> summarize(stored_coverage(locate("run.zarr")))  # doctest: +SKIP
    '58 of 60 declared tensors recorded, 2 missing with a reason'
    """
    attributes = read_attributes(path)
    # What is there itself: consolidated metadata says what was.
    arrays = {name.removesuffix(_METADATA) for name in files_of(path) if name.endswith(_METADATA)}
    return coverage(attributes, arrays)


def summarize(found: Iterable[Coverage]) -> str:
    """Return the totals as part of a sentence.

    Examples
    --------
    >>> summarize([Coverage("weights", "dense", 3, 2, 1)])
    '2 of 3 declared tensors recorded, 1 missing with a reason'
    """
    rows = list(found)
    declared, recorded, explained = (
        sum(getattr(row, name) for row in rows) for name in ("declared", "recorded", "explained")
    )
    text = f"{recorded} of {declared} declared tensors recorded"
    if explained:
        text += f", {explained} missing with a reason"
    if rest := declared - recorded - explained:
        text += f", {rest} missing without one"
    return text


def _layer(path: str, layers: Collection[str]) -> str:
    """Return the innermost layer that the tensor at `path` belongs to."""
    owner = path
    while owner := owner.rpartition("/")[0]:
        if owner in layers:
            return owner
    return ""
