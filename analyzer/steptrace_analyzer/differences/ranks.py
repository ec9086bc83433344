"""Whether the processes of one distributed run hold the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.differences.many import ComparedRuns, compare_runs
from steptrace_schema.errors import NotATraceError
from steptrace_schema.storage.location import locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_schema.names import Kind
    from steptrace_schema.storage.location import Location

RANK_KINDS: Final[tuple[Kind, ...]] = ("weights", "optimizer")
"""What is the same in every process of a run that trains one model on several parts of a batch."""

_WORKER: Final = re.compile(r"worker-(\d+)\.zarr(\.zip)?")


def compare_ranks(folder: str | Location, *, kinds: Sequence[Kind] = RANK_KINDS) -> ComparedRuns:
    """Compare what the processes of one run have recorded, each in a trace of its own.

    Parameters
    ----------
    folder
        With the traces ``worker-<rank>.zarr``, as the tracer writes them.
    kinds
        What is to be the same in all: by default weights and the optimizer's state. Batches,
        activations and gradients are each process's own.

    Returns
    -------
    ComparedRuns
        The ranks in groups of equal ones, and where the groups part.

    Raises
    ------
    NotATraceError
        If there are fewer than two such traces.

    Examples
    --------
    >>> compare_ranks("run.zarr").equal  # doctest: +SKIP
    (('rank 0', 'rank 1'),)
    """
    where = locate(folder)
    found = _ranks(where) if isinstance(where, Path) and where.is_dir() else {}
    if len(found) < 2:
        msg = (
            f"{folder} has {len(found)} traces worker-<rank>.zarr, and ranks are compared from two "
            "on; give the local folder that the processes of a run have written into"
        )
        raise NotATraceError(msg)
    names = [f"rank {rank}" for rank in sorted(found)]
    return compare_runs([found[rank] for rank in sorted(found)], names, kinds=kinds)


def _ranks(folder: Path) -> dict[int, Path]:
    matches = {path: _WORKER.fullmatch(path.name) for path in folder.iterdir()}
    return {int(match.group(1)): path for path, match in matches.items() if match is not None}
