"""The weights of a run at one step against those of a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from steptrace_analyzer.differences.checkpoint_files import read_checkpoint
from steptrace_analyzer.differences.coverage import covered
from steptrace_analyzer.differences.elements import Tolerance
from steptrace_analyzer.differences.result import DiffResult, FirstDifference, Mismatch
from steptrace_analyzer.differences.table import compare_blocks
from steptrace_analyzer.trace.open import opened, trace_attributes
from steptrace_analyzer.trace.select import get_tensor, resolve_step, tensor_paths
from steptrace_schema.errors import DamagedTraceError, UnknownNameError
from steptrace_schema.names import ATTRIBUTES_KEY, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.checkpoint_files import StoredWeight
    from steptrace_analyzer.differences.divergence_result import Verdict
    from steptrace_analyzer.trace.open import TraceOrPath

    How = Literal["path", "layer", "order and shape", "given"]


_NOT_WEIGHTS: Final = frozenset({"optimizer", "seed_generator", "metrics", "_metrics"})
"""Groups of a Keras file whose arrays may have the shape of a weight, and are none."""


@dataclasses.dataclass(frozen=True)
class MatchedWeight:
    """A weight of the run and what it is in the checkpoint.

    Attributes
    ----------
    path
        In the run.
    stored
        In the file.
    how
        By its path, by the layer's name and the number of the variable, because the caller said so,
        or by order and shape.
    """

    path: str
    stored: StoredWeight
    how: How


def diff_checkpoint(
    trace: TraceOrPath,
    checkpoint: str | Path,
    *,
    step: int = -1,
    renamed: Mapping[str, str] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    ulp: int = 0,
) -> DiffResult:
    """Compare the weights of a run at one step with a checkpoint.

    Parameters
    ----------
    trace
        A trace, or its path.
    checkpoint
        A Keras ``.weights.h5`` or a safetensors file.
    step
        The step before which the weights are meant; -1 for those after the last step.
    renamed
        Path of a weight in the trace to its name in the file, with ``/`` between the parts.
    rtol, atol, ulp
        As in :func:`diff`.

    Returns
    -------
    DiffResult
        `not_compared` says what was matched by order and shape, and what only the file has.

    Raises
    ------
    NotATraceError
        If the file cannot be read.
    StepNotRecordedError
        If the weights at the step are not recorded.
    UnknownNameError
        If the trace has no weights, or `renamed` names what is not there.

    Examples
    --------
    >>> diff_checkpoint("run.zarr", "model.weights.h5").verdict  # doctest: +SKIP
    'equal'
    """
    tree = opened(trace)
    paths = tensor_paths(tree, "weights")
    if not paths:
        msg = f"{tree.name or 'the trace'} has no weights to compare with a checkpoint"
        raise UnknownNameError(msg)
    step = resolve_step(tree.children["weights"], step)
    stored = read_checkpoint(Path(checkpoint))
    shapes = {path: get_tensor(tree, "weights", path).shape[1:] for path in paths}
    matched = match_weights(_layers(tree), shapes, stored, dict(renamed or {}))
    tolerance = Tolerance(rtol, atol, ulp)
    compared = []
    notes: list[Mismatch] = []
    for each in matched:
        if each.how == "order and shape":
            found = f"matched with '{each.stored.name}' of the file by order and shape"
            notes.append(Mismatch(f"weights/{each.path}", found))
        damage: list[str] = []
        blocks = _row(tree, each, step, damage)
        result = compare_blocks("weights", each.path, blocks, tolerance, damage)
        notes += [Mismatch("damaged", text) for text in damage]
        compared += [] if damage else [result.diff]
    known = {each.path for each in matched}
    used = {each.stored.name for each in matched}
    name, file = f"{tree.name or 'trace'} step {step}", str(checkpoint)
    only = [Mismatch(f"weights/{p}", f"only in {name}") for p in paths if p not in known]
    rest = [weight.name for weight in stored if weight.name not in used]
    notes += [Mismatch(text, f"only in {file}") for text in rest]
    first = next((each for each in compared if each.differs), None)
    verdict: Verdict = "equal" if len(compared) == len(paths) else "inconclusive"
    return DiffResult(
        a=name,
        b=file,
        verdict=verdict if first is None else "differs",
        coverage=covered(len(compared), 0, len(paths), len(matched)),
        tensors=tuple(compared),
        mismatches=tuple(only),
        not_compared=tuple(notes),
        steps=(step,),
        first_difference=None if first is None else FirstDifference(None, first.kind, first.path),
    )


def _row(
    tree: xr.DataTree, each: MatchedWeight, step: int, damage: list[str]
) -> Iterator[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], None]]:
    try:
        row = np.asarray(get_tensor(tree, "weights", each.path).sel({STEP: step}))
    except DamagedTraceError as error:
        damage.append(str(error))
        return
    yield row, each.stored.values, None


def _layers(tree: xr.DataTree) -> dict[str, list[tuple[str, ...]]]:
    """Return the variables of the layers by the layer's name, in the order of the model."""
    found: dict[str, list[tuple[str, ...]]] = {}
    if ATTRIBUTES_KEY in tree.attrs:
        for layer in trace_attributes(tree).layers:
            found.setdefault(layer.name, []).append(layer.variables)
    return found


def match_weights(
    layers: Mapping[str, Sequence[tuple[str, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    stored: Sequence[StoredWeight],
    given: Mapping[str, str],
) -> list[MatchedWeight]:
    """Match weights of a run with arrays of a file, in the order of the run.

    Parameters
    ----------
    layers
        Name of a layer to the paths of its variables; several where layers share a name.
    shapes
        Path of each weight to its shape.
    stored
        What the file has.
    given
        Path to name in the file, as the caller said it.

    Raises
    ------
    UnknownNameError
        If `given` names what is not there.
    """
    by_name = {weight.name: weight for weight in stored}
    for path, name in given.items():
        if path not in shapes or name not in by_name:
            what = f"the run has no weight '{path}'" if path not in shapes else ""
            msg = what or f"the checkpoint has no array '{name}'"
            raise UnknownNameError(msg)
    found: dict[str, MatchedWeight] = {}
    free = {weight.name: weight for weight in stored}

    def take(path: str, weight: StoredWeight | None, how: How) -> None:
        fits = weight is not None and weight.values.shape == shapes.get(path)
        if weight is not None and fits and path not in found and weight.name in free:
            found[path] = MatchedWeight(path, free.pop(weight.name), how)

    for path, name in given.items():
        take(path, by_name[name], "given")
    for path in shapes:
        take(path, by_name.get(path), "path")
    for path in shapes:
        ends = [w for n, w in free.items() if path.endswith(f"/{n}") or n.endswith(f"/{path}")]
        take(path, ends[0] if len(ends) == 1 else None, "path")
    for weight in stored:
        own = layers.get(weight.layer or "", ())
        if len(own) == 1 and weight.index is not None and weight.index < len(own[0]):
            take(own[0][weight.index], weight, "layer")
    rest = [w for w in free.values() if not _NOT_WEIGHTS.intersection(w.name.split("/"))]
    for path in shapes:
        if path not in found:
            fitting = [w for w in rest if w.name in free and w.values.shape == shapes[path]]
            take(path, fitting[0] if fitting else None, "order and shape")
    return [found[path] for path in shapes if path in found]
