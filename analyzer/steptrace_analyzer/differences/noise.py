"""Whether two runs differ by more than repeats of one run do."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from steptrace_analyzer.differences.distances import (
    common_arrays,
    distances_of,
    ratio_of,
    worst_of,
)
from steptrace_analyzer.differences.fingerprints import CLOCK
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import format_steps, tensor_paths
from steptrace_schema.errors import DamagedTraceError, UnknownNameError
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_analyzer.differences.distances import Ratios
    from steptrace_analyzer.trace.open import TraceOrPath


NOISY_KINDS: Final[tuple[Kind, ...]] = ("scalars", "weights", "gradients")
"""Compared by default: what does not depend on the order of the samples in a batch."""

FACTOR: Final = 3.0
"""How many times the largest distance between two repeats is still noise."""

ROUNDING_FACTOR: Final = 10.0
"""How many times the distance that one change by rounding makes is still noise."""

Basis = Literal["repeats", "rounding", "reference"]

_FEWEST: Final = 2


@dataclasses.dataclass(frozen=True)
class NoiseResult:
    """Two runs against distances that are normal."""

    a: str
    b: str
    basis: Basis
    """What the distances are: between repeats of a run; between the first run and one whose inputs
    were changed by rounding; or to a run of higher precision."""
    verdict: Literal["equal", "within noise", "differs", "inconclusive"]
    step: int | None
    """The first step at which a tensor is farther apart than noise; of the largest ratio where
    there is none."""
    tensor: str | None
    """Kind and path of the tensor that is farthest in relation to its noise at that step."""
    ratio: float | None
    """Its distance over the largest that is normal, up to five steps later. For a reference: the
    larger of both distances to it over the other."""
    farther: str | None
    """Which of the two is farther from the reference at that step; None without a reference."""
    tensors: int
    steps: str
    repeats: int
    """How many runs the distances were learned from."""
    not_compared: tuple[str, ...]
    """What could not be read, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields

    def __str__(self) -> str:
        """Say it in one sentence."""
        both = f"{self.a} and {self.b}: {self.verdict}"
        if self.verdict in ("equal", "inconclusive") or self.ratio is None or self.step is None:
            return both
        if not self.ratio:
            return f"{both}; nothing is farther apart than rounding alone may make it"
        first = "first" if self.verdict == "differs" else "at most"
        where = f"{both}; {first} at step {self.step}, {self.tensor} is"
        times = f"{self.ratio:.2g} times as far"
        if self.basis == "reference":
            if np.isinf(self.ratio):
                times = "infinitely farther"
            return f"{where} {times} from the reference in {self.farther} as in the other"
        if self.basis == "rounding":
            often = "infinitely far, as rounding changed nothing" if np.isinf(self.ratio) else ""
            return f"{where} {often or f'{times} apart as a change by rounding makes it'}"
        often = "infinitely far, as repeats do not differ" if np.isinf(self.ratio) else ""
        return f"{where} {often or f'{times} apart as the repeats are at most'}"


def compare_with_noise(
    a: "TraceOrPath",
    b: "TraceOrPath",
    repeats: "Sequence[TraceOrPath]",
    *,
    kinds: Sequence[Kind] = NOISY_KINDS,
    factor: float = FACTOR,
    names: tuple[str, str] = ("a", "b"),
) -> NoiseResult:
    """Compare two runs by the distances that repeats of one run have from each other.

    The distance of two tensors is the root mean square of their difference. It is noise where it is
    at most `factor` times the largest distance between two repeats at any step up to five later, or
    rounding alone may have made it: at most 256 units in the last place of the largest magnitude.

    Parameters
    ----------
    a, b
        Traces, or their paths.
    repeats
        At least two traces of runs that should be equal and are not: the same program, data and
        seed, where threads or devices add in another order.
    kinds
        Kinds to compare.
    factor
        How many times the largest distance is still noise.
    names
        Names of the two in the result.

    Returns
    -------
    NoiseResult
        With the verdict, and where the two are farthest apart in relation to the noise.

    Raises
    ------
    UnknownNameError
        If there are fewer than two repeats.

    Examples
    --------
    >>> compare_with_noise("a.zarr", "b.zarr", ["r1.zarr", "r2.zarr", "r3.zarr"])  # doctest: +SKIP
    """
    if len(repeats) < _FEWEST:
        msg = f"noise is learned from at least {_FEWEST} repeats of a run, and {len(repeats)} given"
        raise UnknownNameError(msg)
    runs = [opened(run) for run in (a, b, *repeats)]
    pairs = tuple(itertools.combinations(range(2, len(runs)), 2))
    return _compared(runs, "repeats", pairs, kinds, factor, names)


def compare_with_rounding(
    a: "TraceOrPath",
    b: "TraceOrPath",
    changed: "TraceOrPath",
    *,
    kinds: Sequence[Kind] = NOISY_KINDS,
    factor: float = ROUNDING_FACTOR,
    names: tuple[str, str] = ("a", "b"),
) -> NoiseResult:
    """Compare two runs by how far a change of the inputs by one representable number moves one.

    Like :func:`compare_with_noise`, with the distance between `a` and `changed` as the noise. One
    run shows less of it than repeats do, so `factor` is larger.

    Parameters
    ----------
    a, b
        Traces, or their paths.
    changed
        The program of `a`, as ``steptrace perturb`` has recorded it.
    kinds, factor, names
        As in :func:`compare_with_noise`.

    Examples
    --------
    >>> compare_with_rounding("a.zarr", "b.zarr", "perturbed.zarr").verdict  # doctest: +SKIP
    'within noise'
    """
    runs = [opened(run) for run in (a, b, changed)]
    return _compared(runs, "rounding", ((0, 2),), kinds, factor, names)


def compare_with_reference(
    a: "TraceOrPath",
    b: "TraceOrPath",
    reference: "TraceOrPath",
    *,
    kinds: Sequence[Kind] = NOISY_KINDS,
    factor: float = FACTOR,
    names: tuple[str, str] = ("a", "b"),
) -> NoiseResult:
    """Compare two runs by their distances to a third one of higher precision.

    Both are taken for equally good where neither is more than `factor` times as far from the
    reference as the other, at any step up to five later.

    Parameters
    ----------
    a, b
        Traces, or their paths.
    reference
        The same training in higher precision.
    kinds, factor, names
        As in :func:`compare_with_noise`.

    Examples
    --------
    >>> compare_with_reference("a.zarr", "b.zarr", "float64.zarr").farther  # doctest: +SKIP
    'b.zarr'
    """
    runs = [opened(run) for run in (a, b, reference)]
    return _compared(runs, "reference", ((0, 2),), kinds, factor, names)


def _compared(
    runs: "Sequence[xr.DataTree]",
    basis: Basis,
    pairs: Sequence[tuple[int, int]],
    kinds: Sequence[Kind],
    factor: float,
    names: tuple[str, str],
) -> NoiseResult:
    """Compare the first two runs, or the second with the third, by the distances of `pairs`."""
    tested = (1, 2) if basis == "reference" else (0, 1)
    steps_seen: set[int] = set()
    ratios: list[Ratios] = []
    damage: list[str] = []
    differs = False
    for kind in kinds:
        for path in tensor_paths(runs[0], kind):
            arrays = common_arrays(runs, kind, path)
            if path in CLOCK or arrays is None:
                continue
            try:
                found = distances_of(arrays, tested, pairs)
            except DamagedTraceError as error:
                damage.append(str(error))
                continue
            if not len(found.steps):
                continue
            steps_seen.update(found.steps.tolist())
            differs |= found.differ
            name = f"{kind}/{path}"
            ratio = ratio_of(found.apart, found.noise, found.is_large)
            ratios.append((found.steps, ratio, name, names[1]))
            if basis == "reference":
                back = ratio_of(found.noise, found.apart, found.is_large)
                ratios.append((found.steps, back, name, names[0]))
    worst = worst_of(ratios, factor)
    verdict: Any = "within noise" if differs else "equal"
    if worst is not None and worst[2] > factor:
        verdict = "differs"
    elif not ratios or damage:
        verdict = "inconclusive"
    step, tensor, largest, farther = worst if worst is not None else (None, None, None, None)
    return NoiseResult(
        a=names[0],
        b=names[1],
        basis=basis,
        verdict=verdict,
        step=step,
        tensor=tensor,
        ratio=largest,
        farther=farther if basis == "reference" and largest else None,
        tensors=len({name for _, _, name, _ in ratios}),
        steps=format_steps(sorted(steps_seen)),
        repeats=len(runs) - 2,
        not_compared=tuple(dict.fromkeys(damage)),
    )


def noise_of(
    a: "TraceOrPath",
    b: "TraceOrPath",
    repeats: "Sequence[TraceOrPath]",
    rounding: "TraceOrPath | None",
    reference: "TraceOrPath | None",
    *,
    kinds: Sequence[Kind] | None,
    names: tuple[str, str],
) -> NoiseResult | None:
    """Compare two runs by the one thing that shows what is normal; None where none is given.

    Raises
    ------
    UnknownNameError
        If more than one is given.
    """
    given = (len(repeats) > 0) + (rounding is not None) + (reference is not None)
    if given > 1:
        msg = "give repeats, a run changed by rounding, or a reference: only one of them"
        raise UnknownNameError(msg)
    chosen = NOISY_KINDS if kinds is None else kinds
    if rounding is not None:
        return compare_with_rounding(a, b, rounding, kinds=chosen, names=names)
    if reference is not None:
        return compare_with_reference(a, b, reference, kinds=chosen, names=names)
    if not repeats:
        return None
    return compare_with_noise(a, b, repeats, kinds=chosen, names=names)
