"""Builders of small traces for the tests of the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.layout import ArraySpec, resolve_dims, split_key
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.journal.ring import RingSize
    from steptrace_schema.storage.location import Location

Arrays = dict[str, "npt.NDArray[Any]"]


def attributes(**fields: Any) -> TraceAttributes:
    """Return root attributes of a small trace."""
    common: dict[str, Any] = {
        "run_id": "test",
        "created": "2026-01-01T00:00:00+00:00",
        "producer": "tests",
        "policy": Policy(),
    }
    return TraceAttributes(**(common | fields))


def write_journal(
    store: Location,
    steps: list[tuple[int, Arrays]],
    *,
    specify_for: list[tuple[int, Arrays]] | None = None,
    ring: RingSize | None = None,
    **fields: Any,
) -> JournalWriter:
    """Write a journal whose declaration fits the arrays of `steps`, or those given for it.

    Records that do not fit into the `ring` have files of their own; all have, without one.
    """
    largest: dict[str, npt.NDArray[Any]] = {}
    for _, arrays in specify_for or steps:
        for key, values in arrays.items():
            if key not in largest or values.size > largest[key].size:
                largest[key] = values
    specs = [
        ArraySpec(
            *split_key(key),
            tuple(f"d{i}" for i in range(values.ndim)),
            values.shape,
            str(values.dtype),
        )
        for key, values in largest.items()
    ]
    declaration = Declaration(attributes(**fields), tuple(resolve_dims(specs)))
    writer = JournalWriter.create(journal_path(store), declaration)
    if ring is not None:
        writer.make_ring(ring)
    for step, arrays in steps:
        writer.append(step, arrays)
    return writer


def random_steps(count: int, seed: int = 0) -> list[tuple[int, Arrays]]:
    """Return `count` steps of random weights, gradients and loss, and the weights after them."""
    rng = np.random.default_rng(seed)
    steps: list[tuple[int, Arrays]] = [
        (
            step,
            {
                "weights/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32),
                "gradients/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32),
                "scalars/loss": np.array(rng.random(), dtype=np.float32),
            },
        )
        for step in range(count)
    ]
    steps.append((count, {"weights/dense/kernel": rng.normal(size=(3, 4)).astype(np.float32)}))
    return steps
