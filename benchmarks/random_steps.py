"""Own layers, own losses and own training steps for `random_programs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from random_networks import Draw

OWN_STEPS: Final = ("plain", "halves", "accumulating", "clipped", "two optimizers", "twice")


def own_blocks() -> dict[str, Callable[[Any], Any]]:
    """Return layers of their own code, for data of any shape, which they keep."""
    import keras
    import tensorflow as tf
    from keras import layers, ops

    class Own(layers.Layer):  # type: ignore[misc]
        """Passes a mask on, and has a weight for each channel."""

        def build(self, shape: Any) -> None:
            self.supports_masking = True
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
            self.add_state(shape)

        def add_state(self, shape: Any) -> None:
            """Add what the layer keeps."""

    class Centred(Own):
        """Moves a mean along, in training alone."""

        def add_state(self, shape: Any) -> None:
            self.mean = self.add_weight(shape=(shape[-1],), trainable=False, name="mean")

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                now = ops.mean(ops.cast(x, "float32"), axis=list(range(len(x.shape) - 1)))
                self.mean.assign(0.9 * self.mean + 0.1 * now)
            return (x - ops.cast(self.mean, x.dtype)) * ops.cast(self.scale, x.dtype)

    class Counted(Own):
        """Counts its calls, by which it shrinks."""

        def add_state(self, shape: Any) -> None:
            self.count = self.add_weight(
                shape=(), dtype="int32", trainable=False, initializer="zeros", name="count"
            )

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                self.count.assign_add(1)
            return x * self.scale / (1 + 0.1 * ops.cast(self.count, x.dtype))

    class Penalized(Own):
        """Adds two losses of its own."""

        def call(self, x: Any) -> Any:
            found = x * self.scale
            self.add_loss(1e-3 * ops.mean(ops.square(ops.cast(found, "float32"))))
            self.add_loss(1e-3 * ops.sum(ops.square(ops.cast(self.scale, "float32"))))
            return found

    class Noisy(Own):
        """Draws random numbers of its own."""

        def add_state(self, shape: Any) -> None:
            self.numbers = keras.random.SeedGenerator(7)

        def call(self, x: Any, training: bool = False) -> Any:
            if not training:
                return x * self.scale
            noise = keras.random.normal(ops.shape(x), seed=self.numbers, dtype=x.dtype)
            return x * self.scale + 0.1 * noise

    class Looped(Own):
        """Computes in a loop of the graph."""

        def call(self, x: Any) -> Any:
            _, found = tf.while_loop(
                lambda i, _: i < 3, lambda i, v: (i + 1, ops.tanh(v * self.scale)), (0, x)
            )
            return found

    class Branched(Own):
        """Computes one of two, as the data are."""

        def call(self, x: Any) -> Any:
            return tf.cond(ops.mean(x) > 0.2, lambda: ops.tanh(x * self.scale), lambda: x * 0.5)

    class Compiled(Own):
        """Computes in a function of TensorFlow's of its own."""

        def call(self, x: Any) -> Any:
            return self.inner(x)

        @tf.function  # type: ignore[untyped-decorator]
        def inner(self, x: Any) -> Any:
            return ops.sin(x) * self.scale

    class Recomputed(Own):
        """Computes again in the backward pass what it has computed."""

        def call(self, x: Any) -> Any:
            return keras.remat(lambda v: ops.tanh(v) * self.scale)(x)

    class Turned(Own):
        """Turns the gradient around, as adversarial training does."""

        def call(self, x: Any) -> Any:
            @tf.custom_gradient  # type: ignore[untyped-decorator]
            def turned(v: Any) -> Any:
                return tf.identity(v), lambda slope: -0.5 * slope

            return turned(x * self.scale)

    class Detached(Own):
        """Holds the gradient back from half of what it returns."""

        def call(self, x: Any) -> Any:
            return 0.5 * ops.stop_gradient(ops.abs(x)) + x * self.scale

    class Several(Own):
        """Returns a mapping."""

        def call(self, x: Any) -> Any:
            return {"low": ops.minimum(x, 0.3), "high": x * self.scale}

        def compute_output_shape(self, shape: Any) -> Any:
            return {"low": shape, "high": shape}

    def several(x: Any) -> Any:
        found = Several()(x)
        return layers.Maximum()([found["low"], found["high"]])

    def inner_layers(x: Any) -> Any:
        return layers.Dense(x.shape[-1], trainable=False)(Detached()(x)) + x

    kinds = (
        *(Centred, Counted, Penalized, Noisy, Looped, Branched, Compiled),
        *(Recomputed, Turned, Detached),
    )

    def of(kind: Any) -> Callable[[Any], Any]:
        return lambda x: kind()(x)

    found = {f"own {kind.__name__.lower()}": of(kind) for kind in kinds}
    return found | {"own several": several, "own frozen": inner_layers}


def model_class(draw: Draw, base: Any) -> Any:
    """Return `base`, or a class of it with a training step or a loss of its own."""
    import tensorflow as tf

    way = draw("train_step", ["of Keras"] * 7 + list(OWN_STEPS))
    penal = draw("compute_loss", [False] * 4 + [True])
    if way == "of Keras" and not penal:
        return base

    class Own(base):  # type: ignore[misc]
        if penal:

            def compute_loss(
                self,
                x: Any = None,
                y: Any = None,
                y_pred: Any = None,
                sample_weight: Any = None,
                training: bool = True,
            ) -> Any:
                loss = super().compute_loss(x, y, y_pred, sample_weight, training)
                return loss + 1e-3 * sum(
                    tf.reduce_sum(tf.square(v.value)) for v in self.trainable_variables
                )

        if way != "of Keras":

            def train_step(self, data: Any) -> Any:
                return own_step(self, way, data)

    return Own


def own_step(model: Any, way: str, data: Any) -> Any:
    """Do a step as programs write it themselves."""
    import keras
    import tensorflow as tf

    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    variables, optimizer = model.trainable_variables, model.optimizer

    def slopes(x: Any, y: Any, weight: Any, share: float = 1.0) -> tuple[Any, Any, Any]:
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight)
            scaled = optimizer.scale_loss(loss * share)
        return tape.gradient(scaled, variables), loss, predicted

    if way == "halves":
        middle = tf.shape(tf.nest.flatten(y)[0])[0] // 2
        parts = halved((x, y, weight), middle)
        (first, one, head), (second, two, tail) = (slopes(a, b, c, 0.5) for a, b, c in parts)
        gradients = [tf.convert_to_tensor(a) + b for a, b in zip(first, second, strict=True)]
        loss = 0.5 * (one + two)
        predicted = tf.nest.map_structure(lambda *v: tf.concat(v, 0), head, tail)
    else:
        gradients, loss, predicted = slopes(x, y, weight)
    if way == "twice":  # at the weights that a small step leads to
        moved = [0.01 * tf.convert_to_tensor(g) for g in gradients]
        for variable, by in zip(variables, moved, strict=True):
            variable.assign_add(tf.cast(by, variable.dtype))
        gradients, loss, predicted = slopes(x, y, weight)
        for variable, by in zip(variables, moved, strict=True):
            variable.assign_sub(tf.cast(by, variable.dtype))
    if way == "accumulating":
        _accumulated(model, gradients)
    elif way == "two optimizers":
        half = len(variables) // 2
        with tf.init_scope():
            if not hasattr(model, "second_optimizer"):
                model.second_optimizer = keras.optimizers.RMSprop(0.01)
                model.second_optimizer.build(variables[half:])
            if not optimizer.built:
                optimizer.build(variables[:half])
        optimizer.apply(gradients[:half], variables[:half])
        model.second_optimizer.apply(gradients[half:], variables[half:])
    else:
        if way == "clipped":
            gradients, _ = tf.clip_by_global_norm(gradients, 0.05)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    next(metric for metric in model.metrics if metric.name == "loss").update_state(loss)
    return model.compute_metrics(x, y, predicted, weight) | {"own": loss}


def halved(structure: Any, middle: Any) -> list[Any]:
    """Return the rows before `middle`, and the others."""
    import tensorflow as tf

    return [
        tf.nest.map_structure(lambda v, rows=rows: None if v is None else v[rows], structure)
        for rows in (slice(None, middle), slice(middle, None))
    ]


def _accumulated(model: Any, gradients: Any) -> None:
    """Add the gradients to those of before, and apply the sum at every second step."""
    import tensorflow as tf

    variables = model.trainable_variables
    with tf.init_scope():
        if not hasattr(model, "held"):
            model.held = [tf.Variable(tf.zeros_like(v.value), trainable=False) for v in variables]
            model.turn = tf.Variable(0, trainable=False)
            model.optimizer.build(variables)
    model.turn.assign_add(1)
    for held, gradient in zip(model.held, gradients, strict=True):
        held.assign_add(tf.convert_to_tensor(gradient))

    def apply() -> None:
        model.optimizer.apply_gradients(zip(model.held, variables, strict=True))
        for held in model.held:
            held.assign(tf.zeros_like(held))

    tf.cond(tf.equal(model.turn % 2, 0), apply, lambda: None)
