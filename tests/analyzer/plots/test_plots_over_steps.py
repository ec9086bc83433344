from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal

from plot_traces import make_trace, small_layers, small_network, small_trace
from steptrace_analyzer.cli.app import run
from steptrace_analyzer.plots.flow import draw_flow
from steptrace_analyzer.plots.flow_data import flow_data
from steptrace_analyzer.plots.graph import Edge, model_graph
from steptrace_analyzer.plots.ridge import draw_ridge, ridge_data
from steptrace_analyzer.plots.sensitivity import draw_sensitivity, sensitivity_data
from steptrace_analyzer.plots.strips import draw_strip, strip_data
from steptrace_analyzer.plots.trajectory import draw_trajectory, trajectory_data
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import StepNotRecordedError, UnknownNameError
from steptrace_schema.format.attributes import Layer

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr


def residual_trace() -> xr.DataTree:
    """x -> a -> b -> c, and a also into c."""
    taken: dict[str, dict[str, Any]] = {
        "net/a": {"inputs": (), "data": ("x",)},
        "net/b": {"inputs": ("net/a",), "data": ()},
        "net/c": {"inputs": ("net/b", "net/a"), "data": ()},
    }
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"inputs/x": rng.normal(size=(4, 2, 3)).astype("float32")}
    for path in taken:
        arrays[f"activations/{path}/output"] = rng.normal(size=(4, 2, 3)).astype("float32")
        arrays[f"activation_gradients/{path}/output"] = rng.normal(size=(4, 2, 3)).astype("float32")
        arrays[f"weights/{path}/kernel"] = rng.normal(size=(5, 3, 3)).astype("float32")
        arrays[f"weights/{path}/bias"] = rng.normal(size=(5, 3)).astype("float32")
    layers = [
        Layer(path=path, name=path[4:], class_name="Dense", **fields)
        for path, fields in taken.items()
    ]
    return make_trace(arrays, layers=layers)


def test_the_graph_has_the_recorded_connections_and_a_lane_around_what_is_between() -> None:
    graph = model_graph(residual_trace())
    assert graph.recorded
    assert [node.path for node in graph.nodes] == ["x", "net/a", "net/b", "net/c"]
    assert graph.edges == (Edge(0, 1, 0), Edge(1, 2, 0), Edge(1, 3, 1), Edge(2, 3, 0))


def test_two_edges_around_the_same_layers_have_different_lanes() -> None:
    layers = [
        Layer(path=f"net/{n}", name=n, class_name="Dense", inputs=tuple(f"net/{i}" for i in given))
        for n, given in (("a", ""), ("b", "a"), ("c", "b"), ("d", "cb"), ("e", "da"))
    ]
    arrays = {f"weights/net/{n}/kernel": np.ones((2, 2, 2), np.float32) for n in "abcde"}
    lanes = {
        (e.source, e.target): e.lane for e in model_graph(make_trace(arrays, layers=layers)).edges
    }
    assert lanes[1, 3] == 1
    assert lanes[0, 4] == 2


def test_without_recorded_connections_the_layers_are_a_chain_and_the_figure_says_so() -> None:
    trace = small_trace()
    graph = model_graph(trace)
    assert not graph.recorded
    assert [(e.source, e.target) for e in graph.edges] == [(0, 1), (1, 2), (2, 3)]
    assert "drawn as a chain" in draw_flow(flow_data(trace)).get_supxlabel()


def test_the_flow_measures_what_goes_forward_back_and_into_the_weights() -> None:
    trace = residual_trace()
    data = flow_data(trace)
    for row, path in enumerate(("net/a", "net/b", "net/c"), start=1):
        for step in range(4):
            output = trace[f"activations/{path}/output"].to_numpy()[step].astype(float)
            gradient = trace[f"activation_gradients/{path}/output"].to_numpy()[step].astype(float)
            weights = np.concatenate(
                [trace[f"weights/{path}/{v}"].to_numpy()[step].ravel() for v in ("kernel", "bias")]
            ).astype(float)
            assert_allclose(data.forward.values[row, step], np.sqrt((output**2).mean()), rtol=1e-6)
            assert_allclose(
                data.backward.values[row, step], np.sqrt((gradient**2).mean()), rtol=1e-6
            )
            assert_allclose(data.weights.values[row, step], np.sqrt((weights**2).mean()), rtol=1e-6)


def test_the_flow_draws_the_measures_of_its_step() -> None:
    data = flow_data(residual_trace())
    figure = draw_flow(data, 2)
    forward = figure.axes[1]
    drawn = next(line for line in forward.lines if len(np.atleast_1d(line.get_xdata())) == 4)
    assert_allclose(np.asarray(drawn.get_xdata(), dtype=float), data.forward.values[:, 2])
    assert forward.get_title() == "forward: output"
    assert figure.get_suptitle() == "net · step 2 · model flow"
    assert len(figure.axes[0].patches) == 2 * len(data.graph.edges)
    with pytest.raises(StepNotRecordedError, match="recorded are 0-3"):
        draw_flow(data, 9)


def test_the_update_of_the_flow_is_a_share_of_the_weights(write_run: Any) -> None:
    trace = open_trace(write_run(steps=12))
    data = flow_data(trace)
    row = [node.path for node in data.graph.nodes].index("sequential/dense")
    names = [f"sequential/dense/{v}" for v in ("kernel", "bias")]
    for step in (0, 5, 11):
        update = sum(float((trace[f"updates/{n}"].sel(step=step) ** 2).sum()) for n in names)
        weights = sum(float((trace[f"weights/{n}"].sel(step=step) ** 2).sum()) for n in names)
        assert_allclose(data.update.values[row, step], np.sqrt(update / weights), rtol=1e-5)


def test_the_trajectory_keeps_the_distances_between_steps() -> None:
    rng = np.random.default_rng(1)
    way = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 60))
    kernel = (way + 5.0).reshape(6, 12, 5).astype("float32")
    data = trajectory_data(small_trace(weights__net__dense__kernel=kernel), "dense")
    flat = kernel.reshape(6, -1).astype(float)
    for a in range(6):
        for b in range(6):
            expected = np.linalg.norm(flat[a] - flat[b])
            found = np.linalg.norm(data.position[a] - data.position[b])
            assert_allclose(found, expected, atol=1e-3)
    centred = flat - flat.mean(axis=0)
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    assert_allclose(data.explained, variance[:3] / variance.sum(), rtol=1e-6)


def test_the_parameters_that_moved_most_are_named_and_drawn() -> None:
    kernel = np.zeros((6, 12, 5), np.float32)
    kernel[:, 7, 3] = np.arange(6)
    kernel[:, 2, 1] = -2 * np.arange(6)
    data = trajectory_data(small_trace(weights__net__dense__kernel=kernel), "dense")
    assert data.moved_names == ("kernel[2, 1]", "kernel[7, 3]")
    assert_array_equal(data.moved[0], -2 * np.arange(6))
    figure = draw_trajectory(data)
    labels = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
    assert {"kernel[2, 1]", "kernel[7, 3]", "step 0", "step 5"} <= labels


@pytest.mark.parametrize("bad", [0, 3])
def test_steps_that_are_not_finite_have_no_place_in_the_trajectory(bad: int) -> None:
    kernel = small_network()["weights/net/dense/kernel"].copy()
    kernel[bad, 0, 0] = np.inf
    data = trajectory_data(small_trace(weights__net__dense__kernel=kernel), "dense")
    assert (data.not_finite, data.steps.tolist()) == ((bad,), [n for n in range(6) if n != bad])
    assert np.isfinite(data.position).all()
    assert "not finite" in draw_trajectory(data).get_supxlabel()


def test_a_trace_without_a_step_has_no_trajectory_and_the_figure_says_so() -> None:
    arrays = {"weights/net/scale/gain": np.empty(0, np.float32)}
    data = trajectory_data(make_trace(arrays))
    assert data.steps.size == 0
    texts = {text.get_text() for text in draw_trajectory(data).findobj(Text)}
    assert "fewer than two steps with finite and different weights are recorded" in texts


def test_a_ridge_counts_the_values_of_each_step_in_common_bins() -> None:
    arrays = small_network()
    data = ridge_data(small_trace(), "dense", [0, 3], kind="gradients")
    (tensor,) = data.tensors
    assert tensor.steps.tolist() == [0, 3]
    for row, step in enumerate((0, 3)):
        values = arrays["gradients/net/dense/kernel"][step].ravel()
        expected = np.histogram(values, tensor.edges)[0] / values.size
        assert_allclose(tensor.density[row], expected)
    figure = draw_ridge(data)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["0", "3"]


def test_a_strip_draws_each_step_in_the_same_colours() -> None:
    arrays = small_network()
    data = strip_data(small_trace(), "dense", [0, 2, 4])
    figure = draw_strip(data)
    row = figure.axes[:3]
    assert [axes.get_title() for axes in row] == ["step 0", "step 2", "step 4"]
    for axes, step in zip(row, (0, 2, 4), strict=True):
        shown: Any = axes.images[0].get_array()
        assert_array_equal(shown, arrays["weights/net/dense/kernel"][step])
    assert len({axes.images[0].get_clim() for axes in row}) == 1


def test_the_sensitivity_is_drawn_over_the_input_and_over_the_steps() -> None:
    rng = np.random.default_rng(2)
    gradients = {
        f"probe_gradients/net/{name}/saliency": rng.normal(size=(5, 3, 6, 6, 2)).astype("float32")
        for name in ("conv", "dense")
    }
    trace = make_trace(small_network() | gradients, layers=small_layers())
    figure = draw_sensitivity(sensitivity_data(trace, 2))
    conv = gradients["probe_gradients/net/conv/saliency"][2]
    shown: Any = figure.axes[1].images[0].get_array()
    assert_allclose(shown, np.abs(conv[1]).max(axis=-1), rtol=1e-6)
    total = next(axes for axes in figure.axes if axes.get_title().startswith("total gradient"))
    values: Any = total.collections[0].get_array()
    expected = [np.linalg.norm(g.reshape(5, -1), axis=1) for g in gradients.values()]
    assert_allclose(np.reshape(values, (2, 5)), expected, rtol=1e-6)
    texts = {text.get_text() for text in total.findobj(Text)}
    assert "training step (optimizer updates)" in texts


def test_a_trace_without_probe_gradients_says_how_to_record_them() -> None:
    with pytest.raises(UnknownNameError, match="probe_gradients"):
        sensitivity_data(small_trace())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["weights", "--steps", "10:14"], "run-weights-steps10-14-dense.png"),
        (["weights", "--steps", "0,59"], "run-weights-steps0-59-dense.png"),
        (["flow", "--step", "7"], "run-flow-step7.png"),
        (["trajectory"], "run-trajectory.png"),
        (["ridge", "--kind", "gradients", "--steps", "0:59:20"], "run-ridge-gradients-dense.png"),
        (["statistics", "--layer", "dense"], "run-statistics-dense.png"),
    ],
)
def test_each_view_has_a_command(
    arguments: list[str],
    name: str,
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    view, *options = arguments
    assert run(["plot", view, str(healthy_path), *options, "--dpi", "40"]) == 0
    assert capsys.readouterr().out == f"{name}\n"
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights", "--steps", "70:80"], "no step of '70:80' is recorded; recorded are 0-60"),
        (["weights", "--steps", "1:2:3:4"], "give FIRST:LAST or FIRST:LAST:STRIDE"),
        (["ridge", "--kind", "gradient"], "has no kind 'gradient'; it has"),
    ],
)
def test_steps_and_kinds_that_are_not_there_get_one_sentence(
    arguments: list[str], message: str, healthy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view, *options = arguments
    assert run(["plot", view, str(healthy_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
