"""Laying a tensor out as one flat image: matrices as they are, kernels and maps as tiles."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.parts import Parts, parts
from steptrace_analyzer.plots.reduce import reduce_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Ticks = tuple[tuple[float, str], ...]

_MOST_ROWS: Final = 256
_MOST_COLUMNS: Final = 256
_MOST_STRIP_COLUMNS: Final = 1024
_MOST_TILES: Final = 1024
_STACKED_ROWS: Final = 32
"""Input channels are stacked in one tile as long as the tile has no more rows than this."""
_ASPECT: Final = 1.2
_FEW_PARTS: Final = 8
_FEW_CHANNELS: Final = 4
"""So few input or output channels are all shown, however tall their kernels."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A tensor as one image.

    Parameters
    ----------
    image
        Dims (row, column), float64.
    gap
        Same shape; True between tiles, where the image holds no value.
    x_label, y_label
        What columns and rows are.
    x_ticks, y_ticks
        Position in the image and label.
    note
        What the reader must know about the layout; empty where the image shows every value.
    """

    image: npt.NDArray[np.float64]
    gap: npt.NDArray[np.bool_]
    x_label: str
    y_label: str
    x_ticks: Ticks
    y_ticks: Ticks
    note: str = ""
    signed: bool = True
    """False where pixels are magnitudes, which have no sign."""
    square: bool = False
    """True where a pixel is a place in an image, so that width and height compare."""


def lay_out(values: npt.NDArray[Any], classes: Sequence[str] = (), variable: str = "") -> Tiling:
    """Lay out a layer's variable: dims (out,), (in, out) or (kd, kh, kw, in, out).

    A matrix is drawn with inputs as rows and outputs as columns; a large one is reduced to blocks
    that show their largest magnitude. An attention's variable has one tile per head, and that of an
    LSTM or GRU one per gate. A convolution's kernel has one tile per filter. Its input channels are
    stacked in the tile where they are few; where they are many, each pixel is the norm (L2) over
    the input channels, since one weight of so many would be noise.

    Parameters
    ----------
    values
        The variable at one step. Two arrays of one shape are laid out alike.
    classes
        Classes of the layer and of the layers around it, the innermost first.
    variable
        Path of the variable, ``"attention/query/kernel"``.

    Returns
    -------
    Tiling

    Examples
    --------
    >>> lay_out(np.zeros((3, 3, 1, 4))).image.shape  # 2 x 2 tiles of 3 x 3 with gaps of 1
    (7, 7)
    """
    values = np.asarray(values, dtype=np.float64)
    spatial = values.shape[:-2]
    own = classes[0].lower() if classes else ""
    is_kernel = values.ndim in (4, 5) or (values.ndim == 3 and "conv" in own)
    if is_kernel and max(spatial) > 1:
        return _kernel(values)
    divided = parts(values, classes, variable) if values.size else None
    if divided is not None:
        return _parts_tiling(divided)
    if values.ndim <= 1:
        return matrix_tiling(values.reshape(1, -1), "output unit (out)", "", _MOST_STRIP_COLUMNS)
    rows = "input (in)"
    if "embedding" in own:
        rows = "entry"
    elif variable.rpartition("/")[2] == "bias":
        rows = "head" if any("attention" in name.lower() for name in classes) else "axis 0"
    matrix = values.reshape(-1, values.shape[-1])
    return matrix_tiling(matrix, "output unit (out)", rows)


def matrix_tiling(
    matrix: npt.NDArray[np.float64], x_label: str, y_label: str, columns: int = _MOST_COLUMNS
) -> Tiling:
    """Lay out a matrix, reduced to at most 256 rows and `columns` columns."""
    if not matrix.size:
        matrix = np.full((1, 1), np.nan)  # a layer may have a dimension of no extent
    reduced, block = reduce_matrix(matrix, _MOST_ROWS, columns)
    note = ""
    if block != (1, 1):
        note = (
            f"{matrix.shape[0]} x {matrix.shape[1]} values: each pixel is the one of the largest "
            f"magnitude of a block of {block[0]} x {block[1]}"
        )
    return Tiling(
        image=reduced,
        gap=np.zeros(reduced.shape, dtype=bool),
        x_label=x_label,
        y_label=y_label,
        x_ticks=_index_ticks(matrix.shape[1], block[1]),
        y_ticks=_index_ticks(matrix.shape[0], block[0]) if y_label else (),
        note=note,
    )


def _parts_tiling(divided: Parts) -> Tiling:
    """Put the parts beside each other, in one row where they are few and narrow."""
    count, height, width = divided.values.shape
    columns = count if count <= _FEW_PARTS else grid_columns(count, height, width, 2.0)
    rows = -(-count // columns)
    block = (1, 1)
    reduced = []
    for plane in divided.values:
        small, block = reduce_matrix(
            plane, max(4, _MOST_ROWS // rows), max(4, 2 * _MOST_COLUMNS // columns)
        )
        reduced.append(small)
    tiles = np.stack(reduced)
    space = max(1, round(0.02 * columns * tiles.shape[2]))
    image, gap = grid(tiles, columns, space)
    notes = []
    if block != (1, 1):
        notes.append(
            f"{divided.noun}s of {height} x {width} values: each pixel is the one of the largest "
            f"magnitude of a block of {block[0]} x {block[1]}"
        )
    one_row = rows == 1
    x_ticks = tuple(
        (
            column * (tiles.shape[2] + space) + (tiles.shape[2] - 1) / 2,
            divided.names[column] if one_row else str(column),
        )
        for column in range(columns)
    )
    notes.append(f"Rows of a tile: {divided.rows or 'one'}; columns: {divided.columns}")
    return Tiling(
        image=image,
        gap=gap,
        x_label=divided.noun if one_row else f"{divided.noun}, counted from the row's first",
        y_label=divided.rows if one_row else f"{divided.noun}, first of the row",
        x_ticks=x_ticks,
        y_ticks=(_index_ticks(height, block[0]) if divided.rows else ())
        if one_row
        else _tile_ticks(rows, tiles.shape[1], space, columns),
        note=". ".join(notes),
    )


def grid(
    tiles: npt.NDArray[Any], columns: int, space: int = 1
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Put tiles beside each other, with gaps between them.

    Parameters
    ----------
    tiles
        Dims (tile, row, column).
    columns
        Tiles per row of the grid.
    space
        Elements between two tiles.

    Returns
    -------
    image, gap
        Dims (row, column); `gap` is True where the image shows no tile.
    """
    count, height, width = tiles.shape
    rows = -(-count // columns)
    shape = rows * (height + space) - space, columns * (width + space) - space
    image, gap = np.zeros(shape), np.ones(shape, dtype=bool)
    for index in range(count):
        row, column = divmod(index, columns)
        top, left = row * (height + space), column * (width + space)
        image[top : top + height, left : left + width] = tiles[index]
        gap[top : top + height, left : left + width] = False
    return image, gap


def grid_columns(count: int, height: int, width: int, aspect: float = 1.0) -> int:
    """Return how many tiles per row, a power of two, make a grid `aspect` times as wide as tall.

    Examples
    --------
    >>> grid_columns(32, 3, 3), grid_columns(5, 3, 3), grid_columns(1, 3, 3)
    (8, 2, 1)
    """
    ideal = np.sqrt(max(count, 1) * aspect * (height + 1) / (width + 1))
    columns = 2 ** int(np.log2(max(ideal, 1.0)) + 0.5)
    return int(min(columns, max(count, 1)))


def _kernel(values: npt.NDArray[np.float64]) -> Tiling:
    if values.ndim == 3:
        values = values[None]
    depth = values.shape[0] if values.ndim == 5 else 1
    stack = values.reshape(depth, *values.shape[-4:])  # (kd, kh, kw, in, out)
    _, height, _, inputs, outputs = stack.shape
    kernels = stack.transpose(4, 3, 0, 1, 2)  # (out, in, kd, kh, kw)
    noun, notes, signed = "filter", list[str](), True
    if inputs <= _FEW_CHANNELS or inputs * depth * height <= _STACKED_ROWS:
        if inputs > 1:
            notes.append(f"In each tile, top to bottom: input channels 0 to {inputs - 1}")
    elif outputs <= _FEW_CHANNELS:  # a depthwise convolution: its filters belong to inputs
        kernels = kernels.transpose(1, 0, 2, 3, 4)
        noun = "input channel"
        if outputs > 1:
            notes.append(f"In each tile, top to bottom: outputs 0 to {outputs - 1}")
    else:
        with np.errstate(over="ignore"):  # infinite is then the answer
            kernels = np.sqrt((kernels**2).sum(axis=1))[:, None]
        signed = False
        notes.append(f"Each pixel is the norm (L2) over {inputs} input channels")
    count = kernels.shape[0]
    if count > _MOST_TILES:
        notes.append(f"The first {_MOST_TILES} of {count} {noun}s")
        kernels = kernels[:_MOST_TILES]
    planes = kernels.reshape(kernels.shape[0], -1, *kernels.shape[3:])
    space = 1 if planes.shape[1] == 1 else 2  # wider than the lines inside of a tile
    tiles = np.stack([grid(tile, 1)[0] for tile in planes])
    columns = grid_columns(len(tiles), tiles.shape[1], tiles.shape[2], _ASPECT)
    image, gap = grid(tiles, columns, space)
    lines = np.broadcast_to(grid(planes[0], 1)[1], tiles.shape)
    gap |= grid(lines, columns, space)[0] > 0
    rows = -(-tiles.shape[0] // columns)
    return Tiling(
        image=image,
        gap=gap,
        x_label=f"{noun}, counted from the row's first",
        y_label=f"{noun}, first of the row",
        x_ticks=_tile_ticks(columns, tiles.shape[2], space, 1),
        y_ticks=_tile_ticks(rows, tiles.shape[1], space, columns),
        note=". ".join(notes),
        signed=signed,
        square=True,
    )


def _index_ticks(length: int, block: int) -> Ticks:
    stride = _nice_stride(length)
    return tuple(((i + 0.5) / block - 0.5, str(i)) for i in range(0, length, stride))


def _tile_ticks(count: int, size: int, space: int, per_tile: int) -> Ticks:
    stride = _nice_stride(count)
    return tuple(
        (i * (size + space) + (size - 1) / 2, str(i * per_tile)) for i in range(0, count, stride)
    )


def _nice_stride(count: int) -> int:
    """Return the smallest of 1, 2, 5, 10, ... that leaves at most nine ticks."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if count <= 9 * factor * power:
                return factor * power
        power *= 10
