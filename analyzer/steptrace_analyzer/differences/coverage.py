"""What share of what two runs declare could be compared."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import TYPE_CHECKING

from steptrace_analyzer.differences.fingerprints import CLOCK
from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.names import KINDS, STEP

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from steptrace_analyzer.differences.pairs import Pairs
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import Kind


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What was compared, as tensors times steps."""

    by_digest: int
    """By digests or by the values themselves."""
    by_statistics: int
    """By statistics alone, which are equal if the tensors are, and not the other way round."""
    declared: int
    """What either run declares to have, up to the last step that was compared. A tensor that has no
    value at a step in either run is not counted there."""
    tensors: int
    """Tensors that both have."""
    share: float
    """Share of what is declared that was compared."""

    def __str__(self) -> str:
        """Say it in a clause."""
        percent = 100 * self.share
        shown = f"{percent:.0f}" if percent in (0, 100) or 1 <= percent <= 99 else f"{percent:.3g}"
        weak = f", {self.by_statistics} of them by statistics alone" if self.by_statistics else ""
        return f"compared {shown} % of what is declared{weak}"


def covered(by_digest: int, by_statistics: int, declared: int, tensors: int) -> Coverage:
    """Return how much was compared."""
    share = min(1.0, (by_digest + by_statistics) / declared) if declared > 0 else 0.0
    return Coverage(by_digest, by_statistics, max(declared, 0), tensors, share)


def declared_count(
    pairs: "Pairs",
    attributes: "tuple[TraceAttributes, TraceAttributes]",
    kinds: "Collection[Kind] | None",
    last: int | None,
) -> int:
    """Count the tensors times steps that either of two runs declares.

    Parameters
    ----------
    pairs
        What both have.
    attributes
        The root attributes of both.
    kinds
        The kinds that are compared, None for all.
    last
        The last step that was compared, in the first run; None for all steps.
    """
    steps = {kind: pairs.steps(kind) for kind in KINDS}
    any_step = set().union(*steps.values())
    count = 0
    for kind in KINDS:
        if kinds is not None and kind not in kinds:
            continue
        names = _declared(pairs, kind, attributes)
        if kind == "probe":  # a fingerprint has nothing of arrays without steps
            names -= {p for p in names if "/" not in p and not _is_there(pairs, kind, p)}
        static = {path for path in names if _is_static(pairs, kind, path)}
        # A kind of which nothing is there was to be recorded at the steps of the others.
        own = steps[kind] or any_step
        rows = len(own) if last is None else sum(step <= last for step in own)
        count += (len(names) - len(static)) * rows + len(static)
    return count


def _declared(
    pairs: "Pairs", kind: "Kind", attributes: "tuple[TraceAttributes, TraceAttributes]"
) -> set[str]:
    """Return the tensors of a kind that either run declares or has, as the first names them."""
    in_b: Mapping[str, str] = pairs.in_b.get(kind, {})
    in_a = {theirs: ours for ours, theirs in in_b.items()}
    ours, theirs = (set(side.declared.get(kind, ())) for side in attributes)
    if kind in pairs.present:
        ours |= set(pairs.present[kind][0].paths)
        theirs |= set(pairs.present[kind][1].paths)
    back = pairs.matching.in_a
    found = ours | {in_a.get(path, back(path)) for path in theirs}
    return found - CLOCK if kind == "scalars" else found


def _is_there(pairs: "Pairs", kind: "Kind", path: str) -> bool:
    theirs = pairs.matching.in_b(path)
    return has_tensor(pairs.a, kind, path) or has_tensor(pairs.b, kind, theirs)


def _is_static(pairs: "Pairs", kind: "Kind", path: str) -> bool:
    for side, name in ((pairs.a, path), (pairs.b, pairs.matching.in_b(path))):
        if has_tensor(side, kind, name):
            return STEP not in get_tensor(side, kind, name).dims
    return False
