"""A Dense or Conv layer as matrix products: what each position of its output is computed from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.float64]

_MOST_DILATION: Final = 4


def matrices_of(kernel: Floats, channels: int, units: int) -> Floats | None:
    """Return the matrix of each group of a layer's units, (group, feature, unit).

    All units take all channels of the input, and are one group, but in convolutions by groups,
    whose kernel has the channels of one group, and depthwise ones, whose kernel has a place for
    each channel and the units that take it alone. None where the kernel is of none of these.

    Parameters
    ----------
    kernel
        (channel, unit) or (*place, channel, unit).
    channels, units
        Sizes of the last dimension of input and output.
    """
    within, last = kernel.shape[-2:]
    if units == last and within and not channels % within and not last % (channels // within):
        groups = channels // within
        return kernel.reshape(-1, groups, last // groups).transpose(1, 0, 2)
    if within == channels and units == channels * last:
        return kernel.reshape(-1, channels, last).transpose(1, 0, 2)
    return None


def patches_of(
    inputs: Floats, kernel: tuple[int, ...], places: tuple[int, ...], groups: int = 1
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
    groups
        Into how many equal parts the channels are divided.

    Yields
    ------
    array
        (sample, group, position, feature), with the positions and features in the order of output
        and kernel.
    """
    if len(kernel) == 2:  # Dense, which takes the last dimension at every place
        if inputs.shape[1:-1] == places and inputs.shape[-1] == kernel[0]:
            yield inputs.reshape(len(inputs), 1, -1, kernel[0])
        return
    sizes, width = inputs.shape[1:-1], kernel[:-2]
    if len(sizes) != len(width) or len(places) != len(width):
        return
    ways = [_ways(*each) for each in zip(sizes, width, places, strict=True)]
    for way in itertools.product(*ways):
        yield _taken(inputs, way, width, places, groups)


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
    groups: int,
) -> Floats:
    padded = np.pad(inputs, [(0, 0), *((before, after) for *_, before, after in way), (0, 0)])
    columns = []
    for offsets in itertools.product(*(range(each) for each in width)):
        picked = [slice(None)]
        for offset, place, (stride, dilation, *_) in zip(offsets, places, way, strict=True):
            start = offset * dilation
            picked.append(slice(start, start + (place - 1) * stride + 1, stride))
        taken = padded[tuple(picked)].reshape(len(inputs), -1, groups, inputs.shape[-1] // groups)
        columns.append(taken.transpose(0, 2, 1, 3))
    return np.concatenate(columns, axis=3)
