"""What the format does not define is no violation of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from steptrace_analyzer import open_trace
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


@pytest.mark.parametrize(("version", "rules"), [("1.99", set()), ("1.3", {"R13"})])
def test_statistics_of_a_later_minor_version_stand_behind_those_that_are_known(
    trace: Path, version: str, rules: set[str]
) -> None:
    key = "statistics/weights/values"
    group = zarr.open_group(trace, mode="r+")
    old: Any = group[key]
    values, names = np.asarray(old), {**old.attrs}
    more = np.concatenate([values, values[..., :1]], axis=-1)
    names["statistics"] = [*names["statistics"], "kurtosis"]
    dims = ("step", "tensor", "statistic")
    del group[key]
    new = group.create_array(key, data=more, fill_value=np.nan, dimension_names=dims)
    new.update_attributes(names)
    root = json.loads((trace / "zarr.json").read_text())
    del root["consolidated_metadata"]
    root["attributes"]["steptrace"]["version"] = version
    (trace / "zarr.json").write_bytes(sealed(root))
    assert {problem.rule for problem in validate(trace)} == rules
    if not rules:
        found = open_trace(trace)["statistics/weights"]["values"]
        assert np.array_equal(found.sel(statistic="kurtosis"), found.sel(statistic="mean"))


@pytest.mark.parametrize("text", ["[1]", "null", "{}", '{"node_type": 3}'])
def test_metadata_that_are_of_nothing_are_named(trace: Path, text: str) -> None:
    root = json.loads((trace / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (trace / "zarr.json").write_bytes(sealed(root))
    (trace / "weights/dense/kernel/zarr.json").write_text(text)
    (problem,) = validate(trace)
    assert "'weights/dense/kernel' is " in problem.found
    assert "neither an array nor a group" in problem.found


def test_tensors_of_statistics_are_names(trace: Path) -> None:
    array = zarr.open_array(trace / "statistics/weights/values", mode="r+")
    array.update_attributes({"tensors": [1]})
    assert {problem.rule for problem in validate(trace)} == {"R13", "R20"}


@pytest.mark.parametrize("version", ["1", "1.x", "1.3.0", "1.3\n"])
def test_a_version_is_two_numbers(trace: Path, version: str) -> None:
    change_root(trace, lambda root: root.update(version=version))
    (problem,) = validate(trace)
    assert problem.rule == "R4"
    assert "'version'" in problem.found


def test_a_group_that_a_program_has_added_is_its_own(trace: Path) -> None:
    group = zarr.open_group(trace, mode="r+")
    group.create_array("x-mine/a", shape=(3,), dtype="float32", fill_value=0)[...] = np.arange(3)
    assert validate(trace) == []
