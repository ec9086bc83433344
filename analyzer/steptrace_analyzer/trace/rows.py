"""Rows of tensors, with a few that lie beside the last ones kept: a slider moves to neighbours."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import Kind

_ROWS: Final = 8
"""Rows that are read together: as many as a chunk usually has, which is decoded anyway."""
_MOST_BLOCK: Final = 16 * 2**20
_MOST_KEPT: Final = 256 * 2**20


class Rows:
    """Reads single steps of a trace's tensors.

    Parameters
    ----------
    trace
        An opened trace, which never changes.
    """

    def __init__(self, trace: xr.DataTree) -> None:
        self._trace = trace
        self._kept: OrderedDict[tuple[str, str, int], npt.NDArray[np.float64]] = OrderedDict()
        self._bytes = 0

    def has(self, kind: Kind, path: str, step: int) -> bool:
        """Whether a tensor exists and is recorded at a step."""
        if not has_tensor(self._trace, kind, path):
            return False
        # A look into the index: a list of all steps would take long for a long run.
        return step in get_tensor(self._trace, kind, path).indexes[STEP]

    def read(self, kind: Kind, path: str, step: int) -> npt.NDArray[np.float64]:
        """Return a tensor at a step that it has, as float64; do not write into it."""
        tensor = get_tensor(self._trace, kind, path)
        row = int(tensor.indexes[STEP].get_loc(step))
        size = 8 * int(np.prod(tensor.shape[1:], dtype=np.int64))
        count = _ROWS if size * _ROWS <= _MOST_BLOCK else 1
        first = row - row % count
        key = kind, path, first
        block = self._kept.get(key)
        if block is None:
            data = tensor.variable.data[first : first + count]
            # NumPy's error state belongs to a thread, so an update (inf - inf) is computed in
            # this one.
            with np.errstate(invalid="ignore", over="ignore"):
                values = data.compute(scheduler="synchronous")
                block = np.asarray(values, dtype=np.float64)
            self._keep(key, block)
        else:
            self._kept.move_to_end(key)
        return np.asarray(block[row - first])

    def _keep(self, key: tuple[str, str, int], block: npt.NDArray[np.float64]) -> None:
        self._kept[key] = block
        self._bytes += block.nbytes
        while self._bytes > _MOST_KEPT and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
