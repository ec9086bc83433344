"""What explains that two runs part, before any number does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.format.attributes import RESUMED
from steptrace_schema.names import SAMPLE_DIGEST, STEP
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.matching import Matching
    from steptrace_schema.format.attributes import TraceAttributes

_MACHINE: Final = frozenset({"platform", "cpu_count", "gpus"})
_MOST_STEPS: Final = 4096
_MOST_NAMED: Final = 6
_FEWEST_VALUES: Final = 8
"""Different numbers that show a precision: a few may have zeros in their last bits by chance."""
_MOST_VALUES: Final = 2**16
_LOWER_HALF: Final = np.uint32(0xFFFF)


def recognised_settings(
    a: TraceAttributes, b: TraceAttributes, matching: Matching
) -> Iterator[str]:
    """Yield what the descriptions of two runs say: configuration, versions, hardware, model.

    Parameters
    ----------
    a, b
        The root attributes of both.
    matching
        How their layers were matched.
    """
    if a.version != b.version:
        yield f"other format of the trace: {a.version} and {b.version}"
    if a.optimizer is not None and b.optimizer is not None:
        if a.optimizer.class_name != b.optimizer.class_name:
            yield f"other optimizer: {a.optimizer.class_name} and {b.optimizer.class_name}"
        yield from _changes(
            "other hyper-parameters of the optimizer", a.optimizer.config, b.optimizer.config
        )
    if a.loss != b.loss:
        yield f"other loss: {a.loss} and {b.loss}"
    (versions_a, machine_a), (versions_b, machine_b) = map(_split, (a.environment, b.environment))
    yield from _changes("other versions or script", versions_a, versions_b)
    yield from _changes("other hardware or system", machine_a, machine_b)
    if a.layers and len(matching.only_a) == len(a.layers) and b.layers:
        yield "other model: the two have no layer in common, so nothing follows from what differs"
    if matching.renamed:
        pairs = [f"{m.a} is {m.b}" for m in matching.renamed]
        yield f"renamed layers, matched in order: {_listed(pairs)}"
    for only, which in ((matching.only_a, "first"), (matching.only_b, "second")):
        if only:
            yield f"other model: only the {which} run has {_listed(only)}"
    for attributes, which in ((a, "first"), (b, "second")):
        for event in attributes.events:
            if event.message.startswith(RESUMED):
                yield f"the {which} run was resumed at step {event.step}"


def _split(environment: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    machine = {key: value for key, value in environment.items() if key in _MACHINE}
    return {k: v for k, v in environment.items() if k not in _MACHINE}, machine


def _changes(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    flat_a, flat_b = dict(flattened("", a)), dict(flattened("", b))
    found = [
        f"{key} {flat_a.get(key, 'absent')} and {flat_b.get(key, 'absent')}"
        for key in sorted({*flat_a, *flat_b})
        if key != "name" and flat_a.get(key, "absent") != flat_b.get(key, "absent")
    ]
    if found:
        yield f"{what}: {_listed(found)}"


def flattened(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every value of nested settings, with the names on the way to it after `prefix`."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flattened(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _listed(texts: Any) -> str:
    shown = [str(text) for text in texts]
    more = len(shown) - _MOST_NAMED
    return ", ".join(shown[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def recognised_batch(a: xr.DataTree, b: xr.DataTree, step: int, shift: int) -> str | None:
    """Return what the digests of samples say of a batch that differs; None where they are absent.

    Parameters
    ----------
    a, b
        Both traces.
    step
        The step, in the first.
    shift
        What is added to it for that of the second.
    """
    if not all(has_tensor(trace, "inputs", SAMPLE_DIGEST) for trace in (a, b)):
        return None
    digests_a, digests_b = (get_tensor(trace, "inputs", SAMPLE_DIGEST) for trace in (a, b))
    steps_a, steps_b = (np.asarray(d.coords[STEP]) for d in (digests_a, digests_b))
    if step not in steps_a or step + shift not in steps_b:
        return None
    ours = _samples(np.asarray(digests_a.sel({STEP: step})))
    theirs = _samples(np.asarray(digests_b.sel({STEP: step + shift})))
    if np.array_equal(ours, theirs):
        return None
    if np.array_equal(np.sort(ours), np.sort(theirs)):
        return f"other order: the batch of step {step} has the same samples in another order"
    known = np.asarray(digests_b[:_MOST_STEPS])
    width = len(ours)
    same = (
        [int(s) for s, row in zip(steps_b, known, strict=False) if _is(row, ours)]
        if width <= known.shape[1]
        else []
    )
    if same:
        return (
            f"other order: the batch of step {step} of the first run is that of step {same[0]} of "
            "the second"
        )
    missing = int((~np.isin(ours, theirs)).sum())
    if missing < width:
        return f"other samples: {missing} of the {width} samples of step {step} differ"
    # A pass over the data in another order has the same samples, at other steps.
    share = float(np.isin(ours, known).mean())
    if share == 1:
        return (
            f"other order: all samples of step {step} of the first run are in batches of the "
            "second, at other steps"
        )
    return f"other data: none of the {width} samples of step {step} is in the second run's batch"


def recognised_precision(name: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> str | None:
    """Return in which precision two runs computed a tensor, None where it is the same or unknown.

    Numbers that were computed, or recorded, in fewer bits have zeros in their last ones.

    Parameters
    ----------
    name
        Of the tensor.
    a, b
        Its values in both.

    Examples
    --------
    >>> values = np.linspace(0.1, 1, 20, dtype=np.float32)
    >>> recognised_precision("a/output", values, values.astype(np.float16).astype(np.float32))
    'other precision: a/output has numbers of float32 in the first run, of float16 in the second'
    """
    first, second = _precision(a), _precision(b)
    if first is None or second is None or first == second:
        return None
    return (
        f"other precision: {name} has numbers of {first} in the first run, of {second} in the "
        "second"
    )


def _precision(values: npt.NDArray[Any]) -> str | None:
    """Return the narrowest type that holds the first values; None where there are too few."""
    if values.dtype.kind != "f":
        return None
    some = values.reshape(-1)[:_MOST_VALUES]
    known = np.unique(some[np.isfinite(some) & (some != 0)])
    if len(known) < _FEWEST_VALUES:
        return None
    wide = known.astype(np.float64)
    with np.errstate(over="ignore"):
        single, half = wide.astype(np.float32), wide.astype(np.float16)
    # First bfloat16: of usual size, its numbers are numbers of float16 too, which has more bits.
    if (single.astype(np.float64) == wide).all():
        if not (single.view(np.uint32) & _LOWER_HALF).any():
            return "bfloat16"
        return "float16" if (half.astype(np.float64) == wide).all() else "float32"
    return "float64"


def _is(row: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> bool:
    return bool(np.array_equal(_samples(row), samples))


def _samples(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(row[row != UNKNOWN_DIGEST])
