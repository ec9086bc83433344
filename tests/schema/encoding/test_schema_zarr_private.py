"""A name that zarr no longer has is named, with the version and what cannot be read without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.core.sync
from zarr.core.metadata import ArrayV3Metadata

from steptrace_schema.encoding.read_region import location_objects
from steptrace_schema.errors import UnsupportedLibraryError


@pytest.fixture
def array(tmp_path: Path) -> zarr.Array[Any]:
    return zarr.create_array(tmp_path / "a", data=np.arange(6.0), chunks=(3,))


def test_a_zarr_that_does_not_name_the_files_of_chunks_is_named(
    array: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ArrayV3Metadata, "encode_chunk_key")
    expected = f"zarr {zarr.__version__} has no 'Array.metadata.encode_chunk_key'"
    with pytest.raises(UnsupportedLibraryError, match=f"{expected}.*files of an array.*install"):
        location_objects(Path("run.zarr"), "a", array)


def test_a_zarr_that_does_not_wait_for_its_stores_is_named_where_a_packed_trace_is_read(
    array: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(zarr.core.sync, "sync")
    expected = f"zarr {zarr.__version__} has no 'zarr.core.sync.sync'"
    location_objects(Path("run.zarr"), "a", array)  # files need no waiting
    with pytest.raises(UnsupportedLibraryError, match=f"{expected}.*packed traces.*install"):
        location_objects(Path("run.zarr.zip"), "a", array)
