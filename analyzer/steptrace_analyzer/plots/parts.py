"""Which parts a variable of a layer consists of: heads of an attention, gates of a recurrence."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

_GATES: Final = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("update", "reset", "candidate"),
}
"""The gates in the order in which Keras stores them along the last axis."""

_OUTPUT_PROJECTION: Final = ("attention_output", "output_dense")
"""Layers of an attention whose kernel has the heads as its first axis, not as its second."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """A variable as matrices of one shape.

    Parameters
    ----------
    names
        Of the parts, in order.
    noun
        What a part is, ``"head"``.
    values
        Dims (part, row, column).
    rows, columns
        What rows and columns are; empty rows for a variable of one dimension.
    """

    names: tuple[str, ...]
    noun: str
    values: npt.NDArray[np.float64]
    rows: str
    columns: str


def parts(
    values: npt.NDArray[np.float64], classes: Sequence[str], variable: str = ""
) -> Parts | None:
    """Return the parts of a variable; None where it is one piece or a convolution's kernel.

    Parameters
    ----------
    values
        The variable at one step.
    classes
        Classes of the layer and of the layers around it, the innermost first.
    variable
        The variable's path; its last segments tell an attention's output projection.

    Returns
    -------
    Parts or None

    Examples
    --------
    >>> import numpy as np
    >>> parts(np.zeros((64, 4, 16)), ("EinsumDense", "MultiHeadAttention"), "query/kernel").names
    ('0', '1', '2', '3')
    >>> parts(np.zeros((8, 12)), ("LSTM",), "kernel").names
    ('input', 'forget', 'cell', 'output')
    """
    small = [name.lower() for name in classes]
    gates = next((_GATES[key] for name in small for key in _GATES if _is_recurrent(name, key)), ())
    if gates and values.ndim and values.shape[-1] and values.shape[-1] % len(gates) == 0:
        return _gates(values, gates, variable)
    if values.ndim == 3 and not (small and "conv" in small[0]):
        return _planes(values, any("attention" in name for name in small), variable)
    return None


def _is_recurrent(name: str, key: str) -> bool:
    return name.removeprefix("conv").rstrip("0123456789d") in (key, f"{key}cell", f"cudnn{key}")


def _gates(values: npt.NDArray[Any], gates: tuple[str, ...], variable: str) -> Parts | None:
    if values.ndim > 2:
        return None  # the kernel of a convolutional recurrence is drawn by filters
    matrix = values.reshape(-1, values.shape[-1])
    split = matrix.reshape(matrix.shape[0], len(gates), -1).transpose(1, 0, 2)
    name = variable.rpartition("/")[2]
    rows = "unit of the step before" if name.startswith("recurrent") else "input (in)"
    if name == "bias" and values.ndim == 2:
        rows = "0: of inputs, 1: of the step before"
    if values.ndim == 1:
        rows = ""
    return Parts(gates, "gate", split, rows, "unit")


def _planes(values: npt.NDArray[Any], attention: bool, variable: str) -> Parts:
    first = not attention or any(f"{name}/" in f"{variable}/" for name in _OUTPUT_PROJECTION)
    planes = values if first else values.transpose(1, 0, 2)
    names = tuple(str(index) for index in range(planes.shape[0]))
    if not attention:
        return Parts(names, "axis 0", planes, "axis 1", "axis 2")
    if first:
        return Parts(names, "head", planes, "unit of the head", "output unit (out)")
    return Parts(names, "head", planes, "input (in)", "unit of the head")
