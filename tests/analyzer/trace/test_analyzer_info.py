from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from steptrace_analyzer.text import format_bytes, printable
from steptrace_analyzer.trace.info import describe
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_bytes_are_written_with_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_control_characters_are_written_as_escapes() -> None:
    assert printable("a\x1b[31mb\rc\u202e") == "a\\x1b[31mb\\rc\\u202e"
    assert printable("Größe 3×3\nzwei") == "Größe 3×3\nzwei"
