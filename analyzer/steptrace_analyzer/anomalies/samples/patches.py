"""A Dense or Conv layer as a matrix product: what each position of its output is computed from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.float64]

_MOST_DILATION: Final = 4


def patches_of(
    inputs: Floats, kernel: tuple[int, ...], places: tuple[int, ...]
) -> Iterator[Floats]:
    """Yield what each position of the output may be computed from, one way after the other.

    A trace does not say how a convolution strides, pads and dilates: each way that gives an output
    of the recorded size is yielded, the usual one first, for the caller to compare what it gives.

    Parameters
    ----------
    inputs
        (sample, *place, channel).
    kernel
        Shape of the kernel: (channel, unit) or (*place, channel, unit).
    places
        Size of the output: its place dimensions.

    Yields
    ------
    array
        (sample, position, feature), with the positions and features in the order of output and
        kernel.
    """
    if len(kernel) == 2:  # Dense, which takes the last dimension at every place
        if inputs.shape[1:-1] == places and inputs.shape[-1] == kernel[0]:
            yield inputs.reshape(len(inputs), -1, kernel[0])
        return
    sizes, width = inputs.shape[1:-1], kernel[:-2]
    if len(sizes) != len(width) or len(places) != len(width) or inputs.shape[-1] != kernel[-2]:
        return
    ways = [_ways(*each) for each in zip(sizes, width, places, strict=True)]
    for way in itertools.product(*ways):
        yield _taken(inputs, way, width, places)


def _ways(size: int, width: int, place: int) -> list[tuple[int, int, int, int]]:
    """Return strides, dilations and paddings, before and after, that give `place` of `size`."""
    found = []
    most = 1 if place < 2 else -(-size // (place - 1))  # of one output the stride says nothing
    for dilation, stride in itertools.product(range(1, _MOST_DILATION + 1), range(1, most + 1)):
        reach = (width - 1) * dilation + 1
        if reach <= size and (size - reach) // stride + 1 == place:
            found.append((stride, dilation, 0, 0))
        if -(-size // stride) == place:  # padding="same", as TensorFlow divides it
            missing = max((place - 1) * stride + reach - size, 0)
            found.append((stride, dilation, missing // 2, missing - missing // 2))
        if (size - 1) // stride + 1 == place:  # padding="causal"
            found.append((stride, dilation, reach - 1, 0))
    return list(dict.fromkeys(found))


def _taken(
    inputs: Floats,
    way: tuple[tuple[int, int, int, int], ...],
    width: tuple[int, ...],
    places: tuple[int, ...],
) -> Floats:
    padded = np.pad(inputs, [(0, 0), *((before, after) for *_, before, after in way), (0, 0)])
    columns = []
    for offsets in itertools.product(*(range(each) for each in width)):
        picked = [slice(None)]
        for offset, place, (stride, dilation, *_) in zip(offsets, places, way, strict=True):
            start = offset * dilation
            picked.append(slice(start, start + (place - 1) * stride + 1, stride))
        columns.append(padded[tuple(picked)].reshape(len(inputs), -1, inputs.shape[-1]))
    return np.concatenate(columns, axis=2)
