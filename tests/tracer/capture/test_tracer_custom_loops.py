"""Custom training loops: a function that does one step, with one model or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import mlp, vectors, weights_of
from steptrace_schema.errors import TraceError
from steptrace_schema.names import KINDS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from two_layers import TwoLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Style = Literal["eager", "compiled", "xla"]
STYLES: tuple[Style, ...] = ("eager", "compiled", "xla")
STEPS, BATCH = 4, 6


def styled(step: Callable[..., Any], style: Style) -> Callable[..., Any]:
    if style == "eager":
        return step
    return tf.function(step, jit_compile=style == "xla")  # type: ignore[no-any-return]


def single(style: Style) -> tuple[Any, Callable[..., Any]]:
    model = mlp()
    optimizer = keras.optimizers.Adam(0.01)

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return model, styled(train_step, style)


def run_single(step: Callable[..., Any]) -> None:
    x, y = vectors(STEPS * BATCH)
    for i in range(STEPS):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        step(tf.constant(x[rows]), tf.constant(y[rows]))


def compare_with_squared_error(step: TwoLayers, x: Any, y: Any, factor: float = 1.0) -> None:
    """Compare all that is recorded of a step with NumPy; the loss is `factor` times the mean."""
    _, out = step.forward(x)
    step.agrees("scalars/loss", factor * np.mean((out - y) ** 2))
    assert step.row("inputs/y").tobytes() == y.tobytes()
    step.agree_outputs(x)
    step.agree_gradients(x, lambda out: factor * 2 * (out - y) / y.size)
    step.agree_probe()


def gan(style: Style) -> tuple[list[Any], Callable[..., Any]]:
    """Return a generator, a discriminator, and their step, which draws noise without a seed."""
    keras.utils.set_random_seed(3)
    generator = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, activation="tanh", name="a"),
            layers.Dense(3, name="b"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, activation="relu", name="a"),
            layers.Dropout(0.2, seed=1),
            layers.Dense(1, name="b"),
        ],
        name="discriminator",
    )
    g_optimizer = keras.optimizers.Adam(0.01, name="g")
    d_optimizer = keras.optimizers.SGD(0.5, name="d")
    g_optimizer.build(generator.trainable_variables)
    d_optimizer.build(discriminator.trainable_variables)

    def noise_of() -> Any:
        return tf.random.normal((BATCH, 2))

    entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(real: Any) -> dict[str, Any]:
        # Compiled by XLA, noise without a seed is another one in each run.
        noise = tf.random.stateless_normal((BATCH, 2), (1, 2)) if style == "xla" else noise_of()
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(noise, training=True)
            on_real = discriminator(real, training=True)
            on_fake = discriminator(fake, training=True)
            g_loss = entropy(tf.ones_like(on_fake), on_fake)
            d_loss = entropy(tf.ones_like(on_real), on_real) + entropy(
                tf.zeros_like(on_fake), on_fake
            )
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables)
        g_optimizer.apply(g_gradients, generator.trainable_variables)
        d_optimizer.apply(d_gradients, discriminator.trainable_variables)
        return {"g_loss": g_loss, "d_loss": d_loss}

    return [generator, discriminator], styled(train_step, style)


def run_gan(step: Callable[..., Any]) -> None:
    tf.random.set_seed(11)
    x, _ = vectors(STEPS * BATCH)
    for i in range(STEPS):
        step(tf.constant(x[i * BATCH : (i + 1) * BATCH]))


def traced(path: Path, step: Callable[..., Any], run: Any, **fields: Any) -> zarr.Group:
    with Tracer(path, on_error="raise", progress=False, samples=BATCH, **fields) as tracer:
        run(tracer.wrap(step))
    assert validate(path) == []
    return zarr.open_group(path, mode="r")


def values(group: zarr.Group, key: str) -> Any:
    return np.asarray(group[key])


def compare_momentum(found: zarr.Group, path: str) -> None:
    """Compare Adam's momentum with its formula (Kingma and Ba, 2015)."""
    gradients = values(found, f"gradients/{path}")
    momentum = np.zeros(gradients.shape[1:])
    for t in range(1, STEPS):
        momentum += 0.1 * (gradients[t - 1] - momentum)
        recorded = values(found, f"optimizer/{path}/momentum")[t]
        np.testing.assert_allclose(recorded, momentum, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("style", STYLES)
def test_a_custom_step_is_recorded_and_not_changed(tmp_path: Path, style: Style) -> None:
    plain, plain_step = single(style)
    run_single(plain_step)
    model, step = single(style)
    found = traced(tmp_path / "run.zarr", step, run_single, kinds=KINDS, probe_gradients_every=1)
    for expected, weight in zip(weights_of(plain), weights_of(model), strict=True):
        assert expected.tobytes() == weight.tobytes()

    x, y = vectors(STEPS * BATCH)
    assert values(found, "scalars/step").tolist() == list(range(STEPS))
    assert values(found, "scalars/batch").tolist() == list(range(STEPS))
    for t in range(STEPS):
        rows = slice(t * BATCH, (t + 1) * BATCH)
        compare_with_squared_error(TwoLayers(found, t), x[rows], y[rows])
    compare_momentum(found, "mlp/hidden/kernel")
    last = [values(found, f"weights/{v.path}")[-1] for v in model.weights]
    assert [w.tobytes() for w in last] == [w.tobytes() for w in weights_of(model)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("style", STYLES)
def test_both_models_of_a_gan_are_recorded_with_their_own_losses(
    tmp_path: Path, style: Style
) -> None:
    plain, plain_step = gan(style)
    run_gan(plain_step)
    models, step = gan(style)
    x, _ = vectors(STEPS * BATCH)
    found = traced(
        tmp_path / "run.zarr", step, run_gan, kinds=KINDS, probe_gradients_every=1, probe=x[:3]
    )
    for before, after in zip(plain, models, strict=True):
        for expected, weight in zip(weights_of(before), weights_of(after), strict=True):
            assert expected.tobytes() == weight.tobytes()

    losses = {
        name: values(found, f"scalars/losses/{name}") for name in ("generator", "discriminator")
    }
    np.testing.assert_array_equal(values(found, "scalars/metrics/g_loss"), losses["generator"])
    np.testing.assert_array_equal(values(found, "scalars/metrics/d_loss"), losses["discriminator"])
    np.testing.assert_allclose(values(found, "scalars/loss"), sum(losses.values()), rtol=1e-6)
    assert (values(found, "scalars/learning_rates/d") == 0.5).all()
    assert (values(found, "scalars/learning_rates/g") == np.float32(0.01)).all()
    for t in range(STEPS):
        # The last layer's bias sees the gradient of its output, summed over rows and calls.
        bias = values(found, "gradients/discriminator/b/bias")[t]
        outputs = [
            values(found, f"activation_gradients/discriminator/b/{call}output")[t]
            for call in ("", "call1_")
        ]
        np.testing.assert_allclose(bias, sum(o.sum(axis=0) for o in outputs), rtol=1e-5, atol=1e-7)
        kernel = values(found, "gradients/generator/b/kernel")[t]
        hidden = values(found, "activations/generator/a/output")[t]
        upstream = values(found, "activation_gradients/generator/b/output")[t]
        np.testing.assert_allclose(kernel, hidden.T @ upstream, rtol=1e-5, atol=1e-7)
        # Sigmoid cross-entropy of the discriminator's logits, by its formula.
        real, fake = (
            values(found, f"activations/discriminator/b/{call}output")[t] for call in ("", "call1_")
        )
        expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
        assert losses["discriminator"][t] == pytest.approx(expected, rel=1e-5)
        # The probe goes through the model that is named first, here the discriminator.
        kernel, bias = (
            values(found, f"weights/discriminator/a/{v}")[t] for v in ("kernel", "bias")
        )
        before = x[:3] @ kernel + bias
        after = np.maximum(before, 0)
        unit = after.argmax(axis=1)
        saliency = np.where(after.max(axis=1) > 0, kernel[:, unit], 0).T
        for key, expected in (
            ("probe/discriminator/a/preactivation", before),
            ("probe/discriminator/a/output", after),
            ("probe_gradients/discriminator/a/saliency", saliency),
        ):
            np.testing.assert_allclose(values(found, key)[t], expected, rtol=1e-5, atol=1e-6)
        assert values(found, "probe_gradients/discriminator/a/unit")[t].tolist() == unit.tolist()
    assert values(found, "inputs/x").reshape(x.shape).tobytes() == x.tobytes()
    compare_momentum(found, "generator/b/kernel")
    # SGD: the update is minus the rate times the gradient; 0.5 makes the product exact.
    weights = values(found, "weights/discriminator/a/kernel")
    gradients = values(found, "gradients/discriminator/a/kernel")
    assert (weights[1:] == weights[:-1] - np.float32(0.5) * gradients).all()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("every", [1, 2])
def test_random_operations_without_a_seed_draw_what_they_draw_without_the_tracer(
    tmp_path: Path, every: int
) -> None:
    class Noisy(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            return x + tf.random.normal(tf.shape(x)) if training else x

    def fit(callbacks: list[Any]) -> Any:
        keras.utils.set_random_seed(5)
        model = keras.Sequential(
            [keras.Input((3,)), Noisy(), layers.Dense(2, activation="tanh", name="out")],
            name="noisy",
        )
        model.compile("adam", "mse")
        x, y = vectors(24)
        tf.random.set_seed(5)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
        return weights_of(model)

    path = tmp_path / "run.zarr"
    tracer = Tracer(
        path,
        every=every,
        kinds=KINDS,
        probe_gradients_every=1,
        samples=8,
        on_error="raise",
        progress=False,
    )
    for expected, weight in zip(fit([]), fit([tracer]), strict=True):
        assert expected.tobytes() == weight.tobytes()
    assert validate(path) == []
    found = zarr.open_group(path, mode="r")
    assert values(found, "scalars/step").tolist() == list(range(0, 6, every))
    x, y = vectors(24)
    for row, step in enumerate(range(0, 6, every)):
        batch = slice(8 * (step % 3), 8 * (step % 3 + 1))
        assert values(found, "inputs/x")[row].tobytes() == x[batch].tobytes()
        # What the layer drew is only known by what it gave; all else follows from that.
        (noisy,) = (
            values(found, f"activations/{path}")[row]
            for path in read_attributes(path).declared["activations"]
            if "noisy/noisy" in path
        )
        assert (noisy != x[batch]).all()
        kernel, bias = (values(found, f"weights/noisy/out/{v}")[row] for v in ("kernel", "bias"))
        out = np.tanh(noisy @ kernel + bias)
        toward_out = 2 * (out - y[batch]) / out.size
        toward_sum = toward_out * (1 - out**2)
        probed = np.tanh(x[:8] @ kernel + bias)
        strongest = probed.argmax(axis=1)
        saliency = (1 - probed.max(axis=1, keepdims=True) ** 2) * kernel[:, strongest].T
        for key, expected in (
            ("activations/noisy/out/output", out),
            ("activation_gradients/noisy/out/output", toward_out),
            ("gradients/noisy/out/kernel", noisy.T @ toward_sum),
            ("gradients/noisy/out/bias", toward_sum.sum(axis=0)),
            ("inputs/x_gradient", toward_sum @ kernel.T),
            ("probe/noisy/out/output", probed),
            ("probe_gradients/noisy/out/saliency", saliency),
        ):
            np.testing.assert_allclose(
                values(found, key)[row], expected, rtol=1e-5, atol=1e-6, err_msg=key
            )
    if every == 1:
        compare_momentum(found, "noisy/out/kernel")


def test_a_method_is_a_step_too_and_its_object_has_the_models(tmp_path: Path) -> None:
    class Loop:
        def __init__(self) -> None:
            self.model = mlp()
            self.optimizer = keras.optimizers.SGD(0.25)

        @tf.function  # type: ignore[untyped-decorator]
        def train_step(self, batch: Any) -> None:
            x, y = batch
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.model(x) - y))
                if loss > 0.0:  # a condition of the graph, by autograph
                    loss = 2.0 * loss
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply(gradients, self.model.trainable_variables)

    def run(step: Callable[..., Any]) -> None:
        run_single(lambda x, y: step((x, y)))

    plain, loop = Loop(), Loop()
    run(plain.train_step)
    found = traced(
        tmp_path / "run.zarr", loop.train_step, run, kinds=KINDS, probe_gradients_every=1
    )
    for expected, weight in zip(weights_of(plain.model), weights_of(loop.model), strict=True):
        assert expected.tobytes() == weight.tobytes()
    x, y = vectors(STEPS * BATCH)
    for t in range(STEPS):
        rows = slice(t * BATCH, (t + 1) * BATCH)
        compare_with_squared_error(TwoLayers(found, t), x[rows], y[rows], 2.0)
    kernel = next(v for v in loop.model.weights if v.path.endswith("kernel"))
    weights = values(found, f"weights/{kernel.path}")
    gradients = values(found, f"gradients/{kernel.path}")
    assert (weights[1:] == weights[:-1] - np.float32(0.25) * gradients).all()


def test_only_some_steps_and_the_epoch_that_the_loop_sets(tmp_path: Path) -> None:
    model, step = single("compiled")
    plain, plain_step = single("compiled")
    x, y = (tf.constant(a) for a in vectors(BATCH))
    with Tracer(tmp_path / "run.zarr", every=2, on_error="raise", progress=False) as tracer:
        wrapped = tracer.wrap(step)
        for epoch in range(2):
            tracer.epoch = epoch
            for _ in range(3):
                wrapped(x, y)
                plain_step(x, y)
    found = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert values(found, "scalars/step").tolist() == [0, 2, 4]
    assert values(found, "scalars/epoch").tolist() == [0, 0, 1]
    assert values(found, "scalars/batch").tolist() == [0, 2, 1]
    for expected, weight in zip(weights_of(plain), weights_of(model), strict=True):
        assert expected.tobytes() == weight.tobytes()


def test_the_gradient_of_a_micro_batch_is_not_that_of_the_samples_of_the_batch(
    tmp_path: Path,
) -> None:
    model = mlp()

    def step(x: Any, y: Any) -> None:
        for rows in (slice(None, 2), slice(2, None)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x[rows], training=True) - y[rows]))
            gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    model.compile("sgd")
    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        run_single(tracer.wrap(step))
    assert "inputs/x_gradient" not in zarr.open_group(tmp_path / "run.zarr", mode="r")
    reasons = {m.path: m.reason for m in read_attributes(tmp_path / "run.zarr").missing}
    assert "does not count the samples" in reasons["x_gradient"]


def test_an_exception_in_the_loop_ends_the_trace_with_the_reason(tmp_path: Path) -> None:
    _, step = single("compiled")

    def interrupted() -> None:
        with Tracer(tmp_path / "run.zarr", progress=False) as tracer:
            run_single(tracer.wrap(step))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert "KeyboardInterrupt" in str(found.status_reason)
    assert found.steps_recorded["gradients"] == STEPS


_model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
_optimizer = keras.optimizers.SGD(0.1)


def _loss(x: Any) -> Any:
    return tf.reduce_mean(_model(x) ** 2)


def _update(x: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = _loss(x)
    weights = _model.trainable_variables
    _optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    return loss


def _outer_step(x: Any) -> Any:
    return _update(x)


def _around_a_function(x: Any) -> Any:
    def on_replica(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = (lambda: tf.reduce_mean(_model(x) ** 2))()
        weights = _model.trainable_variables
        _optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return on_replica(x)


@pytest.mark.parametrize("train_step", [_outer_step, _around_a_function])
def test_models_are_found_through_functions_that_are_called_and_those_inside(
    tmp_path: Path, train_step: Callable[..., Any]
) -> None:
    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step = tracer.wrap(train_step)
        for _ in range(3):
            step(tf.ones((4, 2)))
    assert read_attributes(tmp_path / "run.zarr").steps_recorded["gradients"] == 3


def test_a_step_that_calls_a_compiled_one_says_which_to_wrap(tmp_path: Path) -> None:
    compiled = tf.function(_update)

    def outer(x: Any) -> Any:
        return compiled(x)

    step = Tracer(tmp_path / "run.zarr", on_error="raise").wrap(outer)
    with pytest.raises(TraceError, match=r"if it calls a tf\.function that does so, wrap that"):
        step(tf.ones((4, 2)))


def test_a_step_that_calls_several_compiled_ones_says_what_works(tmp_path: Path) -> None:
    first, second = (
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")], name=name)
        for name in ("first", "second")
    )

    def updating(model: Any, optimizer: Any) -> Callable[[Any], Any]:
        def update(x: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(x) ** 2)
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return loss

        return update

    models, optimizers = (first, second), (keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2))
    parts = list(map(updating, models, optimizers))
    compiled = [tf.function(part) for part in parts]

    def in_turn(x: Any) -> Any:
        return [part(x) for part in compiled]

    said = r"several, take tf\.function off them, put it on the function that calls them"
    for number, step in enumerate((in_turn, tf.function(in_turn))):
        tracer = Tracer(tmp_path / f"{number}.zarr", on_error="raise", progress=False)
        with pytest.raises(TraceError, match=said):
            tracer.wrap(step, models=models, optimizers=optimizers)(tf.ones((4, 2)))

    @tf.function  # type: ignore[untyped-decorator]
    def at_once(x: Any) -> Any:
        return [part(x) for part in parts]

    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step = tracer.wrap(at_once, models=models, optimizers=optimizers)
        returned = [[float(loss) for loss in step(tf.ones((4, 2)))] for _ in range(3)]
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    for number, name in enumerate(("first", "second")):
        expected = [losses[number] for losses in returned]
        np.testing.assert_array_equal(
            values(group, f"scalars/losses/{name}"), np.array(expected, np.float32)
        )


def test_a_step_without_a_model_says_what_to_pass(tmp_path: Path) -> None:
    def train_step(x: Any) -> Any:
        return x

    step = Tracer(tmp_path / "run.zarr", on_error="raise").wrap(train_step)
    with pytest.raises(TraceError, match=r"no Keras models.*models=\[\.\.\.\].*tf\.Module"):
        step(tf.zeros(2))


def test_a_wrapped_step_inside_a_compiled_function_says_what_to_wrap(tmp_path: Path) -> None:
    model, step = single("eager")
    plain, plain_step = single("eager")
    wrapped = Tracer(tmp_path / "run.zarr", progress=False).wrap(step)
    x, y = (tf.constant(a) for a in vectors(BATCH))
    with pytest.warns(RuntimeWarning, match="wrap the outermost function"):
        tf.function(wrapped)(x, y)
    tf.function(plain_step)(x, y)
    for expected, weight in zip(weights_of(plain), weights_of(model), strict=True):
        assert expected.tobytes() == weight.tobytes()
