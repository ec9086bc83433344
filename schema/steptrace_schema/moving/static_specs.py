"""Where arrays without a step axis are in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from steptrace_schema.format.layout import ArraySpec, resolve_dims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from steptrace_schema.names import Kind


def static_specs(
    group: str,
    arrays: Mapping[str, npt.NDArray[Any]],
    dims: Callable[[str, int], tuple[str, ...]],
    below: str = "",
) -> dict[str, ArraySpec]:
    """Return the specs of arrays of a group, by their path.

    Parameters
    ----------
    group
        A group of the root, like those of kinds.
    arrays
        Path to array.
    dims
        Takes path and rank, and returns names of the dims.
    below
        What stands before each path in the group, such as ``60/``.
    """
    specs = [
        ArraySpec(
            kind=cast("Kind", group),
            path=f"{below}{path}",
            dims=dims(path, values.ndim),
            shape=values.shape,
            dtype=str(values.dtype),
            static=True,
        )
        for path, values in arrays.items()
    ]
    return dict(zip(arrays, resolve_dims(specs), strict=True))
