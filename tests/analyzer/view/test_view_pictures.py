"""The data of the explorer's pictures, without a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from plot_traces import make_trace, small_network
from steptrace_analyzer.plots.layer_arrays import Subject, layer_variables, nearest_step, subjects
from steptrace_analyzer.plots.pictures import Limits, make_frame, make_image, step_limits
from steptrace_analyzer.plots.subject import read_step
from steptrace_analyzer.trace.rows import Rows
from steptrace_analyzer.view import check_installed
from steptrace_analyzer.view.choice import all_steps, nearest
from steptrace_analyzer.view.page_text import html, shown
from steptrace_analyzer.view.run import Run, newer, open_runs
from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import variable_dims
from steptrace_schema.storage.locks import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

KERNEL = Subject("weights", "kernel", "weights", "net/layer/kernel", "variable")


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((7,), ("Dense",)),
        ((12, 5), ("Dense",)),
        ((3, 3, 2, 6), ("Conv2D",)),
        ((3, 3, 3, 2, 4), ("Conv3D",)),
        ((8, 4, 16), ("EinsumDense", "MultiHeadAttention")),
        ((6, 12), ("LSTM",)),
    ],
)
def test_every_pixel_says_where_its_value_is(
    shape: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    frame = make_frame(values, KERNEL, variable_dims(len(shape)), classes, Limits([3.0], -3.0))
    image = make_image(values, frame, KERNEL, classes)
    inside = np.isfinite(image.values)
    assert inside.sum() == values.size
    index = tuple(frame.places[name][inside] for name in variable_dims(len(shape)))
    np.testing.assert_array_equal(values[index].astype(np.float32), image.values[inside])
    opaque = image.rgba.view(np.uint8).reshape(*image.rgba.shape, 4)[..., 3] == 255
    np.testing.assert_array_equal(opaque, inside)


def test_a_pixel_that_is_a_norm_over_inputs_says_its_place_in_the_filter() -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 64, 8))
    frame = make_frame(values, KERNEL, variable_dims(4), ("Conv2D",), Limits([9.0], 0.0))
    image = make_image(values, frame, KERNEL, ("Conv2D",))
    assert list(frame.places) == ["kh", "kw", "out"]
    inside = np.isfinite(image.values)
    norms = np.sqrt((values**2).sum(axis=2))
    index = tuple(frame.places[name][inside] for name in ("kh", "kw", "out"))
    np.testing.assert_allclose(norms[index], image.values[inside], rtol=1e-6)


def test_a_block_of_a_large_matrix_says_where_it_ends() -> None:
    values = np.zeros((600, 300))
    values[599, 299] = 4.0
    frame = make_frame(values, KERNEL, ("in", "out"), ("Dense",), Limits([4.0], 0.0))
    image = make_image(values, frame, KERNEL, ("Dense",))
    place = np.unravel_index(np.nanargmax(image.values), image.values.shape)
    assert image.values[place] == 4.0
    assert (frame.places["in"][place], frame.places["out"][place]) == (599, 299)
    assert "block" in frame.note


def test_a_value_that_is_not_finite_has_its_own_colour() -> None:
    values = np.array([[1.0, np.nan]])
    frame = make_frame(values, KERNEL, ("in", "out"), ("Dense",), Limits([1.0], -1.0))
    pixels = make_image(values, frame, KERNEL, ("Dense",)).rgba.view(np.uint8).reshape(1, 2, 4)
    assert pixels[0, 1].tolist() == [255, 0, 200, 255]


def test_colours_are_of_all_steps_where_there_are_statistics() -> None:
    kernel = np.ones((5, 40, 10), np.float32)
    kernel[3] *= 7
    trace = make_trace({"weights/net/layer/kernel": kernel})
    limits = step_limits(trace, Rows(trace), KERNEL, ("Dense",), range(5))
    assert limits.magnitudes == [1.0, 1.0, 1.0, 7.0, 1.0]
    bare = trace.copy()
    del bare["statistics"]
    limits = step_limits(bare, Rows(bare), KERNEL, ("Dense",), range(5))
    assert max(limits.magnitudes) == 7.0


def test_rows_are_those_that_are_recorded(healthy: xr.DataTree) -> None:
    rows = Rows(healthy)
    for step in (0, 7, 8, 33, 59):
        for kind in ("weights", "updates", "gradients"):
            kept = rows.read(kind, "sequential/dense/kernel", step)
            wanted = read_step(healthy, kind, "sequential/dense/kernel", step)
            np.testing.assert_array_equal(kept, wanted)
    assert rows.has("weights", "sequential/dense/kernel", 60)
    assert not rows.has("updates", "sequential/dense/kernel", 60)
    assert not rows.has("weights", "sequential/other/kernel", 0)


def test_rows_that_were_read_long_ago_are_forgotten(
    healthy: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steptrace_analyzer.trace.rows._MOST_KEPT", 10_000)
    rows = Rows(healthy)
    for step in range(60):
        rows.read("weights", "sequential/dense/kernel", step)
        assert sum(block.nbytes for block in rows._kept.values()) == rows._bytes < 20_000


def test_only_the_chunks_of_the_step_are_read(
    healthy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steptrace_analyzer.trace.stored import _StoredArray

    read: list[tuple[str, Any]] = []
    original = _StoredArray._read

    def watched(self: Any, region: Any) -> Any:
        read.append((self.array.metadata.key, region))
        return original(self, region)

    (run,) = open_runs([healthy_path])
    monkeypatch.setattr(_StoredArray, "_read", watched)
    run.rows.read("weights", "sequential/dense/kernel", 12)
    assert [key for key, _ in read] == ["weights/sequential/dense/kernel"]
    assert read[0][1][0] == slice(8, 16)


def test_a_layer_shows_what_is_recorded_of_it() -> None:
    trace = make_trace(small_network())
    (first, *_) = layer_variables(trace, "net/conv")
    assert first == "net/conv/kernel"
    slots = [subject.slot for subject in subjects(trace, "net/conv", first)]
    assert slots[:3] == ["weights", "update", "gradient"]
    assert [s.slot for s in subjects(trace, "net/flatten", None) if s.kind == "weights"] == []


def test_the_nearest_recorded_step_is_taken(healthy: xr.DataTree) -> None:
    steps = all_steps([np.array([0, 10, 20]), np.array([5, 10])])
    assert steps.tolist() == [0, 5, 10, 20]
    assert [nearest(steps, step) for step in (-3, 8, 100)] == [0, 2, 3]
    assert nearest_step(healthy, "probe", "sequential/dense/output", 1000) == 59
    assert nearest_step(healthy, "probe", "sequential/dense/output", -1) is None


def test_runs_of_one_name_are_told_apart(
    write_run: Callable[..., Path], healthy_path: Path
) -> None:
    runs = open_runs([healthy_path, write_run(seed=1)])
    assert len({run.name for run in runs}) == 2
    assert all(run.name.endswith("run.zarr") for run in runs)
    assert [run.name for run in open_runs([healthy_path])] == ["run.zarr"]
    assert runs[0].last_step == 59
    assert runs[0].steps[-1] == 60
    assert newer(runs[0]) is None


def test_findings_are_those_of_the_diagnosis(write_run: Callable[..., Path]) -> None:
    from steptrace_analyzer import diagnose

    path = write_run(input_scale={37: 100.0})
    (run,) = open_runs([path])
    assert not run.findings_known
    assert run.findings == diagnose(path).findings
    assert run.findings_known


def test_text_is_no_markup_and_no_formula() -> None:
    assert html("<b>$$x$$</b>").startswith("&lt;b&gt;")
    assert "$$" not in shown("$$x$$")
    assert "\\(" not in shown("\\(x\\)")
    assert shown("a\nb") == "a\\nb"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steptrace_analyzer.view.find_spec", lambda name: None)
    with pytest.raises(TraceError, match=r"pip install 'steptrace\[view\]'"):
        check_installed()


def test_a_run_keeps_its_place(healthy_path: Path, healthy: xr.DataTree) -> None:
    run = Run("r", Path(healthy_path), healthy)
    assert run.layers == ("sequential/dense", "sequential/dense_1")
    assert run.first_layer == "sequential/dense"


def test_a_run_that_is_recorded_is_followed_at_its_last_step(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    document = pytest.importorskip("bokeh.document").Document()
    from steptrace_analyzer.view.session import Session

    path = tmp_path / "run.zarr"
    run = make_run()
    records = list(run.records())
    journal = run._create_journal(path, records)
    for step, arrays in records[:20]:
        journal.append(step, arrays)
    with exclusive(journal.directory):
        runs = open_runs([path])
        assert runs[0].is_recording
        session = Session(document, runs)
        assert session.controls.slider.title == "Step 19"
        assert "recording" in session.controls.status.text
        for step, arrays in records[20:30]:
            journal.append(step, arrays)
        asyncio.run(session._follow())
        session._grow()
        assert session.controls.slider.title == "Step 29"
        assert session.controls.slider.end == 29
        session.change(step=3)
        session._catch_up()
        journal.append(*records[30])
        asyncio.run(session._follow())
        session._grow()
        assert session.controls.slider.title == "Step 3"
        assert session.controls.slider.end == 30
