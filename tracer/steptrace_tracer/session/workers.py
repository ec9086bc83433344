"""Which worker of a distributed job this process is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.format.attributes import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRAINING_TASKS: Final = ("chief", "master", "worker")
_VARIABLES: Final = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Environment variables with a worker's rank and the number of workers, first match wins."""


def current_worker(environment: Mapping[str, str]) -> Worker | None:
    """Return which of several workers this is, None where there is only one.

    TensorFlow's ``TF_CONFIG`` is asked first, then ``RANK`` and ``WORLD_SIZE``, then what Slurm and
    Open MPI set.

    Parameters
    ----------
    environment
        Environment variables.

    Raises
    ------
    TraceError
        If a variable is set and cannot be understood.

    Examples
    --------
    >>> current_worker({"RANK": "1", "WORLD_SIZE": "4"})
    Worker(rank=1, count=4)
    """
    try:
        if "TF_CONFIG" in environment:
            return _of_tf_config(json.loads(environment["TF_CONFIG"]))
        for rank, count in _VARIABLES:
            if rank in environment and int(environment.get(count, "1")) > 1:
                return Worker(rank=int(environment[rank]), count=int(environment[count]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"the environment's TF_CONFIG, RANK or SLURM_PROCID does not say which worker this is "
            f"({type(error).__name__}: {error}); correct or unset it"
        )
        raise TraceError(msg) from error
    return None


def _of_tf_config(config: dict[str, dict[str, object]]) -> Worker | None:
    cluster, task = config.get("cluster", {}), config.get("task", {})
    before, count = 0, 0
    for kind in _TRAINING_TASKS:
        members = cluster.get(kind, ())
        size = len(members) if isinstance(members, (list, tuple)) else 0
        if kind == task.get("type"):
            before = count
        count += size
    if count < 2 or task.get("type") not in _TRAINING_TASKS:
        return None
    return Worker(rank=before + int(str(task["index"])), count=count)
