"""Paths, dimension names and fill values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from steptrace_schema.errors import TraceError
from steptrace_schema.format.array_table import definition
from steptrace_schema.format.layout import ArraySpec, fill_value, resolve_dims, split_key
from steptrace_schema.format.paths import is_safe_path, safe_path, unique_paths

if TYPE_CHECKING:
    from steptrace_schema.names import Kind


@given(st.text())
def test_a_safe_path_never_leaves_its_folder_and_stays_as_it_is(name: str) -> None:
    path = safe_path(name)
    assert safe_path(path) == path
    for segment in path.split("/"):
        assert segment not in {".", "..", "zarr.json"}
        assert not segment.startswith("__")
        assert "\\" not in segment
        assert "\0" not in segment


@given(st.lists(st.text(max_size=5)))
def test_unique_paths_are_distinct_and_safe(names: list[str]) -> None:
    paths = unique_paths(names)
    assert len(set(paths)) == len(names)
    assert all(is_safe_path(path) for path in paths)


GROUPS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)
SPECS = st.lists(
    st.tuples(GROUPS, st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 3)), max_size=3)),
    max_size=8,
)


@given(SPECS)
def test_resolved_dims_always_open_as_a_tree(
    table: list[tuple[str, list[tuple[str, int]]]],
) -> None:
    specs = resolve_dims(
        ArraySpec(
            "weights", f"{g}/v{i}", tuple(d for d, _ in dims), tuple(n for _, n in dims), "float32"
        )
        for i, (g, dims) in enumerate(table)
    )
    groups: dict[str, dict[str, xr.Variable]] = {}
    for spec in specs:
        name = spec.path.rpartition("/")[2]
        groups.setdefault(spec.group, {})[name] = xr.Variable(spec.dims, np.zeros(spec.shape))
    tree = xr.DataTree.from_dict({g: xr.Dataset(members) for g, members in groups.items()})
    assert all(tree[spec.key].shape == spec.shape for spec in specs)


def test_the_outer_layer_keeps_the_plain_name() -> None:
    inner = ArraySpec("weights", "enc/dense/kernel", ("in", "out"), (7, 9), "float32")
    outer = ArraySpec("weights", "enc/kernel", ("in", "out"), (3, 9), "float32")
    assert [s.dims for s in resolve_dims([inner, outer])] == [("in_1", "out"), ("in", "out")]


def test_samples_of_two_sizes_in_one_group_are_refused() -> None:
    a = ArraySpec("inputs", "x", ("sample",), (4,), "float32")
    b = ArraySpec("inputs", "y", ("sample",), (5,), "float32")
    with pytest.raises(TraceError, match="'sample' has sizes 4 and 5"):
        resolve_dims([a, b])


@pytest.mark.parametrize(
    ("dtype", "expected"), [("int8", -1), ("uint8", 255), ("bool", False), ("int64", -1)]
)
def test_fill_values_go_by_type(dtype: str, expected: object) -> None:
    assert fill_value(dtype) == expected
    assert np.isnan(fill_value("float16"))


def test_a_key_must_begin_with_a_kind() -> None:
    assert split_key("weights/a/b") == ("weights", "a/b")
    with pytest.raises(TraceError, match="does not begin with a kind"):
        split_key("height/a")


WINDOWS: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices there, as Microsoft lists them under "Naming files, paths"."""


@given(
    st.lists(
        st.sampled_from(["con", "CON.x", "a:b", "a.", "a\\b", "n" * 300, "m" * 300, "lpt1", "Nul"])
        | st.text(max_size=12),
        min_size=1,
    )
)
def test_no_name_is_one_that_windows_cannot_have_or_two_are_one_folder_there(
    names: list[str],
) -> None:
    paths = unique_paths(["/".join(names), *names])
    for path in paths:
        assert is_safe_path(path)
        for segment in path.split("/"):
            assert not WINDOWS.fullmatch(segment)
            assert not segment.endswith((".", " "))
            assert not set(segment) & set('<>:"\\|?*')
            assert len(segment) <= 80
    assert len({path.lower() for path in paths}) == len(paths)


def test_long_names_that_begin_alike_stay_apart() -> None:
    first, second = safe_path("x" * 200 + "a"), safe_path("x" * 200 + "b")
    assert first != second
    assert len(first) == len(second) == 80


@pytest.mark.parametrize("path", ["con/kernel", "a./b", "x" * 200])
def test_names_of_traces_before_1_3_are_still_read(path: str) -> None:
    fields = ArraySpec("weights", path, (), (), "float32").to_dict()
    assert ArraySpec.from_dict(fields).path == path


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("inputs", "x_left", "x"),
        ("inputs", "x_gradient_left", "x_gradient"),
        ("inputs", "y_0", "y"),
        ("activations", "net/cell/output_1", "<layer>/output"),
        ("activations", "net/cell/call1_output", "<layer>/call<n>_output"),
        ("activation_gradients", "net/cell/call1_output", "<layer>/output"),
        ("probe", "x_left", "x"),
        ("probe", "net/cell/call2_preactivation", "<layer>/preactivation"),
        ("probe_gradients", "net/cell/saliency_left", "<layer>/saliency"),
        ("scalars", "loss_scale", "loss_scale"),
    ],
)
def test_parts_and_later_calls_hold_what_the_whole_does(kind: Kind, path: str, name: str) -> None:
    found = definition(kind, path)
    assert found is not None
    assert found.name == name


def test_an_array_of_another_name_is_none_of_the_format() -> None:
    assert definition("activations", "net/cell/input") is None
    assert definition("inputs", "z") is None
