"""A comparison as a page, as SARIF and as JUnit: they say what was found, and no text is markup."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest

from figure_layout import layout_faults
from plot_traces import make_trace
from steptrace_analyzer import diff, diff_steps, open_trace
from steptrace_analyzer.cli import app
from steptrace_analyzer.differences.divergence_result import Place
from steptrace_analyzer.plots.divergence import (
    difference_matrix,
    layer_distances,
    plot_difference_map,
    plot_divergence,
)
from steptrace_analyzer.report.comparison import write_comparison
from steptrace_analyzer.report.junit import junit_text
from steptrace_analyzer.report.sarif import sarif_document
from steptrace_schema.errors import TraceError
from steptrace_schema.format.attributes import Layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from steptrace_analyzer.differences import DiffResult


@pytest.fixture
def other(write_run: Callable[..., Path]) -> Path:
    return write_run(hidden_rate={20: 1.5})


@pytest.fixture
def result(healthy_path: Path, other: Path) -> DiffResult:
    return diff(healthy_path, other)


def test_the_distance_of_a_layer_is_that_of_numpy(
    healthy_path: Path, other: Path, result: DiffResult
) -> None:
    a, b = open_trace(healthy_path), open_trace(other)
    sides = [
        {n: np.asarray(t[f"weights/sequential/dense/{n}"], "f8") for n in ("kernel", "bias")}
        for t in (a, b)
    ]
    expected = np.zeros(61)
    for step in range(61):
        for name in ("kernel", "bias"):
            x, y = (side[name][step] for side in sides)
            apart = np.sqrt(np.mean((x - y) ** 2))
            if apart:
                expected[step] = max(expected[step], apart / np.sqrt(np.mean(x**2)))
    found = {line.layer: line for line in layer_distances(result, "weights")}
    np.testing.assert_allclose(found["sequential/dense"].distance, expected, rtol=1e-12)
    assert (expected[:21] == 0).all()
    assert expected[21] > 0


def test_the_table_by_step_is_an_xarray_of_the_same_numbers(result: DiffResult) -> None:
    table = result.to_xarray()
    assert table["distance"].dims == ("tensor", "step")
    bias = table["distance"].sel(tensor="weights/sequential/dense_1/bias")
    (each,) = [e for e in result.by_step if e.name == "weights/sequential/dense_1/bias"]
    np.testing.assert_array_equal(bias.sel(step=each.steps), each.distance)
    assert table.attrs["verdict"] == "differs"
    loss = table["distance"].sel(tensor="scalars/loss")
    assert np.isnan(loss.sel(step=60))  # the loss has one step less than the weights
    assert result.to_dataframe()["differing"].sum() > 0
    assert "differs" in result._repr_html_()


def test_the_lines_and_the_map_are_drawn(result: DiffResult, healthy_path: Path) -> None:
    figure = plot_divergence(result)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {  # type: ignore[union-attr]
        "sequential/dense",
        "sequential/dense_1",
    }
    assert (
        "no weights differ"
        in plot_divergence(diff(healthy_path, healthy_path)).axes[0].texts[0].get_text()
    )


def _pair(count: int, steps: int, worst: float) -> DiffResult:
    """Compare two runs of so many layers that part at a third of their steps."""
    names = [f"net/encoder/block_{n // 2}_projection_{n % 2}" for n in range(count)]
    layers = [Layer(path=n, name=n, class_name="Dense") for n in names]
    rng = np.random.default_rng(0)
    sides = []
    for scale in (0.0, worst):
        walk = np.exp(np.linspace(-12, 0, steps + 1)) * (np.arange(steps + 1) > steps // 3)
        own = np.random.default_rng(1)
        arrays: dict[str, Any] = {"scalars/loss": np.ones(steps, "f4")}
        for name in names:
            apart = scale * walk[:, None, None] * rng.normal(size=(3, 4))
            arrays[f"weights/{name}/kernel"] = (own.normal(size=(3, 4)) + apart).astype("f4")
        sides.append(make_trace(arrays, layers=layers))
    return diff(sides[0], sides[1], names=("/runs/of/a/long/name/a.zarr", "b.zarr"))


@pytest.mark.parametrize(("count", "steps"), [(1, 12), (2, 40), (60, 300)])
@pytest.mark.parametrize("worst", [1.0, 1e30, np.nan])
def test_the_lines_of_any_number_of_layers_can_be_read(
    count: int, steps: int, worst: float
) -> None:
    result = _pair(count, steps, worst)
    figure = plot_divergence(result)
    assert layout_faults(figure) == []
    found = layer_distances(result, "weights")
    assert len(found) == count
    lost = any(np.isinf(line.distance).any() for line in found)
    assert lost == np.isnan(worst)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 3, 16, 32), (512, 64)])
@pytest.mark.parametrize("value", [1e-7, 1e30, np.nan])
def test_the_map_of_a_tensor_of_any_shape_can_be_read(shape: tuple[int, ...], value: float) -> None:
    a, b = np.zeros(shape, "f4"), np.zeros(shape, "f4")
    b[...] = np.float32(value) * np.linspace(-1, 1, b.size).reshape(shape).astype("f4")
    name = "net/encoder/block_12/attention/query/kernel"
    figure = plot_difference_map(a, b, Place(1234, "weights", "weights", name))
    assert layout_faults(figure) == []


def test_the_map_has_the_difference_at_its_place() -> None:
    a, b = np.zeros((3, 4, 5), "f4"), np.zeros((3, 4, 5), "f4")
    b[1, 2, 3] = 0.5
    a[0, 0, 0] = np.nan
    matrix = difference_matrix(a, b)
    assert matrix.shape == (12, 5)
    assert matrix[4 + 2, 3] == 0.5
    assert np.isinf(matrix[0, 0])
    assert np.count_nonzero(matrix) == 2
    assert not difference_matrix(a, a).any()
    figure = plot_difference_map(a, b, Place(4, "forward", "activations", "a/output"))
    assert figure.axes[0].images[0].get_array().shape == (12, 5)  # type: ignore[union-attr]
    large = plot_difference_map(
        np.zeros((1000, 500)), np.ones((1000, 500)), Place(None, "weights", "weights", "a")
    )
    assert max(large.axes[0].images[0].get_array().shape) <= 192  # type: ignore[union-attr]


def test_the_page_has_everything_and_needs_nothing_else(
    result: DiffResult, healthy_path: Path, other: Path, tmp_path: Path
) -> None:
    page = write_comparison(result, healthy_path, other, tmp_path / "diff.html").read_text()
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=.(?!data:)", page) == []
    assert page.count("<img") == 2
    assert "step 21, weights, weights/sequential/dense/kernel" in page
    assert "<dd>differs</dd>" in page
    assert "weights/sequential/dense_1/bias" in page


def test_steps_of_long_runs_are_written_whole(tmp_path: Path) -> None:
    sides = [
        make_trace(
            {"scalars/loss": np.array([1, 2, 3 + n], "f4")},
            steps={"scalars": [0, 10, 123456]},
        )
        for n in (0, 1)
    ]
    result = diff(sides[0], sides[1], names=("a", "b"))
    page = write_comparison(result, sides[0], sides[1], tmp_path / "diff.html").read_text()
    assert '<td class="number">123456</td>' in page
    assert "step 123456, loss, scalars/loss" in page


def test_what_a_trace_says_is_no_markup(
    healthy_path: Path, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    sides = []
    for number, path in enumerate((healthy_path, write_run(learning_rates={20: 0.1}))):
        target = tmp_path / f"{number}.zarr"
        shutil.copytree(path, target)
        root = json.loads((target / "zarr.json").read_text())
        root.pop("consolidated_metadata")
        root["attributes"]["steptrace"]["loss"] = f"<script>alert({number})</script>\x1b[31m"
        (target / "zarr.json").write_text(json.dumps(root))
        sides.append(target)
    result = diff(*sides)
    assert result.divergence is not None
    assert any("<script>" in text for text in result.divergence.recognised)
    page = write_comparison(result, sides[0], sides[1], tmp_path / "diff.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    for text in (
        page,
        json.dumps(sarif_document(result, fails=True)),
        junit_text(result, fails=True),
    ):
        assert "\x1b" not in text
    ElementTree.fromstring(junit_text(result, fails=True))


def test_a_page_of_a_fingerprint_says_why_there_is_no_map(
    healthy_path: Path, other: Path, tmp_path: Path
) -> None:
    golden = tmp_path / "golden.fp.json"
    page = tmp_path / "diff.html"
    assert app.run(["fingerprint", str(healthy_path), "-o", str(golden)]) == 0
    assert app.run(["diff", str(other), "--golden", str(golden), "--html", str(page)]) == 1
    assert "are not recorded in both runs" in page.read_text()
    assert "<img" not in page.read_text()
    with pytest.raises(TraceError, match="is a folder"):
        write_comparison(diff(golden, other), golden, other, tmp_path)


def test_a_page_of_two_steps_has_the_tensors(healthy_path: Path, tmp_path: Path) -> None:
    result = diff_steps(healthy_path, 10, 20)
    page = write_comparison(result, healthy_path, None, tmp_path / "diff.html").read_text()
    assert "run.zarr step 10 and run.zarr step 20" in page
    assert "weights/sequential/dense/kernel" in page


def test_sarif_has_the_place_of_the_difference(result: DiffResult, healthy_path: Path) -> None:
    document = sarif_document(result, fails=True)
    assert (document["version"], len(document["runs"])) == ("2.1.0", 1)
    (run,) = document["runs"]
    (found,) = run["results"]
    rule = run["tool"]["driver"]["rules"][found["ruleIndex"]]
    assert (found["ruleId"], rule["id"], found["level"]) == ("differs", "differs", "error")
    (location,) = found["locations"]
    assert location["logicalLocations"][0]["fullyQualifiedName"] == result.divergence.place.name  # type: ignore[union-attr]
    assert location["physicalLocation"]["artifactLocation"]["uri"].endswith("/run.zarr")
    assert found["properties"]["step"] == 21
    assert found["properties"]["phase"] == "weights"
    assert "step 21, weights" in found["message"]["text"]
    assert sarif_document(result, fails=False)["runs"][0]["results"][0]["level"] == "note"
    equal = sarif_document(diff(healthy_path, healthy_path), fails=False)
    assert equal["runs"][0]["results"] == []
    json.dumps(document, allow_nan=False)


def test_junit_has_a_test_for_each_tensor_and_one_for_the_verdict(
    result: DiffResult, healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    suite = ElementTree.fromstring(junit_text(result, fails=True))[0]
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["verdict", *(t.path for t in result.tensors if t.differs)]
    assert suite.get("tests") == str(len(result.tensors) + 1) == str(len(suite))
    assert suite.get("failures") == str(len(failed))
    allowed = ElementTree.fromstring(junit_text(result, fails=False))[0]
    assert (allowed.get("failures"), allowed.get("errors")) == ("0", "0")
    unlike = diff(healthy_path, write_run(steps=30))
    skipped = ElementTree.fromstring(junit_text(unlike, fails=False))[0]
    assert skipped.get("skipped") == str(len(unlike.mismatches)) != "0"
    none = diff(healthy_path, healthy_path, shift=1000)
    assert ElementTree.fromstring(junit_text(none, fails=True))[0].get("errors") == "1"


def test_the_command_writes_the_files_that_are_wanted(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, other: Path, tmp_path: Path
) -> None:
    names: dict[str, Any] = {n: str(tmp_path / f"diff.{n}") for n in ("html", "sarif", "junit")}
    options = [part for name, path in names.items() for part in (f"--{name}", path)]
    assert app.run(["diff", str(healthy_path), str(other), *options]) == 1
    assert capsys.readouterr().err.count("wrote ") == 3
    assert json.loads((tmp_path / "diff.sarif").read_text())["runs"][0]["results"]
    assert ElementTree.parse(tmp_path / "diff.junit").getroot()[0].get("errors") == "0"
    assert app.run(["diff", str(healthy_path), str(tmp_path), "--ranks", *options]) == 2
    assert app.run(["diff", str(healthy_path), str(other), "--html", "s3://bucket/a.html"]) == 2
