"""The statistics of every sample, against NumPy; without TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from steptrace_tracer.record.sample_statistics import sample_statistics


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_magnitudes_have_their_sizes(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = (100 + rng.normal(size=(5, 4, 3))).astype(dtype)
    names, found = sample_statistics({"x": x}, {}, 5)
    assert names == ("x/rms", "x/mean", "x/largest", "x/nan", "x/inf")
    exact = x.astype(np.float64).reshape(5, -1)
    expected = [
        np.sqrt((exact**2).mean(axis=1)),
        exact.mean(axis=1),
        np.abs(exact).max(axis=1),
        np.zeros(5),
        np.zeros(5),
    ]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-12)


def test_what_is_not_finite_is_counted_in_its_own_sample() -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 2] = np.nan
    x[2, 0], x[2, 1] = np.inf, -3
    _, found = sample_statistics({"x": x}, {}, 3)
    assert found[0].tolist() == [1, 1, 1, 0, 0]
    assert np.isnan(found[1, :3]).all()
    assert found[1, 3:].tolist() == [1, 0]
    assert found[2, 2:].tolist() == [np.inf, 0, 1]


def test_whole_numbers_are_categories_but_for_pictures() -> None:
    tokens = np.array([[3, 9, 4], [0, 0, 1]])
    picture = np.array([[[0, 255]], [[3, 3]]], np.uint8)
    big = 2**53 - 1
    labels, mask = np.array([[big], [2]]), np.array([[0, 4], [4, 4]])
    names, found = sample_statistics(
        {"x_words": tokens, "x_image": picture}, {"y_label": labels, "y_mask": mask}, 2
    )
    assert names[:2] == ("x_words/min", "x_words/max")
    assert names[2:4] == ("x_image/rms", "x_image/mean")
    assert names[7:] == ("y_label/category", "y_mask/min", "y_mask/max")
    assert found[:, :2].tolist() == [[3, 9], [0, 1]]
    np.testing.assert_allclose(found[:, 2], [np.sqrt(255**2 / 2), 3], rtol=1e-15)
    assert found[:, 7:].tolist() == [[big, 0, 4], [2, 4, 4]]


def test_pictures_of_wide_integers_lose_nothing() -> None:
    picture = np.full((1, 2, 2, 1), 2**24 + 1)
    names, found = sample_statistics({"x": picture}, {}, 1)
    assert dict(zip(names, found[0].tolist(), strict=True))["x/largest"] == 2**24 + 1


def test_what_has_no_row_for_each_sample_or_no_elements_is_nan() -> None:
    names, found = sample_statistics(
        {"x": np.ones((2, 3), np.float32), "x_none": np.zeros((2, 0))}, {"y": np.ones(4)}, 2
    )
    assert found.shape == (2, len(names))
    assert (found[:, :5] == [1, 1, 1, 0, 0]).all()
    assert np.isnan(found[:, 5:]).all()
