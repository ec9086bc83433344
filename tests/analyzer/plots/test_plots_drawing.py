from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal

from plot_traces import STEPS, make_trace, small_layers, small_network, small_trace
from steptrace_analyzer.plots import (
    plot_activation_maps,
    plot_activations,
    plot_flow,
    plot_gradients,
    plot_loss,
    plot_parameters,
    plot_ridge,
    plot_statistics,
    plot_strip,
    plot_trajectory,
    plot_weights,
    save_figure,
)
from steptrace_analyzer.plots.style import NON_FINITE, label
from steptrace_schema.errors import TraceError
from steptrace_schema.format.attributes import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

VIEWS: dict[str, Callable[[xr.DataTree], Figure]] = {
    "loss": plot_loss,
    "weights": plot_weights,
    "parameters": plot_parameters,
    "activations": plot_activations,
    "gradients": plot_gradients,
    "maps": plot_activation_maps,
    "statistics": lambda trace: plot_statistics(trace, "net/conv"),
}
OVER_STEPS: dict[str, Callable[[xr.DataTree], Figure]] = {
    "flow": plot_flow,
    "ridge": plot_ridge,
    "strip": lambda trace: plot_strip(trace, steps=[0, -1]),
    "trajectory": plot_trajectory,
}


def one_step(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        key: values if key == "probe/x" else values[: 2 if key.startswith("weights") else 1]
        for key, values in arrays.items()
    }


def one_unit(arrays: dict[str, Any]) -> dict[str, Any]:
    cut = {}
    for key, values in arrays.items():
        cut[key] = values if key.startswith("scalars") or key == "inputs/y" else values[..., :1]
    return cut


def filled(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def fill(arrays: dict[str, Any]) -> dict[str, Any]:
        return {
            key: np.full_like(values, value) if values.dtype.kind == "f" else values
            for key, values in arrays.items()
        }

    return fill


def constant(arrays: dict[str, Any]) -> dict[str, Any]:
    """All the same, so that there is no update and no gradient."""
    zero = {key: np.zeros_like(v) for key, v in arrays.items() if key.startswith("gradients")}
    return filled(0.1)(arrays) | zero


def extreme(arrays: dict[str, Any]) -> dict[str, Any]:
    """As large and as small as float32 can be, in turn."""
    rows = np.where(np.arange(STEPS + 1) % 2, 3e38, 1e-44)
    return {
        key: values
        if key == "probe/x" or values.dtype.kind != "f"
        else np.full_like(values, rows[: len(values)].reshape(-1, *[1] * (values.ndim - 1)))
        for key, values in arrays.items()
    }


HARD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "one step of one unit": lambda arrays: one_unit(one_step(arrays)),
    "constant": constant,
    "all NaN": filled(np.nan),
    "all infinite": filled(np.inf),
    "extreme": extreme,
}


@dataclasses.dataclass(frozen=True)
class Happening:
    step: int


def draw(figure: Figure) -> npt.NDArray[np.uint8]:
    figure.set_dpi(50)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def pixels(image: AxesImage) -> Any:
    return image.get_array()


def x_of(line: Line2D) -> Any:
    return np.atleast_1d(line.get_xdata())


def y_of(line: Line2D) -> Any:
    return np.atleast_1d(line.get_ydata())


def offsets(axes: Axes) -> Any:
    return axes.collections[0].get_offsets()


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("view", [*VIEWS, *OVER_STEPS])
@pytest.mark.parametrize("change", HARD)
def test_every_view_draws_the_hardest_traces_without_a_warning(view: str, change: str) -> None:
    trace = make_trace(HARD[change](small_network()), layers=small_layers())
    pixels = draw((VIEWS | OVER_STEPS)[view](trace))
    assert len(np.unique(pixels[..., 0])) > 10


LABELS = {
    "loss": {"training step (optimizer updates)", "loss\n(mse)", "learning\nrate"},
    "weights": {"filter, counted from the row's first", "kernel", "update of kernel"},
    "parameters": {
        "value",
        "update of the step",
        "index within the unit (kernel from 0, bias from 18)",
    },
    "activations": {"pre-activation (input)", "output of relu", "probe sample, in input order"},
    "gradients": {"training step (optimizer updates)", "gradient norm (L2)"},
    "maps": {"width (pixel)", "|d loss / d x|", "output", "d loss / d output"},
    "statistics": {"training step (optimizer updates)"},
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_titled_with_the_model_and_labels_its_axes(view: str) -> None:
    figure = VIEWS[view](make_trace(small_network(), layers=small_layers(), loss="mse"))
    assert figure.get_suptitle().startswith("net · ")
    draw(figure)
    everywhere = [axes for axes in figure.findobj(Axes) if axes.axison]
    labels = {axis.label.get_text() for axes in everywhere for axis in (axes.xaxis, axes.yaxis)}
    assert labels >= LABELS[view]


def test_names_from_a_trace_are_never_markup() -> None:
    model = Model(name="a $x^$ 卷 \x1b", class_name="M", parameters=1, trainable_parameters=1)
    trace = make_trace(small_network(), layers=small_layers(), model=model)
    figure = plot_loss(trace)
    draw(figure)
    assert figure.get_suptitle().startswith(r"a \$x^\$ ? \x1b · ")
    assert label("100 $") == r"100 \$"


def test_settings_of_the_user_neither_matter_nor_change() -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True}):
        figure = plot_loss(small_trace())
        assert matplotlib.rcParams["font.size"] == 31
    assert figure.axes[0].yaxis.label.get_fontsize() == 10


def test_the_image_of_a_kernel_is_the_kernel() -> None:
    arrays = small_network()
    figure = plot_weights(small_trace(), "dense", step=1)
    left, right = figure.axes[:2]
    kernel = arrays["weights/net/dense/kernel"]
    assert_array_equal(pixels(left.images[0]), kernel[1])
    assert_array_equal(pixels(right.images[0]), kernel[2] - kernel[1])
    assert left.get_xlabel() == "output unit (out)"
    assert left.get_ylabel() == "input (in)"
    low, high = left.images[0].get_clim()
    assert low == -high
    assert figure.get_suptitle() == "net · step 1 · net/dense"


def test_a_nan_weight_has_a_colour_of_its_own_and_is_counted() -> None:
    kernel = small_network()["weights/net/dense/kernel"].copy()
    kernel[1, 3, 2] = np.nan
    figure = plot_weights(small_trace(weights__net__dense__kernel=kernel), "dense", step=1)
    shown = figure.axes[0].images[1]
    assert_array_equal(np.argwhere(~np.ma.getmaskarray(pixels(shown))), [[3, 2]])
    assert_allclose(shown.get_cmap()(0)[:3], to_rgb(NON_FINITE))
    assert "1 value of the kernel not finite" in figure.get_supxlabel()


def test_weights_without_update_say_so() -> None:
    assert "no update of kernel is recorded at step 5" in texts(
        plot_weights(small_trace(), "dense", step=5)
    )


def test_each_parameter_is_drawn_in_the_plane_and_in_space() -> None:
    arrays = small_network()
    figure = plot_parameters(small_trace(), "dense", step=0)
    plane, forces, space = figure.axes[:3]
    kernel = arrays["weights/net/dense/kernel"].astype(float)
    expected = np.column_stack([kernel[0].ravel(), (kernel[1] - kernel[0]).ravel()])
    assert_allclose(offsets(plane), expected, rtol=1e-5)
    index, value, update = space.collections[0]._offsets3d  # type: ignore[attr-defined]
    assert_array_equal(index, np.repeat(np.arange(12), 5))
    assert_allclose(value, expected[:, 0], rtol=1e-6)
    assert_allclose(update, expected[:, 1], rtol=1e-5)
    assert len(forces.collections[0].get_paths()) == 60
    assert "60 of 60 parameters are shown" in figure.get_supxlabel()
    assert figure.legends[0].get_title().get_text() == "output unit (out)"


def test_the_parameters_figure_says_how_many_of_how_many_are_shown() -> None:
    weights = np.random.default_rng(0).normal(size=(6, 100, 50)).astype(np.float32)
    trace = small_trace(
        weights__net__dense__kernel=weights, gradients__net__dense__kernel=weights[:5]
    )
    figure = plot_parameters(trace, "dense", step=0)
    assert len(offsets(figure.axes[0])) == 4000
    assert "4,000 of 5,000 parameters are shown" in figure.get_supxlabel()


def test_the_heat_map_shows_norms_and_sets_zero_and_not_finite_cells_apart() -> None:
    gradient = small_network()["gradients/net/dense/kernel"].copy()
    gradient[1], gradient[2, 0, 0] = 0.0, np.nan
    figure = plot_gradients(small_trace(gradients__net__dense__kernel=gradient))
    heat = figure.axes[0]
    norms = np.ma.masked_array(pixels(heat.images[0]))
    assert_array_equal(norms.mask, [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
    assert_allclose(norms[1, 0], np.linalg.norm(gradient[0]), rtol=1e-6)
    zero, bad = (np.ma.getmaskarray(pixels(image)) for image in heat.images[1:])
    assert_array_equal(np.argwhere(~zero), [[1, 1]])
    assert_array_equal(np.argwhere(~bad), [[1, 2]])
    assert [text.get_text() for text in heat.get_yticklabels()] == ["net/conv", "net/dense"]
    assert {"zero (1 cell)", "not finite (1 cell)"} <= set(texts(figure).splitlines())


def test_a_long_run_is_joined_to_columns_that_keep_the_largest_norm() -> None:
    steps = 1500
    gradients = np.ones((steps, 1, 1), np.float32)
    gradients[777], gradients[1111] = 50.0, np.nan
    arrays = {"gradients/net/dense/kernel": gradients}
    figure = plot_gradients(make_trace(arrays))
    values = np.ma.masked_array(pixels(figure.axes[0].images[0]))
    assert values.shape == (1, 500)
    assert values.max() == 50.0
    assert values.argmax() == 777 // 3
    bad = np.ma.getmaskarray(pixels(figure.axes[0].images[1]))
    assert_array_equal(np.argwhere(~bad), [[0, 1111 // 3]])
    assert "each column is the largest norm of 3 steps" in figure.get_supxlabel()


def test_steps_that_are_not_consecutive_label_the_columns() -> None:
    arrays = {"gradients/net/dense/kernel": np.ones((3, 2, 2), np.float32)}
    figure = plot_gradients(make_trace(arrays, steps={"gradients": [0, 10, 40]}))
    formatter = figure.axes[0].xaxis.get_major_formatter()
    assert [formatter(position, None) for position in (0, 1, 2, 1.5)] == ["0", "10", "40", ""]


def test_the_loss_is_drawn_with_its_gaps_anomalies_and_epochs() -> None:
    loss = np.array([2.0, 1.8, np.nan, 1.5, 1.0], np.float32)
    figure = plot_loss(small_trace(scalars__loss=loss), [Happening(4), Happening(1)])
    axes = figure.axes[0]
    assert_allclose(y_of(axes.lines[0]), loss)
    marks = {line.get_label(): x_of(line) for line in axes.lines}
    assert_array_equal(marks["anomaly"], [1, 4])
    assert_array_equal(marks["loss not finite (1 step)"], [2])
    assert any(x_of(line)[0] == 2.5 for line in axes.lines)


def test_gradient_norms_are_drawn_below_the_loss_on_a_log_axis() -> None:
    arrays = small_network()
    figure = plot_loss(small_trace())
    axes = figure.axes[1]
    lines = {line.get_label(): line for line in axes.lines}
    dense = np.linalg.norm(arrays["gradients/net/dense/kernel"].reshape(5, -1), axis=1)
    assert_allclose(y_of(lines["net/dense"]), dense, rtol=1e-6)
    assert "all layers" in lines
    assert axes.get_yscale() == "log"


def test_a_trace_without_gradients_still_draws_its_loss() -> None:
    arrays = {k: v for k, v in small_network().items() if k.startswith("scalars")}
    assert len(plot_loss(make_trace(arrays)).axes) == 2


def test_activation_figures_have_one_column_per_step_with_common_axes() -> None:
    arrays = small_network()
    figure = plot_activations(small_trace(), "conv", [0, 4])
    assert len(figure.axes) == 6
    first, last = figure.axes[2:4]
    assert first.get_xlim() == last.get_xlim()
    points = offsets(last)
    before = arrays["probe/net/conv/preactivation"][4].ravel()
    assert_allclose(points, np.column_stack([before, np.maximum(before, 0)]))
    assert first.get_ylabel() == "output of relu"


def test_maps_draw_each_channel_of_the_output_as_a_tile() -> None:
    arrays = small_network()
    figure = plot_activation_maps(small_trace(), "conv", step=1, sample=2)
    output = arrays["activations/net/conv/output"][1, 2]
    drawn = pixels(figure.axes[2].images[0])
    assert_array_equal(drawn[:4, :4], output[:, :, 0])
    assert_array_equal(drawn[5:9, 5:9], output[:, :, 3])
    assert_array_equal(
        pixels(figure.axes[1].images[0]),
        np.abs(arrays["inputs/x_gradient"][1, 2]).max(axis=-1).astype(float),
    )


@pytest.mark.parametrize("count", [2, 6])
def test_maps_draw_several_inputs_beside_each_other(count: int) -> None:
    arrays = small_network()
    x, gradient = arrays.pop("inputs/x"), arrays.pop("inputs/x_gradient")
    for n in range(count):
        arrays[f"inputs/x_{n}"], arrays[f"inputs/x_gradient_{n}"] = x + n, gradient * (n + 1)
    figure = plot_activation_maps(make_trace(arrays, layers=small_layers()), "conv", step=1)
    shown = min(count, 4)
    titles = [axes.get_title() for axes in figure.axes[: 2 * shown]]
    assert [title.partition(",")[0] for title in titles[::2]] == [f"x_{n}" for n in range(shown)]
    for n in range(shown):
        drawn = pixels(figure.axes[2 * n + 1].images[0])
        assert_allclose(drawn, np.abs(gradient[1, 0] * (n + 1)).max(axis=-1), rtol=1e-6)
    assert ("The first 4 of 6 inputs are shown" in texts(figure)) == (count == 6)
    assert "not recorded" not in texts(figure)


def test_maps_call_the_dimensions_of_an_input_and_of_its_gradient_the_same() -> None:
    x = small_network()["inputs/x"][..., 0]  # a text or a grey picture
    flat = {"inputs/x": x, "inputs/x_gradient": x - 0.5}
    for arrays, words in ((flat, ("column", "row")), ({}, ("width (pixel)", "height (pixel)"))):
        trace = make_trace(small_network() | arrays, layers=small_layers())
        figure = plot_activation_maps(trace, "conv", step=1)
        for axes in figure.axes[:2]:
            assert (axes.get_xlabel(), axes.get_ylabel()) == words


def test_maps_of_a_flat_layer_draw_its_units() -> None:
    arrays = small_network()
    figure = plot_activation_maps(small_trace(), "flatten", step=1)
    heights = y_of(figure.axes[2].lines[0])
    assert_array_equal(heights, arrays["activations/net/flatten/output"][1, 0])
    assert "the gradient of this output is not recorded at step 1" in texts(figure)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_figure_is_written_in_the_format_of_its_suffix(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "new" / f"loss{suffix}"
    assert save_figure(plot_loss(small_trace()), output, dpi=50) == output
    start = output.read_bytes()[:200]
    assert {".png": b"PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix] in start + output.read_bytes()


def test_the_same_figure_gives_the_same_svg(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save_figure(plot_loss(small_trace()), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_an_unknown_suffix_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"'\.gif'; end the name in \.png, \.svg or \.pdf"):
        save_figure(plot_loss(small_trace()), tmp_path / "loss.gif")
