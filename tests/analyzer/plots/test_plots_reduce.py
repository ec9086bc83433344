from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from steptrace_analyzer.plots.limits import log_norm, padded_range, shared_norm, symmetric_norm
from steptrace_analyzer.plots.lines import moving_mean, smoothing
from steptrace_analyzer.plots.reduce import (
    envelope,
    keep_largest,
    largest_magnitude,
    reduce_matrix,
)
from steptrace_analyzer.plots.tiles import grid, grid_columns, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_reduced_matrix_shows_the_largest_magnitude_of_each_block() -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 10))
    reduced, block = reduce_matrix(matrix, rows=3, columns=4)
    assert block == (3, 3)
    for row in range(3):
        for column in range(4):
            part = matrix[3 * row : 3 * row + 3, 3 * column : 3 * column + 3].ravel()
            assert reduced[row, column] == part[np.abs(part).argmax()]


def test_a_matrix_that_fits_is_not_reduced() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    reduced, block = reduce_matrix(matrix, rows=2, columns=3)
    assert block == (1, 1)
    assert_array_equal(reduced, matrix)


def test_one_nan_among_many_values_stays_visible_in_the_reduced_matrix() -> None:
    matrix = np.full((100, 100), 1e9)
    matrix[37, 81] = np.nan
    reduced, _ = reduce_matrix(matrix, rows=10, columns=10)
    assert_array_equal(np.argwhere(np.isnan(reduced)), [[3, 8]])


def test_largest_magnitude_keeps_the_sign() -> None:
    assert_array_equal(largest_magnitude(np.array([[1.0, -3.0], [2.0, -0.5]]), axis=1), [-3.0, 2.0])


def test_the_largest_values_are_always_kept() -> None:
    values = np.random.default_rng(2).normal(size=1000)
    kept = keep_largest(values, 100)
    assert len(kept) == len(set(kept.tolist())) == 100
    assert set(np.argsort(-np.abs(values))[:50].tolist()) <= set(kept.tolist())
    assert_array_equal(kept, keep_largest(values, 100))


def test_a_thinned_line_keeps_its_extremes_and_gaps() -> None:
    values = np.sin(np.arange(10_000) / 500)
    values[1234], values[5678], values[9012] = 50.0, -50.0, np.nan
    kept = envelope(values, blocks=100)
    assert len(kept) <= 500
    assert {0, 1234, 5678, 9012, 9999} <= set(kept.tolist())


def test_a_convolution_kernel_has_one_tile_per_filter_with_its_weights() -> None:
    kernel = np.random.default_rng(3).normal(size=(3, 2, 1, 4))
    tiling = lay_out(kernel)
    assert tiling.image.shape == (7, 5)  # 2 x 2 tiles of 3 x 2 and a line between them
    for index in range(4):
        top, left = 4 * (index // 2), 3 * (index % 2)
        assert_array_equal(tiling.image[top : top + 3, left : left + 2], kernel[:, :, 0, index])
        assert not tiling.gap[top : top + 3, left : left + 2].any()
    assert tiling.gap.sum() == 7 * 5 - 4 * 6


def test_few_input_channels_are_stacked_in_the_filter_s_tile() -> None:
    kernel = np.random.default_rng(4).normal(size=(2, 2, 3, 1))
    tiling = lay_out(kernel)
    assert tiling.image.shape == (8, 2)
    for channel in range(3):
        assert_array_equal(tiling.image[3 * channel : 3 * channel + 2], kernel[:, :, channel, 0])
    assert_array_equal(tiling.gap[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])
    assert "input channels 0 to 2" in tiling.note


def test_many_input_channels_are_reduced_to_their_norm() -> None:
    kernel = np.random.default_rng(5).normal(size=(3, 3, 64, 9))
    tiling = lay_out(kernel)
    assert_allclose(tiling.image[:3, :3], np.linalg.norm(kernel[..., 0], axis=2))
    assert not tiling.signed
    assert "norm (L2) over 64 input channels" in tiling.note


def test_a_depthwise_kernel_has_one_tile_per_input_channel() -> None:
    kernel = np.random.default_rng(6).normal(size=(3, 3, 40, 1))
    tiling = lay_out(kernel)
    assert_array_equal(tiling.image[:3, :3], kernel[:, :, 0, 0])
    assert_array_equal(tiling.image[:3, 4:7], kernel[:, :, 1, 0])
    assert tiling.x_label.startswith("input channel")


def test_a_kernel_of_one_pixel_is_drawn_as_the_matrix_it_is() -> None:
    kernel = np.random.default_rng(7).normal(size=(1, 1, 5, 8))
    assert_array_equal(lay_out(kernel).image, kernel[0, 0])


def test_rank_three_is_a_kernel_in_a_convolution_layer_and_planes_elsewhere() -> None:
    values = np.random.default_rng(8).normal(size=(3, 2, 4))
    tiles = lay_out(values, ("Conv1D",)).image
    assert_array_equal(tiles[0, :3], values[:, 0, 0])
    assert_array_equal(tiles[2, :3], values[:, 1, 0])
    planes = lay_out(values, ("EinsumDense",))
    assert planes.x_label == "axis 0"
    assert_array_equal(planes.image[:, 5:9], values[1])


@pytest.mark.parametrize(
    ("variable", "head", "rows"),
    [
        ("query/kernel", lambda v, n: v[:, n, :], "input (in)"),
        ("attention_output/kernel", lambda v, n: v[n], "unit of the head"),
    ],
)
def test_an_attention_has_a_tile_per_head(
    variable: str, head: Callable[[Any, int], Any], rows: str
) -> None:
    values = np.random.default_rng(9).normal(size=(4, 4, 3))
    tiling = lay_out(values, ("EinsumDense", "MultiHeadAttention"), variable)
    assert (tiling.x_label, tiling.y_label) == ("head", rows)
    for n, (place, name) in enumerate(tiling.x_ticks):
        assert name == str(n)
        left = int(place - 1)
        assert_array_equal(tiling.image[:, left : left + 3], head(values, n))


def test_the_rows_of_an_attention_s_bias_are_its_heads() -> None:
    tiling = lay_out(np.zeros((4, 16)), ("EinsumDense", "MultiHeadAttention"), "query/bias")
    assert tiling.y_label == "head"


@pytest.mark.parametrize(
    ("class_name", "gates"),
    [
        ("LSTM", ["input", "forget", "cell", "output"]),
        ("GRUCell", ["update", "reset", "candidate"]),
    ],
)
def test_a_recurrent_kernel_has_a_tile_per_gate(class_name: str, gates: list[str]) -> None:
    values = np.random.default_rng(10).normal(size=(5, 3 * len(gates)))
    tiling = lay_out(values, (class_name, "Bidirectional"), "kernel")
    assert [name for _, name in tiling.x_ticks] == gates
    for n, (place, _) in enumerate(tiling.x_ticks):
        left = int(place - 1)
        assert_array_equal(tiling.image[:, left : left + 3], values[:, 3 * n : 3 * n + 3])


def test_a_line_of_many_steps_is_the_mean_of_those_around_and_keeps_what_is_not_finite() -> None:
    values = np.random.default_rng(11).normal(size=50)
    values[20] = np.nan
    mean = moving_mean(values, 5)
    assert_allclose(mean[10], values[8:13].mean())
    assert_allclose(mean[19], np.nanmean(values[17:22]))
    assert np.isnan(mean[20])
    assert (smoothing(600), smoothing(3000)) == (1, 30)


def test_steps_of_unlike_size_share_colours_that_show_both() -> None:
    norm = shared_norm([1.0, 1.0, 500.0])
    assert (norm.vmin, norm.vmax) == (-500.0, 500.0)
    assert float(norm(1.0)) > 0.58
    assert float(shared_norm([1.0, 4.0])(2.0)) == 0.75


def test_a_vector_is_one_row_and_a_scalar_one_pixel() -> None:
    assert_array_equal(lay_out(np.arange(3.0)).image, [[0.0, 1.0, 2.0]])
    assert_array_equal(lay_out(np.array(7.0)).image, [[7.0]])


def test_a_large_matrix_says_how_it_was_reduced() -> None:
    tiling = lay_out(np.zeros((1000, 300)))
    assert tiling.image.shape == (250, 150)
    assert "1000 x 300 values" in tiling.note
    assert "4 x 2" in tiling.note
    assert [text for _, text in tiling.y_ticks] == [str(n) for n in range(0, 1000, 200)]


def test_a_grid_puts_tiles_in_rows() -> None:
    image, gap = grid(np.arange(3.0).reshape(3, 1, 1) + 1, columns=2)
    assert_array_equal(np.where(gap, 0, image), [[1, 0, 2], [0, 0, 0], [3, 0, 0]])
    assert_array_equal(gap, [[0, 1, 0], [1, 1, 1], [0, 1, 1]])


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 2), (32, 8), (64, 8)])
def test_a_grid_of_squares_is_about_square(count: int, columns: int) -> None:
    assert grid_columns(count, 3, 3) == columns


def test_colour_limits_are_symmetric_and_ignore_what_is_not_finite() -> None:
    norm = symmetric_norm(np.array([1.0, -4.0, np.nan, np.inf]))
    assert (norm.vmin, norm.vmax) == (-4.0, 4.0)


def test_one_outlier_among_many_values_does_not_set_the_colour_limits() -> None:
    values = np.append(np.linspace(-1, 1, 1000), 1e6)
    limit = symmetric_norm(values).vmax
    assert limit is not None
    assert 0.9 < limit <= 1.0


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [np.nan]])
def test_limits_exist_where_there_is_nothing_to_see(values: list[float]) -> None:
    assert symmetric_norm(np.array(values)).vmax == 1.0
    assert log_norm(np.array(values)).vmin == 0.1
    low, high = padded_range(np.array(values))
    assert low < high
