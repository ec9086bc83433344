"""Copies between parts of arrays, compiled and by NumPy, against NumPy's own assignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steptrace_schema.encoding._strided_copy import copy_strided as compiled_copy
from steptrace_schema.encoding.strided_copy import IS_COMPILED, copy_strided, numpy_copy

COPIES = [copy_strided, numpy_copy]

_DTYPES = ["bool", "int8", "float16", "float32", "float64", "complex128"]


@st.composite
def _parts(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[Any, ...]]:
    """Draw two arrays, and a part of the first that has the shape of the second."""
    dtype = np.dtype(draw(st.sampled_from(_DTYPES)))
    rank = draw(st.integers(0, 4))
    shape = draw(st.tuples(*[st.integers(0, 20)] * rank))
    around = draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * rank))
    part = tuple(slice(a, a + n) for n, (a, _) in zip(shape, around, strict=True))
    whole = np.zeros([n + a + b for n, (a, b) in zip(shape, around, strict=True)], dtype)
    order = draw(st.permutations(range(rank)))
    values = np.random.default_rng(0).integers(0, 100, [shape[axis] for axis in order])
    return whole, values.astype(dtype).transpose(np.argsort(order)), part


@pytest.mark.parametrize("copy", COPIES)
@settings(max_examples=200)
@given(parts=_parts())
def test_a_part_is_copied_and_nothing_around_it_is_touched(copy: Any, parts: Any) -> None:
    whole, values, part = parts
    expected = whole.copy()
    expected[(*part, ...)] = values
    copy(whole[(*part, ...)], values)
    assert whole.tobytes() == expected.tobytes()


def test_the_compiled_copy_is_in_use() -> None:
    assert IS_COMPILED


@pytest.mark.parametrize(
    "source", [np.zeros((2, 3), np.float32), np.zeros(6), np.zeros((), np.float32)]
)
def test_what_does_not_fit_is_refused(source: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="not the same shape"):
        compiled_copy(np.zeros(6, np.float32), source)


def test_what_cannot_be_written_is_refused() -> None:
    target = np.zeros(2)
    target.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        compiled_copy(target, np.ones(2))
