"""Moving steps that are kept as a whole from the journal into the store."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.format.attributes import Event, Incident
from steptrace_schema.format.layout import feature_dims, variable_dims
from steptrace_schema.journal.described_file import incident_paths, read_described
from steptrace_schema.moving.static_specs import static_specs
from steptrace_schema.names import BATCH, INCIDENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.store.writer import TraceWriter

_SHARE: Final = 8  # so many parts of a limited store, one of which is for these steps
_METADATA_BYTES: Final = 8000  # of an array, and their copy in the root
_NO_ROOM: Final = "what broke at this step is not kept as a whole: the policy's limit has no room"


def move_incidents(
    journal: Path, writer: TraceWriter, attributes: Callable[[], TraceAttributes]
) -> None:
    """Move all steps that are kept as a whole into the store.

    Each is committed by itself, and then its file is deleted. After a crash in between it is moved
    once more, and its arrays are written over.

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
        If a file is damaged.
    """
    for path in incident_paths(journal):
        incident, arrays = read_described(path, Incident)
        latest = attributes()
        try:
            _refuse_large(writer, latest, incident)
            for name, spec in incident_specs(incident.step, arrays).items():
                writer.write_whole(spec, arrays[name])
        except DiskLimitError:
            update: dict[str, Any] = {"events": (*latest.events, _event(incident.step))}
        else:
            others = (kept for kept in latest.incidents if kept.step != incident.step)
            update = {"incidents": (*others, incident)}
        writer.commit(latest.model_copy(update=update))
        path.unlink()


def incident_specs(step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, ArraySpec]:
    """Return where the arrays of a step that is kept as a whole are in the store, by their path.

    Examples
    --------
    >>> import numpy as np
    >>> [(s.key, s.dims) for s in incident_specs(60, {"weights/dense/bias": np.zeros(2)}).values()]
    [('incidents/60/weights/dense/bias', ('out',))]
    """
    return static_specs(INCIDENTS, arrays, _dims, f"{step}/")


def _dims(name: str, rank: int) -> tuple[str, ...]:
    head = name.partition("/")[0]
    if head == "inputs":
        return (BATCH, *feature_dims(rank - 1)) if rank else ()
    if head in ("weights", "gradients", "optimizer"):
        return variable_dims(rank)
    return tuple(f"axis_{i}" for i in range(1, rank + 1))


def _refuse_large(writer: TraceWriter, attributes: TraceAttributes, incident: Incident) -> None:
    """Raise where a limited store would lose the room that its steps need."""
    room = writer.room
    if room is None:
        return
    size = incident.nbytes + _METADATA_BYTES * len(incident.arrays)
    taken = sum(kept.nbytes + _METADATA_BYTES * len(kept.arrays) for kept in attributes.incidents)
    if taken + size > room.limit // _SHARE or size > room.left // 2:
        raise DiskLimitError(_NO_ROOM)


def _event(step: int) -> Event:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Event(time=now, message=_NO_ROOM, step=step)
