"""Whether two runs differ by more than repeats of one run do."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from steptrace_analyzer.differences.fingerprints import CLOCK
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import format_steps, get_tensor, tensor_paths
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import STEP, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.trace.open import TraceOrPath

    _Rows = npt.NDArray[np.float64]

NOISY_KINDS: Final[tuple[Kind, ...]] = ("scalars", "weights", "gradients")
"""Compared by default: what does not depend on the order of the samples in a batch."""

FACTOR: Final = 3.0
"""How many times the largest distance between two repeats is still noise."""

_AHEAD: Final = 5
"""Steps by which the noise of one run may begin before that of the repeats."""

_ROUNDING: Final = 256
"""Units in the last place of a tensor's largest magnitude that are noise without any repeat."""

_BLOCK_BYTES: Final = 8 * 2**20
_FEWEST: Final = 2


@dataclasses.dataclass(frozen=True)
class NoiseResult:
    """Two runs against the distances between repeats."""

    a: str
    b: str
    verdict: Literal["equal", "within noise", "differs", "inconclusive"]
    step: int | None
    """The first step at which a tensor is farther apart than noise; of the largest ratio where
    there is none."""
    tensor: str | None
    """Kind and path of the tensor that is farthest in relation to its noise at that step."""
    ratio: float | None
    """Its distance over the largest distance between two repeats, up to five steps later."""
    tensors: int
    steps: str
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.verdict in ("equal", "inconclusive") or self.ratio is None:
            return f"{self.a} and {self.b}: {self.verdict}"
        often = "infinitely far, as repeats do not differ" if np.isinf(self.ratio) else ""
        often = often or f"{self.ratio:.2g} times as far apart as the repeats are at most"
        first = "first" if self.verdict == "differs" else "at most"
        return (
            f"{self.a} and {self.b}: {self.verdict}; {first} at step {self.step}, {self.tensor} is "
            f"{often}"
        )


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
    steps_seen: set[int] = set()
    ratios: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], str]] = []
    differs = False
    for kind in kinds:
        for path in tensor_paths(runs[0], kind):
            arrays = _common(runs, kind, path)
            if path in CLOCK or arrays is None:
                continue
            steps, distances, noise, is_large = _distances(arrays)
            if not len(steps):
                continue
            steps_seen.update(steps.tolist())
            differs |= bool((distances != 0).any())
            ratios.append((steps, _ratio(distances, noise, is_large), f"{kind}/{path}"))
    found = _worst(ratios, factor)
    if not ratios:
        verdict: Any = "inconclusive"
    elif found is not None and found[2] > factor:
        verdict = "differs"
    else:
        verdict = "within noise" if differs else "equal"
    step, tensor, ratio = found if found is not None else (None, None, None)
    return NoiseResult(
        *names,
        verdict,
        step,
        tensor,
        ratio,
        len(ratios),
        format_steps(sorted(steps_seen)),
        len(repeats),
    )


def _common(runs: "Sequence[xr.DataTree]", kind: Kind, path: str) -> "list[xr.DataArray] | None":
    """Return a tensor of every run, None where one has none of the shape."""
    if any(path not in tensor_paths(run, kind) for run in runs):
        return None
    arrays = [get_tensor(run, kind, path) for run in runs]
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1 or any(array.dims[:1] != (STEP,) for array in arrays):
        return None
    return arrays if all(array.dtype.kind == "f" for array in arrays) else None


def _distances(
    arrays: "Sequence[xr.DataArray]",
) -> "tuple[npt.NDArray[np.int64], _Rows, _Rows, npt.NDArray[np.bool_]]":
    """Return, by step, the distance of the first two, and the largest between two of the others.

    And whether the first two are farther apart than rounding makes them.
    """
    steps = np.asarray(arrays[0].coords[STEP])
    for array in arrays[1:]:
        steps = np.intersect1d(steps, np.asarray(array.coords[STEP]))
    apart, noise, large = np.zeros(len(steps)), np.zeros(len(steps)), np.zeros(len(steps), bool)
    for part in _blocks(arrays[0], len(steps)):
        labels = {STEP: steps[part]}
        rows = [np.asarray(x.sel(labels)).reshape(part.stop - part.start, -1) for x in arrays]
        apart[part] = _rms(rows[0], rows[1])
        large[part] = _is_large(rows[0], rows[1])
        for one, other in itertools.combinations(rows[2:], 2):
            noise[part] = np.fmax(noise[part], _rms(one, other))
    return steps, apart, noise, large


def _blocks(array: "xr.DataArray", count: int) -> Iterator[slice]:
    row = max(1, int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize)
    size = max(1, _BLOCK_BYTES // row)
    yield from (slice(start, min(start + size, count)) for start in range(0, count, size))


def _rms(a: "npt.NDArray[Any]", b: "npt.NDArray[Any]") -> "_Rows":
    """Return the root mean square of the difference of each row; infinite where only one is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = a.astype(np.float64) - b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference[same] = 0.0
        found = np.sqrt(np.mean(np.square(difference), axis=1))
    return np.where(np.isnan(found), np.inf, found)


def _is_large(a: "npt.NDArray[Any]", b: "npt.NDArray[Any]") -> "npt.NDArray[np.bool_]":
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.fmax(np.abs(a), np.abs(b)).max(axis=1, initial=0)
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(axis=1, initial=0)
        within = apart <= _ROUNDING * np.spacing(size.astype(a.dtype)).astype(np.float64)
    same = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    return np.asarray(~(within | same))


def _ratio(apart: "_Rows", noise: "_Rows", is_large: "npt.NDArray[np.bool_]") -> "_Rows":
    """Return distance over noise; the noise of a step is the largest so far, and a little later."""
    level = np.maximum.accumulate(noise)
    ahead = np.concatenate([level[_AHEAD:], np.full(min(_AHEAD, len(level)), level[-1])])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(apart > 0, apart / ahead, 0.0)
    return np.where(is_large, np.nan_to_num(found, nan=0.0, posinf=np.inf), 0.0)


def _worst(
    ratios: "Sequence[tuple[npt.NDArray[np.int64], _Rows, str]]", factor: float
) -> tuple[int, str, float] | None:
    """Return the first step beyond the factor and its worst tensor, else the worst of all."""
    beyond = [int(steps[row > factor][0]) for steps, row, _ in ratios if (row > factor).any()]
    first = min(beyond) if beyond else None
    best: tuple[int, str, float] | None = None
    for steps, row, name in ratios:
        chosen = row if first is None else np.where(steps == first, row, -1.0)
        at = int(np.argmax(chosen))
        if best is None or chosen[at] > best[2]:
            best = int(steps[at]), name, float(chosen[at])
    return best
