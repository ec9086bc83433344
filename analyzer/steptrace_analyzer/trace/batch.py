"""The arrays of a batch: inputs of the model, gradients of these, and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.names import (
    STATISTIC,
    TENSOR,
    X_GRADIENT,
    X,
    Y,
)

if TYPE_CHECKING:
    import xarray as xr


def is_input_gradient(path: str) -> bool:
    """Whether an array of ``inputs`` is the gradient of a model's input.

    Examples
    --------
    >>> is_input_gradient("x_gradient"), is_input_gradient("x_gradient_0"), is_input_gradient("x_0")
    (True, True, False)
    """
    return path == X_GRADIENT or path.startswith(f"{X_GRADIENT}_")


def is_input(path: str) -> bool:
    """Whether an array of ``inputs`` goes into the model: ``x``, or ``x_<name>`` of several.

    Examples
    --------
    >>> is_input("x"), is_input("x_0"), is_input("x_gradient"), is_input("sample_loss")
    (True, True, False, False)
    """
    return (path == X or path.startswith(f"{X}_")) and not is_input_gradient(path)


def is_target(path: str) -> bool:
    """Whether an array of ``inputs`` is what the model is trained towards: ``y`` or ``y_<name>``.

    Examples
    --------
    >>> is_target("y"), is_target("y_mask"), is_target("x")
    (True, True, False)
    """
    return path == Y or path.startswith(f"{Y}_")


def input_gradient_of(path: str) -> str:
    """Return the path of the gradient of the model's input at `path`.

    Examples
    --------
    >>> input_gradient_of("x"), input_gradient_of("x_image")
    ('x_gradient', 'x_gradient_image')
    """
    return X_GRADIENT + path.removeprefix(X)


def input_of_gradient(path: str) -> str:
    """Return the path of the model's input that the gradient at `path` is of.

    Examples
    --------
    >>> input_of_gradient("x_gradient"), input_of_gradient("x_gradient_image")
    ('x', 'x_image')
    """
    return X + path.removeprefix(X_GRADIENT)


def measured_arrays(trace: xr.DataTree) -> tuple[str, ...]:
    """Return the inputs and targets whose numbers are magnitudes, inputs first.

    The others are names of categories, of which a mean or a size says nothing: targets that are
    whole numbers, whatever their type, and inputs of whole numbers that are no picture, such as
    token ids.

    Parameters
    ----------
    trace
        An opened trace. Only its statistics are read.

    Examples
    --------
    >>> measured_arrays(open_trace("run.zarr"))  # doctest: +SKIP
    ('x_image', 'x_age')
    """
    table = statistics_table(trace, "inputs")
    if table is None:
        return ()
    described = described_tensors(table)
    stored = {path: get_tensor(trace, "inputs", path) for path in tensor_paths(trace, "inputs")}
    inputs = [p for p in described if is_input(p) and not _is_category(stored.get(p))]
    targets = [p for p in described if is_target(p) and not _is_whole(table, p, stored.get(p))]
    return (*inputs, *targets)


def _is_category(array: xr.DataArray | None) -> bool:
    """Whether an input holds ids: whole numbers that are not the pixels of a picture."""
    if array is None or array.dtype.kind not in "biu":
        return False
    features = array.ndim - 2  # besides step and sample
    return not (features >= 3 or (features == 2 and array.dtype == np.uint8))


def _is_whole(table: xr.DataArray, path: str, array: xr.DataArray | None) -> bool:
    """Whether a target is whole: its type, or its smallest and largest value at most steps."""
    if array is not None and array.dtype.kind in "biu":
        return True
    ends = table.sel({TENSOR: path, STATISTIC: ["min", "max"]})
    values = np.asarray(ends, dtype=np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    whole = (values == np.round(values)).all(axis=1)
    return bool(len(whole)) and float(whole.mean()) > 0.5
