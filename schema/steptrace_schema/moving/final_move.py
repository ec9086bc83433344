"""Moving the weights that a model ends with from the journal into the store."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.format.attributes import FinalWeights
from steptrace_schema.format.layout import variable_dims
from steptrace_schema.journal.described_file import read_described
from steptrace_schema.journal.pending import FINAL_FILE
from steptrace_schema.moving.static_specs import static_specs
from steptrace_schema.names import FINAL, KEEP_BITS
from steptrace_schema.statistics.digests import row_digests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.store.writer import TraceWriter

_METADATA_BYTES = 8000  # of an array, and their copy in the root
_NO_ROOM = "they are not stored: the policy's limit has no room"
_RESTORED = "they are those before step {}, as where the best weights are restored"


def move_final(
    journal: Path, writer: TraceWriter, attributes: Callable[[], TraceAttributes]
) -> None:
    """Move the weights that a model ends with, where they are not those that the last step left.

    Call it when all records are moved: these weights may be those of an earlier step, which their
    digests show.

    Parameters
    ----------
    journal
        Folder of the journal.
    writer
        Writes the store.
    attributes
        Returns the latest root attributes.

    Raises
    ------
    DamagedTraceError
        If the file is damaged.
    """
    path = journal / FINAL_FILE
    if not path.exists():
        return
    final, arrays = read_described(path, FinalWeights)
    update: dict[str, Any] = {}
    same_as = _same_as(writer, arrays)
    if same_as is not None:
        update["same_as"] = same_as
        if final.cause == "other":
            update |= {"cause": "restored", "reason": _RESTORED.format(same_as)}
    try:
        _refuse_large(writer, arrays)
        for name, spec in final_specs(arrays).items():
            bits = writer.keep_bits(f"weights/{name}")  # of what it is compared with
            attributes_of = {} if bits is None else {KEEP_BITS: bits}
            writer.write_whole(dataclasses.replace(spec, attributes=attributes_of), arrays[name])
    except DiskLimitError:
        update |= {"arrays": (), "nbytes": 0, "not_kept": _NO_ROOM}
    final = final.model_copy(update=update)
    writer.commit(attributes().model_copy(update={"final": final}))
    path.unlink()


def final_specs(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, ArraySpec]:
    """Return where the weights that a model ends with are in the store, by their path.

    Examples
    --------
    >>> [(s.key, s.dims) for s in final_specs({"dense/bias": np.zeros(2)}).values()]
    [('final/dense/bias', ('out',))]
    """
    return static_specs(FINAL, arrays, lambda _, rank: variable_dims(rank))


def _same_as(writer: TraceWriter, arrays: Mapping[str, npt.NDArray[Any]]) -> int | None:
    """Return the last step before which the weights were the same, None where there is none.

    A weight that differs has to be the same as before that step; of others nothing is asked.
    """
    described = writer.read_digests("weights") if arrays else None
    if described is None or not set(arrays) <= set(described[0]):
        return None
    tensors, steps, digests = described
    columns = [tensors.index(path) for path in arrays]
    wanted = [row_digests(array[np.newaxis])[0] for array in arrays.values()]
    (same,) = np.nonzero((digests[:, columns] == np.array(wanted)).all(axis=1))
    return int(steps[same[-1]]) if len(same) else None


def _refuse_large(writer: TraceWriter, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise where a limited store has no room."""
    if writer.room is None:
        return
    size = sum(values.nbytes for values in arrays.values()) + _METADATA_BYTES * len(arrays)
    if size > writer.room.left // 2:
        raise DiskLimitError(_NO_ROOM)
