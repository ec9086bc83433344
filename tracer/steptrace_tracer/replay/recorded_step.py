"""A recorded step with all that running it again needs, read from a trace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import StepNotRecordedError
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.names import INCIDENTS, LOSS, SAMPLE_WEIGHT, STEP, X_GRADIENT, X, Y
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.store.stored_array import StoredArray, read_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from steptrace_schema.format.attributes import Incident, TraceAttributes
    from steptrace_schema.storage.location import Location


@dataclasses.dataclass(frozen=True)
class RecordedStep:
    """A step of a trace.

    Attributes
    ----------
    attributes
        Those of the trace.
    step
        Its number.
    incident
        Why it was kept as a whole; None for one of which the policy kept everything.
    arrays
        Path to array: ``inputs/...``, ``weights/...``, ``optimizer/...``, ``state/...``, and what
        the step gave, ``gradients/...`` and ``scalars/loss``.
    lacks
        What is not recorded, each a sentence.
    """

    attributes: TraceAttributes
    step: int
    incident: Incident | None
    arrays: Mapping[str, npt.NDArray[Any]]
    lacks: tuple[str, ...]

    @property
    def gave(self) -> dict[str, npt.NDArray[Any]]:
        """What the step gave: its gradients, and its loss."""
        return _gave(self.arrays)

    @classmethod
    def read(cls, path: Location, step: int) -> RecordedStep:
        """Read a step.

        Raises
        ------
        StepNotRecordedError
            If it was not kept as a whole, and the policy left out what running it again needs.
        """
        attributes = read_attributes(path)
        if JournalReader(journal_path(path)).exists:
            msg = f"{path} is not finished; wait for its run, or run 'steptrace recover {path}'"
            raise StepNotRecordedError(msg)
        stored = read_arrays(path)
        incident = next((kept for kept in attributes.incidents if kept.step == step), None)
        if incident is None:
            return _of_policy(path, attributes, stored, step)
        arrays = {name: _whole(stored[f"{INCIDENTS}/{step}/{name}"]) for name in incident.arrays}
        later = _gave(_rows(attributes, stored, step, ("gradients", "scalars")))
        return cls(attributes, step, incident, {**later, **arrays}, incident.not_kept)


def _gave(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {
        key: values
        for key, values in arrays.items()
        if key.startswith("gradients/") or key == f"scalars/{LOSS}"
    }


def _of_policy(
    path: Location, attributes: TraceAttributes, stored: Mapping[str, StoredArray], step: int
) -> RecordedStep:
    """Return a step of which the policy kept the whole batch and all variables."""
    kinds = ("weights", "optimizer", "inputs", "gradients", "scalars")
    rows = _rows(attributes, stored, step, kinds)
    kept = ", ".join(str(incident.step) for incident in attributes.incidents) or "none"
    advice = f"steps that are kept as a whole: {kept}; Tracer.mark() keeps the present one"
    size = rows.get("scalars/batch_size")
    if size is None:
        msg = f"{path}: step {step} is not recorded; {advice}"
        raise StepNotRecordedError(msg)
    inputs = {
        key: values[: int(size)]
        for key, values in rows.items()
        if key.startswith("inputs/") and _is_batch(key.removeprefix("inputs/"))
    }
    weights = {key: values for key, values in rows.items() if key.startswith("weights/")}
    is_whole = bool(inputs) and all(len(values) == int(size) for values in inputs.values())
    if not is_whole or not weights or attributes.policy.precision:
        msg = (
            f"{path}: of step {step} not everything is recorded that running it again takes, which "
            f"is every row of the batch and all weights, exactly; {advice}"
        )
        raise StepNotRecordedError(msg)
    lacks = []
    slots = {key: values for key, values in rows.items() if key.startswith("optimizer/")}
    if not slots:
        lacks.append("what the optimizer remembers is not recorded; add the kind 'optimizer'")
    arrays = {**inputs, **weights, **slots, **_gave(rows)}
    return RecordedStep(attributes, step, None, arrays, tuple(lacks))


def _is_batch(name: str) -> bool:
    """Whether an array of `inputs` is a part of the batch."""
    if name in (X, Y, SAMPLE_WEIGHT):
        return True
    return name.startswith((f"{X}_", f"{Y}_")) and not name.startswith(X_GRADIENT)


def _whole(array: StoredArray) -> npt.NDArray[Any]:
    return array.read(tuple(slice(0, extent) for extent in array.shape))


def _rows(
    attributes: TraceAttributes,
    stored: Mapping[str, StoredArray],
    step: int,
    kinds: tuple[str, ...],
) -> dict[str, npt.NDArray[Any]]:
    """Return what is recorded of a step, ``kind/path`` to array."""
    found: dict[str, npt.NDArray[Any]] = {}
    for kind in kinds:
        coordinate = stored.get(f"{kind}/{STEP}")
        if coordinate is None:
            continue
        steps = coordinate.read_rows(attributes.rows(kind))
        (places,) = np.nonzero(steps == step)
        if not len(places):
            continue
        row = int(places[0])
        for key, array in stored.items():
            dims = array.metadata.dims or ()
            if key.startswith(f"{kind}/") and dims[:1] == (STEP,) and key != f"{kind}/{STEP}":
                part = (slice(row, row + 1), *(slice(0, n) for n in array.shape[1:]))
                found[key] = array.read(part)[0]
    return found
