from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from plot_traces import make_trace, small_layers, small_network, small_trace
from steptrace_analyzer.plots.activations import activations_data
from steptrace_analyzer.plots.gradients import gradients_data
from steptrace_analyzer.plots.lines import isolated
from steptrace_analyzer.plots.loss import draw_loss, loss_data
from steptrace_analyzer.plots.maps import maps_data, strongest_channels
from steptrace_analyzer.plots.model_inputs import saliency
from steptrace_analyzer.plots.parameters import magnification, parameters_data, point_sizes
from steptrace_analyzer.plots.statistics import statistics_data
from steptrace_analyzer.plots.steps import key_steps
from steptrace_analyzer.plots.weights import weights_data
from steptrace_schema.errors import StepNotRecordedError, TraceError, UnknownNameError
from steptrace_schema.format.attributes import Missing


def test_the_weights_of_a_step_stand_beside_what_the_step_added_to_them() -> None:
    arrays = small_network()
    data = weights_data(small_trace(), "dense", step=2)
    kernel = arrays["weights/net/dense/kernel"]
    assert (data.layer, data.step, data.classes[0]) == ("net/dense", 2, "Dense")
    assert_array_equal(data.variables[0].value, kernel[2])
    assert data.variables[0].update is not None
    assert_array_equal(data.variables[0].update, kernel[3] - kernel[2])
    assert data.variables[0].gradient is not None
    assert_array_equal(data.variables[0].gradient, arrays["gradients/net/dense/kernel"][2])


def test_compared_steps_share_one_colour_range() -> None:
    arrays = small_network()
    trace = small_trace()
    shared = [weights_data(trace, "dense", step, compare=range(5)) for step in (0, 4)]
    kernel = arrays["weights/net/dense/kernel"].astype(float)
    for data in shared:
        norm = data.ranges["weights", "net/dense/kernel"]
        assert (norm.vmin, norm.vmax) == (-np.abs(kernel[:5]).max(), np.abs(kernel[:5]).max())
    alone = weights_data(trace, "dense", 0).ranges["weights", "net/dense/kernel"]
    assert alone.vmax == np.abs(kernel[0]).max()


def test_weights_default_to_the_first_kernel_at_the_last_step_with_an_update() -> None:
    data = weights_data(small_trace())
    assert (data.layer, data.step) == ("net/conv", 4)
    assert [v.path for v in data.variables] == ["net/conv/kernel", "net/conv/bias"]


def test_the_weights_after_the_last_step_have_no_update() -> None:
    data = weights_data(small_trace(), "dense", step=-1)
    assert data.step == 5
    assert data.variables[0].update is None


def test_weights_at_a_step_that_is_not_recorded_are_refused_with_the_steps_that_are() -> None:
    with pytest.raises(StepNotRecordedError, match="recorded are 0-5"):
        weights_data(small_trace(), "dense", step=17)


def test_an_unknown_layer_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="net/dense"):
        weights_data(small_trace(), "dens")


def test_each_parameter_is_one_point_of_its_output_unit() -> None:
    arrays = small_network()
    data = parameters_data(small_trace(), "conv", step=1)
    kernel, bias = arrays["weights/net/conv/kernel"], arrays["weights/net/conv/bias"]
    assert data.total == data.value.size == 3 * 3 * 2 * 4 + 4
    assert data.variables == (("kernel", 0), ("bias", 18))
    for point in (0, 5, 71, 73):
        unit, index = data.unit[point], data.index[point]
        before, after = (
            bias[step][unit] if index == 18 else kernel[step].reshape(18, 4)[index, unit]
            for step in (1, 2)
        )
        assert data.value[point] == before
        assert data.update[point] == after - before


def test_more_parameters_than_points_keep_the_largest_updates() -> None:
    data = parameters_data(small_trace(), "conv", step=1, most=20)
    every = parameters_data(small_trace(), "conv", step=1)
    assert data.value.size == 20
    assert data.total == 76
    largest = np.sort(np.abs(every.update))[-10:]
    assert set(largest) <= set(np.abs(data.update))


def test_parameters_that_are_not_finite_are_counted_and_not_drawn() -> None:
    kernel = small_network()["weights/net/dense/kernel"].copy()
    kernel[2, 0, 0], kernel[3, 1, 1] = np.nan, np.inf
    data = parameters_data(small_trace(weights__net__dense__kernel=kernel), "dense", step=2)
    assert data.non_finite == 2
    assert data.value.size == 58


def test_parameters_after_the_last_step_are_refused_because_they_have_no_update() -> None:
    with pytest.raises(StepNotRecordedError, match="recorded are 0-4"):
        parameters_data(small_trace(), "dense", step=5)


def test_point_sizes_grow_with_the_update() -> None:
    sizes = point_sizes(np.array([0.0, -2.0, 1.0]))
    assert_allclose(sizes, [6.0, 90.0, 48.0])


@pytest.mark.parametrize(
    ("update", "factor"), [(0.001, 200.0), (0.01, 20.0), (0.29, 1.0), (3.0, 0.1), (0.0, 1.0)]
)
def test_updates_are_magnified_by_a_round_factor_to_at_most_a_third_of_the_values(
    update: float, factor: float
) -> None:
    assert magnification(np.array([0.0, 1.0]), np.array([update])) == pytest.approx(factor)


def test_layer_norms_are_the_root_of_the_sum_of_squares_of_the_layer_s_gradients() -> None:
    arrays = small_network()
    norms = gradients_data(small_trace()).norms
    assert norms.layers == ("net/conv", "net/dense")
    kernel, bias = arrays["gradients/net/conv/kernel"], arrays["gradients/net/conv/bias"]
    for step in range(5):
        conv = np.sqrt(np.sum(kernel[step].astype(float) ** 2) + np.sum(bias[step] ** 2.0))
        dense = np.linalg.norm(arrays["gradients/net/dense/kernel"][step].astype(float))
        assert_allclose(norms.values[:, step], [conv, dense], rtol=1e-6)
        assert_allclose(norms.total[step], np.hypot(conv, dense), rtol=1e-6)


def test_a_nan_in_one_gradient_makes_that_cell_and_no_other_nan() -> None:
    kernel = small_network()["gradients/net/conv/kernel"].copy()
    kernel[3, 0, 0, 0, 0] = np.nan
    norms = gradients_data(small_trace(gradients__net__conv__kernel=kernel)).norms
    assert_array_equal(np.argwhere(~np.isfinite(norms.values)), [[0, 3]])


def test_a_gradient_missing_at_a_step_is_told_from_one_that_is_not_finite() -> None:
    lost = Missing(kind="gradients", path="net/dense/kernel", reason="none", steps=(1, 2))
    trace = make_trace(small_network(), layers=small_layers(), missing=(lost,))
    assert_array_equal(
        gradients_data(trace).norms.recorded, [[True] * 5, [True, False, False, True, True]]
    )


def test_the_gradient_profile_is_made_of_quantiles_over_the_finite_steps() -> None:
    kernel = small_network()["gradients/net/dense/kernel"].copy()
    kernel[0] = np.inf
    data = gradients_data(small_trace(gradients__net__dense__kernel=kernel))
    finite = np.sort(np.linalg.norm(kernel[1:].reshape(4, -1).astype(float), axis=1))
    assert_allclose(data.profile[:, 1], np.quantile(finite, [0.1, 0.5, 0.9]), rtol=1e-6)


def test_a_trace_without_gradients_is_refused_with_what_it_has() -> None:
    arrays = {k: v for k, v in small_network().items() if not k.startswith("gradients")}
    with pytest.raises(UnknownNameError, match="no statistics of kind 'gradients'; it has those"):
        gradients_data(make_trace(arrays))
    with pytest.raises(UnknownNameError, match="'gradients'; it has no statistics at all"):
        gradients_data(small_trace().drop_nodes("statistics"))


def test_loss_data_has_the_scalars_and_where_epochs_begin() -> None:
    loss = np.array([2.0, np.nan, 1.5, np.inf, 1.0], np.float32)
    data = loss_data(small_trace(scalars__loss=loss))
    assert_array_equal(data.loss, loss)
    assert_array_equal(data.non_finite_steps, [1, 3])
    assert_array_equal(data.epoch_starts, [3])
    assert_allclose(data.learning_rate, 0.1)
    steps, none = np.arange(0, 10, 2), np.full(5, np.nan)
    epoch, batch = np.array([0.0, 0, 1, 2, 2]), np.array([0.0, 2, 1, 0, 2])  # of three batches
    second = dataclasses.replace(data, steps=steps, epoch=epoch, batch=batch)
    assert_array_equal(second.epoch_starts, [3, 6])  # of which 3 is not recorded
    assert dataclasses.replace(second, epoch=none).epoch_starts.size == 0
    assert_array_equal(dataclasses.replace(second, batch=none).epoch_starts, [4, 6])


def test_loss_data_has_the_validation_and_the_numbers_that_were_logged() -> None:
    arrays = small_network() | {
        "validation/loss": np.array([1.75, 1.25]),
        "validation/accuracy": np.array([0.5, 0.75]),
        "logged/noise": np.array([np.nan, 3.0, np.nan]),
        "logged/image": np.zeros((3, 2, 2)),
    }
    trace = make_trace(arrays, steps={"validation": [3, 5], "logged": [0, 1, 4]})
    data = loss_data(trace)
    assert data.validation is not None
    assert_array_equal(data.validation.steps, [3, 5])
    assert_array_equal(data.validation.values, [1.75, 1.25])
    assert list(data.logged) == ["noise"], "a picture is no number"
    assert_array_equal(data.logged["noise"].steps, [1])
    assert_array_equal(data.logged["noise"].values, [3.0])
    labels = [axes.get_ylabel() for axes in draw_loss(data).axes]
    assert [text for text in labels if "logged" in text] == ["noise\n(logged)"]


def test_a_value_between_two_gaps_is_isolated() -> None:
    nan = np.nan
    assert_array_equal(isolated(np.array([1.0, nan, 2.0, nan, 3.0, 4.0])), [1, 0, 1, 0, 0, 0])


def test_activation_points_pair_each_input_of_the_function_with_its_output() -> None:
    arrays = small_network()
    data = activations_data(small_trace(), "conv", [0, -1])
    assert [points.step for points in data.steps] == [0, 4]
    assert data.activation == "relu"
    before = arrays["probe/net/conv/preactivation"][4]
    last = data.steps[1]
    assert_array_equal(last.before, before.ravel())
    assert_array_equal(last.after, np.maximum(before, 0).ravel())
    assert_array_equal(last.sample, np.repeat([0, 1, 2], 64))
    assert (last.position.min(), last.position.max()) == (0.0, 1.0)


def test_activation_points_are_thinned_evenly_and_the_rest_is_counted() -> None:
    before = small_network()["probe/net/conv/preactivation"].copy()
    before[0, 0, 0, 0, :2] = np.nan
    data = activations_data(
        small_trace(probe__net__conv__preactivation=before), "conv", [0], most=10
    )
    points = data.steps[0]
    assert (points.before.size, points.total, points.non_finite) == (10, 192, 2)
    assert points.before[0] == before[0].ravel()[2]
    assert points.before[-1] == before[0].ravel()[-1]


def test_activations_default_to_four_steps_from_first_to_last() -> None:
    data = activations_data(small_trace())
    assert data.layer == "net/conv"
    assert [points.step for points in data.steps] == [0, 1, 3, 4]


@pytest.mark.parametrize("layer", ["flatten", "net/dense"])
def test_a_layer_without_preactivation_is_refused_with_the_layers_that_have_one(layer: str) -> None:
    with pytest.raises(UnknownNameError, match="layers with one are net/conv"):
        activations_data(small_trace(), layer)


def test_maps_show_one_sample_of_a_batch_with_its_gradients() -> None:
    arrays = small_network()
    data = maps_data(small_trace(), step=2, sample=1)
    assert data.layer == "net/conv"
    assert_array_equal(data.output, arrays["activations/net/conv/output"][2, 1])
    assert data.output_gradient is not None
    (given,) = data.inputs
    assert given.name == "x"
    assert given.values is not None
    assert given.gradient is not None
    assert_array_equal(data.output_gradient, arrays["activation_gradients/net/conv/output"][2, 1])
    assert_array_equal(given.values, arrays["inputs/x"][2, 1])
    assert_array_equal(given.gradient, arrays["inputs/x_gradient"][2, 1])
    assert data.target == f"target {arrays['inputs/y'][2, 1]}"


def test_maps_show_every_one_of_several_inputs_and_targets() -> None:
    arrays = small_network()
    for key, name in (("x", "x_image"), ("x_gradient", "x_gradient_image"), ("y", "y_kind")):
        arrays[f"inputs/{name}"] = arrays.pop(f"inputs/{key}")
    numbers = np.random.default_rng(5).normal(size=(5, 3, 7)).astype("float32")
    arrays |= {"inputs/x_0": numbers, "inputs/y_age": numbers[:, :, 0]}
    data = maps_data(make_trace(arrays, layers=small_layers()), step=2, sample=1)
    image, flat = data.inputs
    assert (image.name, flat.name) == ("x_image", "x_0")
    assert image.values is not None
    assert image.gradient is not None
    assert flat.values is not None
    assert flat.gradient is None
    assert_array_equal(image.values, arrays["inputs/x_image"][2, 1])
    assert_array_equal(image.gradient, arrays["inputs/x_gradient_image"][2, 1])
    assert_array_equal(flat.values, numbers[2, 1])
    kind, age = arrays["inputs/y_kind"][2, 1], numbers[2, 1, 0]
    assert data.target == f"target y_kind {kind}, target y_age {age:g}"


def test_the_gradient_of_the_logits_stands_in_for_that_of_the_output() -> None:
    arrays = small_network()
    gradient = arrays.pop("activation_gradients/net/conv/output")
    arrays["activation_gradients/net/conv/logits"] = gradient
    data = maps_data(make_trace(arrays, layers=small_layers()), step=0)
    assert data.gradient_of == "logits"
    assert data.output_gradient is not None
    assert_array_equal(data.output_gradient, gradient[0, 0])


def test_a_sample_that_is_padding_is_refused() -> None:
    trace = small_trace(scalars__batch_size=np.array([6, 6, 6, 6, 2]))
    assert maps_data(trace, step=3, sample=2).sample == 2
    with pytest.raises(TraceError, match=r"step 4 .* no sample 2; recorded are samples 0 to 1"):
        maps_data(trace, step=4, sample=2)


def test_saliency_is_the_largest_magnitude_over_the_channels_of_a_pixel() -> None:
    gradient = np.random.default_rng(0).normal(size=(4, 5, 3))
    assert_array_equal(saliency(gradient), np.max(np.abs(gradient), axis=2))
    assert_array_equal(saliency(-np.ones(3)), np.ones(3))


def test_the_strongest_channels_are_those_of_the_largest_output() -> None:
    output = np.zeros((2, 2, 5))
    output[0, 1, 3], output[1, 1, 1], output[0, 0, 4] = -5.0, 2.0, 1.0
    assert_array_equal(strongest_channels(output, 2), [1, 3])


def test_statistics_of_a_layer_are_those_that_the_trace_recorded() -> None:
    data = statistics_data(small_trace(), "net/conv")
    kinds = [(tensor.kind, tensor.path) for tensor in data.tensors]
    assert kinds[:4] == [
        ("weights", "net/conv/kernel"),
        ("weights", "net/conv/bias"),
        ("gradients", "net/conv/kernel"),
        ("gradients", "net/conv/bias"),
    ]
    kernel = small_network()["weights/net/conv/kernel"].reshape(6, -1)
    assert_allclose(data.tensors[0].values["p50"], np.median(kernel, axis=1), rtol=1e-6)
    assert_allclose(data.tensors[0].values["max"], kernel.max(axis=1))


def test_key_steps_are_first_last_and_evenly_between() -> None:
    assert key_steps(range(101), [], 3) == [0, 50, 100]
    assert key_steps([3, 5], [], 3) == [3, 5]
    assert key_steps([], [], 3) == []
