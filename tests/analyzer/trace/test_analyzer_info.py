from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plot_traces import small_trace
from steptrace_analyzer.text import printable
from steptrace_analyzer.trace.info import describe
from steptrace_analyzer.trace.open import open_trace, trace_location
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.errors import TraceError
from steptrace_schema.human import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr


def test_kinds_are_described_with_their_steps_and_bytes(
    healthy: xr.DataTree, healthy_path: Path
) -> None:
    described = describe(healthy, healthy_path)
    kinds = {kind.kind: kind for kind in described.kinds}
    weights = kinds["weights"]
    assert weights.tensors == 4
    assert weights.steps == tuple(range(61))
    assert weights.raw_bytes == 61 * (6 * 5 + 5 + 5 * 3 + 3) * 4
    files = [f for f in (healthy_path / "weights").rglob("*") if f.is_file()]
    assert weights.stored_bytes == sum(f.stat().st_size for f in files)
    assert weights.ratio == weights.stored_bytes / weights.raw_bytes
    assert kinds["scalars"].steps == described.steps == tuple(range(60))
    assert kinds["statistics"].stored_bytes


def test_updates_are_described_as_derived(healthy: xr.DataTree, healthy_path: Path) -> None:
    kinds = {kind.kind: kind for kind in describe(healthy, healthy_path).kinds}
    assert kinds["updates"].stored_bytes is None
    assert kinds["updates"].ratio is None


def test_model_layers_and_loss_are_described(
    healthy: xr.DataTree, healthy_path: Path, make_run: Callable[..., Any]
) -> None:
    described = describe(healthy, healthy_path)
    assert [(layer.path, layer.class_name, layer.activation) for layer in described.layers] == [
        ("sequential/dense", "Dense", "relu"),
        ("sequential/dense_1", "Dense", None),
    ]
    records = [arrays for _, arrays in make_run().records()]
    losses = [float(arrays["scalars/loss"]) for arrays in records[:-1]]
    assert described.loss == pytest.approx((losses[0], losses[-1]))
    assert described.attributes.run_id == "synthetic-0"
    total = sum(f.stat().st_size for f in healthy_path.rglob("*") if f.is_file())
    assert described.stored_bytes == total
    assert described.journal_bytes == 0


def test_a_packed_trace_is_described_with_the_same_bytes(
    healthy: xr.DataTree, healthy_path: Path, tmp_path: Path
) -> None:
    packed = pack(healthy_path, tmp_path / "run.zarr.zip")
    described = describe(open_trace(packed), packed)
    assert described.stored_bytes == describe(healthy, healthy_path).stored_bytes


def test_a_trace_that_is_a_journal_only_is_described(
    tmp_path: Path, make_run: Callable[..., Any]
) -> None:
    path = tmp_path / "killed.zarr"
    make_run(steps=12).write_journal(path)
    described = describe(open_trace(path), path)
    assert described.steps == tuple(range(12))
    assert described.stored_bytes == 0
    assert described.journal_bytes > 0
    assert described.attributes.status == "incomplete"
    assert "recover" in (described.attributes.status_reason or "")


def test_a_description_becomes_strict_json(healthy: xr.DataTree, healthy_path: Path) -> None:
    fields = json.loads(json.dumps(describe(healthy, healthy_path).to_dict(), allow_nan=False))
    assert fields["status"] == "complete"
    assert fields["kinds"][1] == {
        "kind": "weights",
        "tensors": 4,
        "steps": "0-60",
        "step_count": 61,
        "raw_bytes": 61 * 53 * 4,
        "stored_bytes": fields["kinds"][1]["stored_bytes"],
        "ratio": fields["kinds"][1]["ratio"],
    }
    assert fields["layers"][0]["path"] == "sequential/dense"


def test_without_scalars_there_is_no_loss(healthy: xr.DataTree, healthy_path: Path) -> None:
    del healthy["scalars"]
    described = describe(healthy, healthy_path)
    assert described.loss is None
    assert described.steps == ()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (5 * 2**20, "5.24 MB"),
        (2 * 10**15, "2 PB"),
    ],
)
def test_bytes_are_written_with_decimal_units_as_the_tracer_writes_them(
    count: int, text: str
) -> None:
    assert human_bytes(count) == text


def test_a_trace_is_described_by_its_path_alone(healthy: xr.DataTree, healthy_path: Path) -> None:
    expected = describe(healthy, healthy_path)
    assert expected.stored_bytes == sum(
        file.stat().st_size for file in healthy_path.rglob("*") if file.is_file()
    )
    for found in (
        describe(healthy),
        describe(healthy, str(healthy_path)),
        describe(str(healthy_path)),
        describe(healthy_path),
    ):
        assert found == expected


def test_an_opened_trace_says_where_it_is_whatever_folder_is_the_current_one(
    healthy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(healthy_path.parent)
    assert trace_location(open_trace(healthy_path.name)) == healthy_path
    assert trace_location(healthy_path.name) == Path(healthy_path.name)


def test_a_tree_that_was_never_a_store_needs_a_path() -> None:
    with pytest.raises(TraceError, match="was not opened from a path; give its path"):
        describe(small_trace())


def test_control_characters_are_written_as_escapes() -> None:
    assert printable("a\x1b[31mb\rc\u202e") == "a\\x1b[31mb\\rc\\u202e"
    assert printable("Größe 3×3\nzwei") == "Größe 3×3\nzwei"
