"""A read of a trace fetches and decodes little more than it returns, and returns what Zarr does."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from journals import attributes, write_journal
from steptrace_analyzer.trace import stored
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.objects import FolderSource
from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.moving.recover import recover
from steptrace_schema.store.stored_array import read_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.encoding.objects import Content, Range, Read
    from steptrace_schema.format.policy import Profile

    Values = npt.NDArray[Any]

KERNEL: Final = "weights/dense/kernel"
CHUNK_BYTES: Final = 8 * 256 * 8 * 4
SHAPE: Final = (80, 256, 64)
MOST: Final = 8
"""Bytes that may be fetched for each byte that is returned, besides one chunk."""


def _write(store: Path, profile: Profile) -> Path:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    steps = [(step, {KERNEL: row}) for step, row in enumerate(values)]
    fields: dict[str, Any] = {"shard_steps": 32, "policy": Policy(profile=profile)}
    write_journal(store, steps, **fields).close("complete", None, attributes(**fields))
    recover(store)
    return store


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trace of three shards, each of several chunks along steps and units."""
    store = _write(tmp_path_factory.mktemp("trace") / "run.zarr", "fast")
    array = zarr.open_array(store / KERNEL, mode="r")
    assert (array.shards, array.chunks) == ((32, 256, 64), (8, 256, 8))
    return store


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of bytes that are fetched from stored objects, as they are."""
    found: list[int] = []

    open_object = FolderSource.opened

    @contextlib.contextmanager
    def opened(source: FolderSource, name: str) -> Iterator[Read]:
        with open_object(source, name) as read:

            def counted(ranges: Sequence[Range]) -> Iterator[Content]:
                for content in read(ranges):
                    found.append(len(content))
                    yield content

            yield counted

    monkeypatch.setattr(FolderSource, "opened", opened)
    return found


def _kernel(path: Path) -> xr.DataArray:
    kernel = open_trace(path)[KERNEL]
    assert isinstance(kernel, xr.DataArray)
    return kernel


def _as_zarr(path: Path) -> Values:
    return np.asarray(zarr.open_array(path / KERNEL, mode="r")[...])


@pytest.fixture(scope="module")
def kernel(trace: Path) -> xr.DataArray:
    return _kernel(trace)


@pytest.fixture(scope="module")
def values(trace: Path) -> Values:
    return _as_zarr(trace)


READS: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "one step by position": ({"step": 3}, (3,)),
    "one unit over all steps": ({"d1": 7}, (slice(None), slice(None), 7)),
    "a few steps": ({"step": slice(16, 20)}, (slice(16, 20),)),
    "one unit at one step": ({"step": 40, "d1": 7}, (40, slice(None), 7)),
    "steps that are far from each other": ({"step": slice(None, None, 40)}, (slice(0, 80, 40),)),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_fetches_little_more_than_it_returns(
    trace: Path, fetched: list[int], read: str
) -> None:
    kernel = _kernel(trace)
    dims, index = READS[read]
    fetched.clear()
    values = kernel.isel(dims).compute().to_numpy()
    assert np.array_equal(values, _as_zarr(trace)[index])
    most = MOST * (MOST if len(dims) == 2 else 1)  # a chunk spans as many units, too
    assert 0 < sum(fetched) <= most * values.nbytes + CHUNK_BYTES


def test_a_step_is_read_by_its_label_as_by_its_position(trace: Path, fetched: list[int]) -> None:
    kernel = _kernel(trace)
    fetched.clear()
    values = kernel.sel(step=50).to_numpy()
    assert np.array_equal(values, _as_zarr(trace)[50])
    assert sum(fetched) <= MOST * values.nbytes


def _range(extent: int) -> st.SearchStrategy[slice]:
    bounds = st.tuples(*[st.integers(0, extent)] * 2).map(sorted)
    return bounds.filter(lambda b: b[0] < b[1]).map(lambda b: slice(*b))


def _part(extent: int) -> st.SearchStrategy[Any]:
    """Return selections of an axis; dask by itself gets some wrong that are empty in a block."""
    number, step = st.integers(-extent, extent - 1), st.integers(1, 8)
    forward = st.builds(lambda part, n: slice(part.start, part.stop, n), _range(extent), step)
    backward = step.map(lambda n: slice(None, None, -n))
    return number | forward | backward | st.lists(number, min_size=1, max_size=5)


def _outer(values: Values, index: tuple[Any, ...]) -> Values:
    for axis in reversed(range(len(index))):
        part = np.array(index[axis], np.intp) if isinstance(index[axis], list) else index[axis]
        values = values[(*[slice(None)] * axis, part)]
    return values


INDEX: Final = st.tuples(*(_part(extent) for extent in SHAPE))


@settings(max_examples=60)
@given(index=INDEX)
def test_any_selection_has_the_values_that_zarr_reads(
    kernel: xr.DataArray, values: Values, index: tuple[Any, ...]
) -> None:
    selected = kernel.isel(dict(zip(kernel.dims, index, strict=True)))
    expected = _outer(values, index)
    assert selected.shape == expected.shape
    assert selected.to_numpy().tobytes() == expected.tobytes()


@settings(max_examples=40)
@given(data=st.data())
def test_a_selection_of_a_selection_has_the_values_that_zarr_reads(
    kernel: xr.DataArray, values: Values, data: st.DataObject
) -> None:
    selected, expected = kernel, values
    for part in (_range, _part):
        index = tuple(data.draw(part(n)) for n in expected.shape)
        selected = selected.isel(dict(zip(selected.dims, index, strict=True)))
        expected = _outer(expected, index)
    assert selected.to_numpy().tobytes() == expected.tobytes()


@settings(max_examples=60)
@given(index=INDEX)
def test_every_axis_of_a_stored_array_is_indexed_by_itself(
    trace: Path, values: Values, index: tuple[Any, ...]
) -> None:
    source = stored._StoredArray(trace, read_arrays(trace)[KERNEL], None)
    assert source[index].tobytes() == _outer(values, index).tobytes()


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")
@pytest.mark.parametrize("profile", ["none", "compact"])
def test_a_packed_trace_reads_the_same_values(
    trace: Path, values: Values, tmp_path: Path, profile: Profile
) -> None:
    packed = pack(trace, tmp_path / "run.zarr.zip", profile=profile)
    kernel = _kernel(packed)
    assert np.array_equal(kernel.isel(step=3).to_numpy(), values[3])
    assert np.array_equal(kernel.isel(d1=7).to_numpy(), values[:, :, 7])
    assert np.array_equal(kernel.isel(step=[70, 3]).to_numpy(), values[[70, 3]])


def test_an_array_of_another_program_is_indexed_alike(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    array = zarr.create_array(tmp_path / "weights" / "a", data=values, chunks=(5, 100, 20))
    with pytest.raises(TraceError, match="does not write"):
        Encoding.of(array)
    metadata = json.loads((tmp_path / "weights/a/zarr.json").read_text())
    found = read_arrays(tmp_path, {"weights/a": metadata})["weights/a"]
    source = stored._StoredArray(tmp_path, found, None)
    for index in ((3, slice(None), slice(1, 60, 7)), ([70, 3, 3], slice(None), 7)):
        assert np.array_equal(source[index], _outer(values, index))
