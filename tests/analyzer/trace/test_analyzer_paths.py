"""Every public function of the analyzer accepts an opened trace or where one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import steptrace_analyzer
from plot_traces import make_trace, small_network
from steptrace_analyzer import plots
from steptrace_analyzer.report import write_report
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.select import get_tensor, has_tensor, tensor_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import xarray as xr

FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "diagnose": steptrace_analyzer.diagnose,
    "explain_update": lambda trace: steptrace_analyzer.explain_update(
        trace, 3, "dense/kernel"
    ).explain(),
    "explain_gradient": lambda trace: steptrace_analyzer.explain_gradient(
        trace, 3, "dense/kernel"
    ).explain(),
    "diff": lambda trace: steptrace_analyzer.diff(trace, trace, names=("a", "b")),
    "diff_steps": lambda trace: steptrace_analyzer.diff_steps(trace, 3, 4),
    "first_divergence": lambda trace: steptrace_analyzer.first_divergence(trace, trace).verdict,
    "fingerprint": lambda trace: steptrace_analyzer.fingerprint(trace).groups,
    "describe": steptrace_analyzer.describe,
    "trace_attributes": steptrace_analyzer.trace_attributes,
}
VIEWS: dict[str, Callable[[Any], Any]] = {
    "loss": plots.plot_loss,
    "gradients": plots.plot_gradients,
    "weights": lambda trace: plots.plot_weights(trace, "dense", 3),
    "parameters": lambda trace: plots.plot_parameters(trace, "dense", 3),
    "activations": lambda trace: plots.plot_activations(trace, "dense", [3]),
    "maps": lambda trace: plots.plot_activation_maps(trace, "dense", 3),
    "statistics": lambda trace: plots.plot_statistics(trace, "dense"),
    "flow": lambda trace: plots.plot_flow(trace, 3),
    "ridge": lambda trace: plots.plot_ridge(trace, "dense"),
    "strip": lambda trace: plots.plot_strip(trace, "dense", [3, 4]),
    "trajectory": lambda trace: plots.plot_trajectory(trace, "dense"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_path_gives_the_result_of_the_opened_trace(name: str, healthy_path: Path) -> None:
    function = FUNCTIONS[name]
    expected = function(open_trace(healthy_path))
    assert function(healthy_path) == expected
    assert function(str(healthy_path)) == expected


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_takes_a_path_and_the_last_part_of_a_layers_path(
    name: str, healthy_path: Path
) -> None:
    from_path, from_trace = VIEWS[name](str(healthy_path)), VIEWS[name](open_trace(healthy_path))
    assert _titles(from_path) == _titles(from_trace)
    if name not in ("loss", "gradients", "flow"):
        assert "sequential/dense" in from_path.get_suptitle()


def _titles(figure: Any) -> list[str]:
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]


def test_every_public_function_that_takes_a_trace_is_tried() -> None:
    follows_a_path = {"follow", "open_trace", "pack", "unpack"}
    own_test = {"total_gradient", "plot_sensitivity", "animate", "write_report"}
    own_test |= {"write_fingerprint", "read_fingerprint", "save_figure"}  # of files they write
    own_test |= {"final_weights"}  # which this trace does not have
    own_test |= {"diff_checkpoint", "plot_divergence"}  # of a checkpoint, and of a result
    own_test |= {"plot_runs"}  # of several traces
    views = {f"plot_{name}" for name in VIEWS} - {"plot_maps"} | {"plot_activation_maps"}
    assert {*FUNCTIONS, *views, *follows_a_path, *own_test} == set(steptrace_analyzer.__all__)


def test_the_report_takes_a_path(healthy_path: Path, tmp_path: Path) -> None:
    page = write_report(str(healthy_path), tmp_path / "page.html").read_text()
    assert "Size on disk" in page


def test_an_opened_trace_is_packed_from_where_it_is(healthy_path: Path, tmp_path: Path) -> None:
    packed = steptrace_analyzer.pack(open_trace(healthy_path), tmp_path / "a.zip")
    assert (
        packed.read_bytes()
        == steptrace_analyzer.pack(healthy_path, tmp_path / "b.zip").read_bytes()
    )
    folder = steptrace_analyzer.unpack(open_trace(packed), tmp_path / "again.zarr")
    assert steptrace_analyzer.diff(folder, healthy_path).differs is False


def test_the_sum_of_gradients_takes_a_path(healthy_path: Path) -> None:
    with pytest.raises(Exception, match="holds no 'probe_gradients'"):
        steptrace_analyzer.total_gradient(healthy_path)


def test_a_whole_path_is_found_without_a_list_of_all_paths(
    healthy: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_all(*_: object) -> list[str]:
        msg = "all paths were listed"
        raise AssertionError(msg)

    expected = {
        path: get_tensor(healthy, "weights", path) for path in tensor_paths(healthy, "weights")
    }
    monkeypatch.setattr("steptrace_analyzer.trace.select.tensor_paths", list_all)
    for path, tensor in expected.items():
        assert has_tensor(healthy, "weights", path)
        assert get_tensor(healthy, "weights", path).identical(tensor)
    assert not has_tensor(healthy, "weights", "sequential/dense")
    assert not has_tensor(healthy, "weights", "kernel")
    assert not has_tensor(healthy, "optimizer", "sequential/dense/kernel")
    with pytest.raises(AssertionError, match="all paths were listed"):
        get_tensor(healthy, "weights", "dense/kernel")


def test_a_trace_that_is_changed_shows_its_new_paths() -> None:
    arrays = small_network()
    trace = make_trace(arrays)
    before = tensor_paths(trace, "weights")
    trace["weights/net/conv/scale"] = trace["weights/net/conv/bias"]
    assert set(tensor_paths(trace, "weights")) - set(before) == {"net/conv/scale"}
    np.testing.assert_array_equal(
        get_tensor(trace, "weights", "net/conv/scale"), arrays["weights/net/conv/bias"]
    )
    del trace["weights/net"]["conv"]
    assert tensor_paths(trace, "weights") == ["net/dense/kernel"]
