"""The demo: real images, one corrupted batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.datasets import load_digits

from steptrace_schema.errors import TraceExistsError
from steptrace_tracer.commands.demo import _batches, _clear, run_demo

if TYPE_CHECKING:
    from pathlib import Path


def test_one_batch_is_corrupted_and_all_others_are_digits_with_their_labels() -> None:
    x, y = _batches(70, 42)
    assert x.shape == (70 * 32, 8, 8, 1)
    digits = load_digits()
    labels = {
        (image / 16).astype(np.float32).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    wrong = slice(42 * 32, 43 * 32)
    right = np.delete(np.arange(len(x)), np.arange(len(x))[wrong])
    assert all(labels[x[i].tobytes()] == y[i] for i in right)
    assert all((image / 16).astype(np.float32).tobytes() in labels for image in x[wrong])
    assert x[wrong].max() == 16
    assert any(labels[(x[i] / 16).tobytes()] != y[i] for i in range(wrong.start, wrong.stop))


def test_a_trace_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "digits.zarr"
    other.mkdir()
    (other / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"steptrace": {"version": "1.0",'
        ' "run_id": "a", "created": "", "producer": "", "policy": {}}}}'
    )
    with pytest.raises(TraceExistsError, match="not a trace of the demo"):
        _clear(other)
    assert other.exists()


@pytest.mark.slow
def test_the_demo_finds_its_corrupted_batch_and_writes_a_report(tmp_path: Path) -> None:
    report = run_demo(tmp_path, 100)
    assert report.stat().st_size > 100_000
