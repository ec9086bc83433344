"""Updates, derived from the weights of consecutive steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
import xarray as xr

from steptrace_schema.names import STEP

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.names import Kind

DERIVED: Final = "derived"
"""Attribute of a kind's group that is not stored; its value is the formula."""


def is_derived(trace: xr.DataTree, kind: Kind) -> bool:
    """Whether a kind of an opened trace is computed on reading rather than stored."""
    return kind in trace.children and DERIVED in trace.children[kind].attrs


def with_updates(tree: xr.DataTree) -> xr.DataTree:
    """Return the trace with updates, derived lazily where it did not record them.

    The update of step t is ``weights[t+1] - weights[t]``, in the dtype of the weights. It exists
    where both steps are recorded, and is labelled t.

    Parameters
    ----------
    tree
        A trace whose arrays have their ``step`` coordinates.

    Returns
    -------
    xarray.DataTree
        `tree` itself where it has updates already, or no two consecutive weights.

    Examples
    --------
    >>> with_updates(tree)["updates/dense/kernel"]  # doctest: +SKIP
    """
    if "updates" in tree.children or "weights" not in tree.children:
        return tree
    weights = tree["weights"]
    if STEP not in weights.coords:
        return tree
    steps = np.asarray(weights.coords[STEP])
    before = np.flatnonzero(np.diff(steps) == 1)
    if not len(before):
        return tree
    derived: dict[str, xr.Dataset] = {}
    for node in weights.subtree:
        path = node.path.removeprefix(weights.path)
        arrays = {
            str(name): _difference(array, before)
            for name, array in node.data_vars.items()
            if array.dims[:1] == (STEP,)
        }
        coords = {STEP: steps[before]} if not path else {}
        derived[f"updates{path}"] = xr.Dataset(arrays, coords=coords, attrs=node.attrs)
    derived["updates"].attrs[DERIVED] = "weights[step + 1] - weights[step]"
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    return xr.DataTree.from_dict(groups | derived, name=tree.name)


def _difference(weights: xr.DataArray, before: npt.NDArray[np.intp]) -> xr.Variable:
    variable = weights.variable
    first, last = int(before[0]), int(before[-1])
    if last - first + 1 == len(before):  # slices keep dask's chunks whole
        low = variable.isel({STEP: slice(first, last + 1)})
        high = variable.isel({STEP: slice(first + 1, last + 2)})
    else:
        low, high = variable.isel({STEP: before}), variable.isel({STEP: before + 1})
    return xr.Variable(variable.dims, _subtract(high.data, low.data))


def _subtract(high: Any, low: Any) -> Any:
    if isinstance(high, da.Array):  # the warnings arise later, in a thread of dask's
        axes = range(high.ndim)
        return da.blockwise(  # type: ignore[no-untyped-call]
            _subtract, axes, high, axes, low, axes, dtype=high.dtype
        )
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, which is the answer
        return high - low
