"""Chunks with right checksums and headers that lie are refused before a library reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import with_checksum
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.encoding.strided_copy import IS_COMPILED, copy_strided, numpy_copy
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.statistics import moments

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Profile

ROW = (40, 16)
BLOSC_FIELDS = {"nbytes": 4, "blocksize": 8, "cbytes": 12}


def coded(profile: Profile, kind: Any = "weights") -> tuple[Encoding, bytes]:
    """Return how a kind of array is encoded, and the content of a chunk without its checksum."""
    spec = ArraySpec(kind, "dense/kernel", ("in", "out"), ROW, "float32")
    found = encoding(spec, profile, 8)
    values = np.random.default_rng(0).normal(size=found.chunks).round(1).astype(np.float32)
    return found, bytes(found.encode(values)[0])


def decode(found: Encoding, content: bytes) -> np.ndarray[Any, Any]:
    """Decode a chunk whose checksum is right."""
    return found.decode(with_checksum(content), np.dtype("float32"))


@pytest.mark.parametrize("kind", ["weights", "gradients"])
@pytest.mark.parametrize("field", BLOSC_FIELDS)
@pytest.mark.parametrize("value", [0, 1, 15, 16, 17, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_forged_header_of_blosc_is_refused(kind: str, field: str, value: int) -> None:
    found, content = coded("fast", kind)
    forged = bytearray(content)
    at = BLOSC_FIELDS[field]
    forged[at : at + 4] = value.to_bytes(4, "little")
    with pytest.raises(ValueError, match="blosc"):
        decode(found, bytes(forged))


@pytest.mark.parametrize("value", [0, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_forged_place_of_a_block_is_refused(value: int) -> None:
    found, content = coded("fast")
    forged = bytearray(content)
    forged[16:20] = value.to_bytes(4, "little")  # where the first block begins
    with pytest.raises(ValueError, match="blosc"):
        decode(found, bytes(forged))


@pytest.mark.parametrize("profile", ["none", "fast", "compact"])
@pytest.mark.parametrize("length", [0, 1, 3, 15, 16, 17])
def test_a_chunk_that_ends_early_is_refused(profile: Profile, length: int) -> None:
    found, content = coded(profile)
    with pytest.raises(ValueError, match=r"blosc|pcodec|reshape|multiple"):
        decode(found, content[:length])


def test_a_chunk_of_blosc_that_holds_more_than_a_chunk_is_refused() -> None:
    found, _ = coded("fast")
    larger = Encoding((1000, *found.chunks[1:]), None, blosc=found.blosc)
    content = bytes(larger.encode(np.zeros(larger.chunks, np.float32))[0])
    with pytest.raises(ValueError, match="are to hold"):
        decode(found, content)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), profile=st.sampled_from(["fast", "compact"]))
def test_changed_bytes_with_a_right_checksum_decode_to_a_chunk_or_are_refused(
    data: st.DataObject, profile: Profile
) -> None:
    found, content = coded(profile, data.draw(st.sampled_from(["weights", "gradients"])))
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(found, bytes(changed))
    except ValueError:
        return
    assert decoded.shape == found.chunks


@pytest.mark.parametrize("copy", [copy_strided, numpy_copy])
@pytest.mark.parametrize(
    ("target", "source"),
    [
        (np.zeros(3, np.float32), np.zeros(3, np.int32)),
        (np.zeros(3, np.float32), np.zeros(3, ">f4")),
        (np.zeros(3, object), np.zeros(3, object)),
        (np.zeros(3, object), np.zeros(3, np.int64)),
        (np.zeros((3, 1), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(3, [("a", "O")]), np.zeros(3, [("a", "O")])),
    ],
    ids=["other kind", "other order", "objects", "pointers", "shape", "objects inside"],
)
def test_only_plain_elements_of_one_type_are_copied(copy: Any, target: Any, source: Any) -> None:
    before = target.copy()
    with pytest.raises(ValueError, match="same shape and type of plain elements"):
        copy(target, source)
    assert (target == before).all()


@pytest.mark.skipif(not moments.IS_COMPILED, reason="built without a compiler")
def test_the_compiled_sums_refuse_extents_whose_product_overflows() -> None:
    from steptrace_schema.statistics._describe import row_sums

    empty = np.zeros((2**60, 0), np.float32)
    for out in (np.zeros(0), np.zeros(6), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="do not fit"):
            row_sums(empty, None, out)
    with pytest.raises(TypeError, match="two dimensions"):
        row_sums(np.zeros((2, 2), object), None, np.zeros((2, 6)))


@pytest.mark.skipif(not moments.IS_COMPILED, reason="built without a compiler")
@pytest.mark.parametrize("quantiles", [[-1.0], [4.0], [0.5, 0.1], [np.nan], [0.0] * 17])
def test_the_compiled_statistics_refuse_percentiles_that_there_are_not(
    quantiles: list[float],
) -> None:
    from steptrace_schema.statistics._describe import describe_rows

    with pytest.raises(ValueError, match="do not fit"):
        describe_rows(np.zeros((2, 4)), None, 1, np.array(quantiles), np.zeros((2, 10)))


def test_the_copy_under_test_is_the_compiled_one_where_there_is_one() -> None:
    assert IS_COMPILED == moments.IS_COMPILED
