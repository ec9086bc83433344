"""Digests of tensors: computed as the specification says, and told apart only by values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from journals import attributes
from steptrace_schema.format.layout import ArraySpec, fill_value
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.statistics.digests import row_digests
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

TYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "bool")


def by_hand(values: npt.NDArray[Any]) -> int:
    """Return the digest of values without padding, in one piece."""
    little = values.astype(values.dtype.newbyteorder("<")).tobytes("C")
    extents = b"".join(int(n).to_bytes(8, "little") for n in values.shape)
    number = xxhash.xxh3_64_intdigest(little + extents)
    return number - 2**64 if number >= 2**63 else number


@given(
    st.sampled_from(TYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=5), unique=False)
    )
)
def test_a_digest_is_of_the_elements_and_their_extents(values: npt.NDArray[Any]) -> None:
    values[(-1,) * values.ndim] = 1  # the fill value of no type, so nothing is padding
    assert row_digests(values[np.newaxis]).tolist() == [by_hand(values)]


@pytest.mark.parametrize("dtype", TYPES)
def test_padding_changes_no_digest(dtype: str) -> None:
    values = np.ones((2, 3), dtype)
    padded = np.full((4, 7), fill_value(dtype), dtype)
    padded[:2, :3] = values
    assert row_digests(padded[np.newaxis]) == [by_hand(values)]


def test_the_same_elements_in_another_shape_have_another_digest() -> None:
    row = np.full((1, 2, 2), np.nan, "f4")
    across, down = row.copy(), row.copy()
    across[0, 0, :] = down[0, :, 0] = [1, 2]
    assert row_digests(across) != row_digests(down)
    assert row_digests(row) == [by_hand(np.empty((0, 0), "f4"))]


def test_one_bit_changes_a_digest_and_the_memory_order_does_not() -> None:
    values = np.arange(24, dtype="f4").reshape(4, 6)
    other = values.copy()
    other.view("u4")[3, 5] ^= 1
    assert row_digests(values[np.newaxis]) != row_digests(other[np.newaxis])
    assert row_digests(np.asfortranarray(values)[np.newaxis]) == row_digests(values[np.newaxis])


def test_the_store_has_the_digests_of_what_was_recorded(tmp_path: Path) -> None:
    arrays = (
        ArraySpec("scalars", "loss", (), (), "float32"),
        ArraySpec("weights", "dense/kernel", ("in", "out"), (3, 2), "float32"),
        ArraySpec("weights", "dense/bias", ("out",), (2,), "float32"),
        ArraySpec("activations", "dense/output", ("sample", "unit"), (4, 2), "float32"),
    )
    rng = np.random.default_rng(0)
    path = tmp_path / "run.zarr"
    writer = JournalWriter.create(journal_path(path), Declaration(attributes(), arrays))
    kernels = rng.normal(size=(5, 3, 2)).astype("f4")
    outputs = [rng.normal(size=(4 - (step == 4), 2)).astype("f4") for step in range(5)]
    for step, (kernel, output) in enumerate(zip(kernels, outputs, strict=True)):
        record = {
            "scalars/loss": np.float32(0).reshape(()),
            "weights/dense/kernel": kernel,
            "activations/dense/output": output,  # the last one is of a smaller batch
        }
        if step != 2:
            record["weights/dense/bias"] = kernel[0]
        writer.append(step, record)
    writer.close("complete", None, attributes())
    recover(path)
    group = zarr.open_group(path, mode="r")
    found = np.asarray(group["statistics/weights/digests"])
    expected = [[by_hand(k), -1 if step == 2 else by_hand(k[0])] for step, k in enumerate(kernels)]
    assert found.tolist() == expected
    assert np.asarray(group["statistics/activations/digests"])[:, 0].tolist() == [
        by_hand(output) for output in outputs
    ]
    assert not [p for p in validate(path) if p.rule in ("R21", "R22", "R17", "R18", "R9")]
