"""A gradient divided among samples, on traces made by NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plot_traces import make_trace
from steptrace_analyzer import explain_gradient
from steptrace_analyzer.anomalies.samples.activation_functions import backward, forward, known
from steptrace_analyzer.anomalies.samples.patches import patches_of
from steptrace_schema.format.attributes import Layer

STEPS, ROWS = 3, 4


@pytest.mark.parametrize(
    "name",
    (
        "linear relu leaky_relu relu6 sigmoid tanh softplus softsign elu selu silu swish gelu "
        "softmax"
    ).split(),
)
def test_slopes_are_those_of_differences(name: str) -> None:
    rng = np.random.default_rng(1)
    before, gradient = rng.normal(size=(2, 5, 7)) * 3
    found = backward(name, before, gradient)
    expected = np.empty_like(before)
    for unit in range(7):
        step = np.zeros(7)
        step[unit] = 1e-6
        change = (forward(name, before + step) - forward(name, before - step)) / 2e-6
        expected[:, unit] = (change * gradient).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert known(name)
    assert not known("my_own")


@pytest.mark.parametrize(
    ("size", "width", "stride", "dilation", "before", "after"),
    [
        (9, 3, 1, 1, 0, 0),
        (9, 3, 2, 1, 1, 1),
        (8, 3, 2, 1, 0, 1),
        (9, 2, 1, 3, 3, 0),
        (5, 5, 1, 1, 0, 0),
    ],
)
def test_a_way_of_taking_patches_is_that_of_a_loop(
    size: int, width: int, stride: int, dilation: int, before: int, after: int
) -> None:
    rng = np.random.default_rng(2)
    inputs, kernel = rng.normal(size=(3, size, 2)), rng.normal(size=(width, 2, 4))
    padded = np.pad(inputs, [(0, 0), (before, after), (0, 0)])
    reach = (width - 1) * dilation + 1
    places = (padded.shape[1] - reach) // stride + 1
    expected = np.zeros((3, places, 4))
    for place in range(places):
        for offset in range(width):
            taken = padded[:, place * stride + offset * dilation]
            expected[:, place] += taken @ kernel[offset]
    made = [
        features[:, 0] @ kernel.reshape(-1, 4)
        for features in patches_of(inputs, kernel.shape, (places,))
    ]
    assert sum(np.allclose(each, expected) for each in made) == 1


def dense(**changes: Any) -> dict[str, Any]:
    """Return a layer of tanh and what it does to a batch of four, of which all are recorded."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS, ROWS, 5))
    kernel, bias = rng.normal(size=(STEPS + 1, 5, 3)), rng.normal(size=(STEPS + 1, 3))
    output = np.tanh(x @ kernel[:-1] + bias[:-1, np.newaxis])
    back = rng.normal(size=output.shape)
    delta = back * (1 - output**2)
    arrays = {
        "scalars/loss": np.ones(STEPS),
        "scalars/batch_size": np.full(STEPS, ROWS),
        "inputs/x": x,
        "inputs/sample_digest": np.arange(STEPS * ROWS).reshape(STEPS, ROWS) % 6,
        "inputs/sample_loss": rng.random((STEPS, ROWS)),
        "activations/net/dense/output": output,
        "activation_gradients/net/dense/output": back,
        "weights/net/dense/kernel": kernel,
        "weights/net/dense/bias": bias,
        "gradients/net/dense/kernel": np.einsum("tri,tro->tio", x, delta),
        "gradients/net/dense/bias": delta.sum(axis=1),
    }
    return arrays | changes


def explain(arrays: dict[str, Any], path: str = "dense/kernel", step: int = 2, **layer: Any) -> Any:
    facts: dict[str, Any] = {"activation": "tanh", "inputs": (), "data": ("x",), **layer}
    described = Layer(path="net/dense", name="dense", class_name="Dense", **facts)
    return explain_gradient(make_trace(arrays, layers=(described,)), step, path)


@pytest.mark.parametrize("path", ["dense/kernel", "dense/bias"])
def test_shares_of_all_samples_sum_to_one_and_are_exact(path: str) -> None:
    arrays = dense()
    found = explain(arrays, path)
    assert found.exact is True
    assert found.batch == ROWS
    assert sum(one.share for one in found.samples) == pytest.approx(1.0)
    x, output = arrays["inputs/x"][2], arrays["activations/net/dense/output"][2]
    delta = arrays["activation_gradients/net/dense/output"][2] * (1 - output**2)
    whole = arrays[f"gradients/net/{path}"][2]
    for one in found.samples:
        own = np.outer(x[one.row], delta[one.row]) if "kernel" in path else delta[one.row]
        assert one.share == pytest.approx((own * whole).sum() / (whole**2).sum())
        assert one.size == pytest.approx(np.linalg.norm(own))
        assert one.loss == arrays["inputs/sample_loss"][2, one.row]
    sizes = [abs(one.share) for one in found.samples]
    assert sizes == sorted(sizes, reverse=True)


def test_earlier_steps_with_the_same_sample_are_named() -> None:
    arrays = dense()
    found = {one.row: one for one in explain(arrays).samples}
    # Step 2 has the digests 2, 3, 4, 5; step 0 had 0 to 3, and step 1 had 4, 5, 0, 1.
    assert [(v.step, v.loss) for v in found[0].seen] == [(0, arrays["inputs/sample_loss"][0, 2])]
    assert [(v.step, v.loss) for v in found[3].seen] == [(1, arrays["inputs/sample_loss"][1, 1])]
    assert found[0].digest == 2


def test_a_part_of_the_samples_says_how_many_of_how_many() -> None:
    arrays = dense()
    for kind in (
        "inputs/x",
        "activations/net/dense/output",
        "activation_gradients/net/dense/output",
    ):
        arrays[kind] = arrays[kind][:, :3]
    found = explain(arrays)
    assert (found.exact, len(found.samples), found.batch) == (False, 3, ROWS)
    assert "3 of 4 samples are recorded, and the others unknown" in found.explain()
    whole, (first, *_) = explain(dense()), found.samples
    assert first.share == pytest.approx(
        next(one.share for one in whole.samples if one.row == first.row)
    )


def test_what_no_sample_has_is_left_over() -> None:
    arrays = dense()
    kernel = arrays["gradients/net/dense/kernel"]
    penalty = 0.5 * arrays["weights/net/dense/kernel"][:-1]
    arrays["gradients/net/dense/kernel"] = kernel + penalty
    found = explain(arrays)
    assert found.exact is False
    expected = np.linalg.norm(penalty[2]) / np.linalg.norm(kernel[2] + penalty[2])
    assert found.rest == pytest.approx(expected)
    assert "to what no sample has" in found.explain()


def test_rows_beyond_a_short_batch_are_no_samples() -> None:
    arrays = dense()
    arrays["scalars/batch_size"] = np.full(STEPS, 2)
    assert sorted(one.row for one in explain(arrays).samples) == [0, 1]


@pytest.mark.parametrize(
    ("change", "layer", "reason"),
    [
        ({}, {"activation": "my_own"}, "the slope of my_own is not known here"),
        ({}, {"data": ()}, "the trace does not say, or does not hold, what net/dense takes"),
        ({}, {"activation": "relu"}, "are not what a dense layer or a convolution"),
        (
            {"gradients/net/dense/kernel": np.zeros((STEPS, 5, 3))},
            {},
            "the gradient is zero, or not finite",
        ),
    ],
)
def test_it_says_why_it_cannot_be_said(
    change: dict[str, Any], layer: dict[str, Any], reason: str
) -> None:
    found = explain(dense(**change), **layer)
    assert reason in str(found.reason)
    assert found.explain().startswith("Which samples made the gradient of net/dense/kernel")
    assert explain(dense(), step=9).reason == "the gradient of step 9 is not recorded"
