"""Where two runs part: the first step and tensor that differ, found by fingerprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.differences.elements import Tolerance
from steptrace_analyzer.differences.golden import fingerprint, is_fingerprint
from steptrace_analyzer.differences.search import Search
from steptrace_analyzer.differences.sides import known_kinds, name_of, opened_side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steptrace_analyzer.differences.divergence_result import Divergence
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind


def first_divergence(
    a: TraceOrPath,
    b: TraceOrPath,
    *,
    kinds: Sequence[Kind] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    ulp: int = 0,
    renamed: Mapping[str, str] | None = None,
    shift: int = 0,
    names: tuple[str, str] | None = None,
    values_compared: Mapping[tuple[Kind, str], int] | None = None,
) -> Divergence:
    """Find where two runs part: the first step, and in it the first tensor in order of execution.

    Digests of tensors are compared, in the order of steps; tensors are read at that one step.
    Traces of earlier formats have no digests. Their statistics are compared, and where these are
    all equal, the tensors.

    Parameters
    ----------
    a, b
        Traces, or their paths, or what :func:`fingerprint` returns or has written.
    kinds
        Kinds of data to compare; by default all. Wall-clock time and step duration never are.
    rtol, atol, ulp
        Elements within ``atol + rtol * max(|a|, |b|)``, or so many representable numbers, count as
        equal.
    renamed
        Path of a layer in `a` to its path in `b`. Layers are matched by path, and those that are
        left by class, shape and order.
    shift
        Step t of `a` is compared with step t + shift of `b`.
    names
        Names of the two in the result. By default their paths, or else their own names.
    values_compared
        At how many steps each tensor, as kind and path, was compared already, and all found equal:
        values are then not read where there are no digests.

    Returns
    -------
    Divergence
        With the verdict, the place, its origin in words, and what was compared.

    Raises
    ------
    UnknownNameError
        If there is no such kind, or `renamed` names a layer that is not there.

    Examples
    --------
    >>> first_divergence("a.zarr", "b.zarr").origin  # doctest: +SKIP
    "step 17, forward, activations/conv/output, unit 3: Conv2D 'conv': the input x, kernel and
    bias are equal; 31 of 7744 elements differ (0.4 %), by up to 0.0003 (212 ULP)"
    """
    name_a, name_b = names or (name_of(a, "a"), name_of(b, "b"))
    known = known_kinds(kinds)
    first, second = opened_side(a), opened_side(b)
    if is_fingerprint(first) != is_fingerprint(second):
        first, second = (
            side if is_fingerprint(side) else fingerprint(side) for side in (first, second)
        )
    search = Search(first, second, known, Tolerance(rtol, atol, ulp), renamed, shift)
    return search.run(name_a, name_b, values_compared=values_compared)
