"""What is looked at: runs, step, layer, variable, sample, unit, kind."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from steptrace_schema.names import Kind

Compare = Literal["one", "beside", "difference"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the page shows.

    Parameters
    ----------
    first, second
        Places of the runs; the second one is looked at where `compare` is not ``"one"``.
    compare
        Whether one run is shown, two beside each other, or the second less the first.
    step
        The step that all figures show.
    layer, variable
        Paths; None where the runs have none.
    sample
        Row of the batch.
    unit
        The output unit that is set apart; None for all.
    kind
        Of the statistics.
    """

    first: int = 0
    second: int = 0
    compare: Compare = "one"
    step: int = 0
    layer: str | None = None
    variable: str | None = None
    sample: int = 0
    unit: int | None = None
    kind: Kind = "weights"

    @property
    def runs(self) -> tuple[int, ...]:
        """Places of the runs that are looked at."""
        return (self.first,) if self.compare == "one" else (self.first, self.second)


def all_steps(runs: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Return the steps of several runs, each once, ascending."""
    return np.unique(np.concatenate(runs)) if runs else np.empty(0, dtype=np.int64)


def nearest(steps: npt.NDArray[np.int64], step: float) -> int:
    """Return the place of the step that is nearest; the earlier one of two.

    Examples
    --------
    >>> nearest(np.array([0, 10, 20]), 14)
    1
    """
    return int(np.abs(steps - step).argmin()) if steps.size else 0
