"""What the format does not define is no violation of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = Path(__file__).parents[3] / "schema" / "conformance"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a valid trace, as a folder."""
    path = tmp_path / "dense.zarr"
    with zipfile.ZipFile(CASES / "valid" / "dense-1.3.zarr.zip") as archive:
        archive.extractall(path)
    return path


def change_root(trace: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the root's attributes, and state its checksum."""
    root = json.loads((trace / "zarr.json").read_text())
    change(root["attributes"]["steptrace"])
    (trace / "zarr.json").write_bytes(sealed(root))


def test_a_kind_of_a_later_minor_version_is_not_checked(trace: Path) -> None:
    group = zarr.open_group(trace, mode="r+")
    for path in ("later/a", "later/step", "statistics/later/values"):
        group.create_array(path, shape=(3,), dtype="int64", dimension_names=["step"])
    change_root(
        trace, lambda root: root.update(version="1.99") or root["steps_recorded"].update(later=3)
    )
    assert validate(trace) == []


def test_a_group_that_a_program_has_added_is_its_own(trace: Path) -> None:
    group = zarr.open_group(trace, mode="r+")
    group.create_array("x-mine/a", shape=(3,), dtype="float32", fill_value=0)[...] = np.arange(3)
    assert validate(trace) == []
