"""Networks, losses and optimizers for `random_programs`, each choice drawn from a seed."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from random_steps import model_class, own_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 3


class Draw:
    """Choices that a seed makes; each by its name alone, so that one can be made by hand.

    Parameters
    ----------
    seed
        What they are drawn from.
    forced
        Names, and the choices that are made for them instead.
    """

    def __init__(self, seed: int, forced: dict[str, str] | None = None) -> None:
        self.seed = seed
        self.forced = forced or {}
        self.chosen: dict[str, Any] = {}

    def __call__(self, name: str, options: Any) -> Any:
        """Return one of `options`: of a mapping, a value, whose key is noted."""
        keys = list(options)
        choice = random.Random(f"{self.seed}/{name}").choice(keys)
        if name in self.forced:
            choice = next(key for key in keys if str(key) == self.forced[name])
        self.chosen[name] = choice
        return options[choice] if isinstance(options, dict) else choice

    def __str__(self) -> str:
        return ", ".join(f"{name}={choice}" for name, choice in self.chosen.items())


def blocks_of(draw: Draw) -> dict[str, dict[str, Callable[[Any], Any]]]:
    """Return for each sort of data what may be done with it; each keeps the shape."""
    import keras
    from keras import layers, ops

    def gated(x: Any) -> Any:
        return layers.Multiply()([x, layers.Dense(8, activation="sigmoid")(x)])

    def twice(x: Any) -> Any:
        layer = layers.Dense(8, activation="tanh", kernel_constraint="max_norm")
        return layer(layer(x))

    def penalized(x: Any) -> Any:
        x = layers.Dense(8, "relu", kernel_regularizer="l2", activity_regularizer="l1")(x)
        return layers.ActivityRegularization(l2=0.01)(x)

    def residual(x: Any) -> Any:
        y = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        return layers.Add()([x, layers.Conv2D(4, 3, padding="same")(y)])

    def normed_conv(x: Any) -> Any:
        x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        return layers.Activation("relu")(layers.BatchNormalization()(x))

    def inception(x: Any) -> Any:
        parts = [layers.Conv2D(2, n, padding="same", activation="relu")(x) for n in (1, 3)]
        return layers.Concatenate()(parts)

    def up_and_down(x: Any) -> Any:
        x = layers.Conv2D(6, 3, strides=2, padding="same", activation="gelu")(x)
        return layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)

    def transformer(x: Any) -> Any:
        a = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True)
        x = layers.LayerNormalization()(layers.Add()([x, a]))
        y = layers.Dense(8)(layers.Dense(16, activation="gelu")(x))
        return layers.LayerNormalization()(layers.Add()([x, y]))

    def stacked(x: Any) -> Any:
        return layers.RNN([layers.GRUCell(4), layers.LSTMCell(8)], return_sequences=True)(x)

    def in_both_ways(x: Any) -> Any:
        return layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)

    def with_state(x: Any) -> Any:
        y, h, c = layers.LSTM(8, return_sequences=True, return_state=True)(x)
        return layers.Add()([y, layers.RepeatVector(6)(layers.Multiply()([h, c]))])

    def convolved(x: Any) -> Any:
        y = layers.ConvLSTM1D(4, 3, padding="same", return_sequences=True)(
            layers.Reshape((6, 4, 2))(x)
        )
        return layers.Dense(8)(layers.Reshape((6, 16))(y))

    vector: dict[str, Callable[[Any], Any]] = {
        "dense": lambda x: layers.Dense(8, activation=draw("activation", _ACTIVATIONS))(x),
        "twice": twice,
        "penalized": penalized,
        "gated": gated,
        "normed": lambda x: layers.BatchNormalization()(layers.Dense(8, use_bias=False)(x)),
        "layer norm": lambda x: layers.LayerNormalization(epsilon=1e-5)(layers.Dense(8)(x)),
        "rms norm": lambda x: layers.RMSNormalization()(x),
        "dropout": lambda x: layers.Dropout(0.3)(layers.Dense(8, "relu")(x)),
        "alpha dropout": lambda x: layers.AlphaDropout(0.2)(layers.Dense(8, "selu")(x)),
        "noise": lambda x: layers.GaussianDropout(0.2)(layers.GaussianNoise(0.1)(x)),
        "prelu": lambda x: layers.PReLU()(layers.Dense(8)(x)),
        "ops": lambda x: ops.concatenate([ops.sin(x[:, :4]), ops.abs(x[:, 4:])], axis=-1) + x,
        "lambda": lambda x: layers.Lambda(lambda v: v * 0.5 + ops.softmax(v))(x),
        "spectral": lambda x: layers.SpectralNormalization(layers.Dense(8))(x),
        "einsum": lambda x: layers.EinsumDense("ab,bc->ac", 8, bias_axes="c")(x),
        "reshaped": lambda x: layers.Flatten()(layers.Conv1D(2, 3, padding="same")(
            layers.Reshape((4, 2))(x))),
        "identity": lambda x: layers.Identity()(layers.UnitNormalization()(x)),
    }  # fmt: skip
    image: dict[str, Callable[[Any], Any]] = {
        "conv": lambda x: layers.Conv2D(4, 3, padding="same", activation="relu")(x),
        "normed conv": normed_conv,
        "separable": lambda x: layers.SeparableConv2D(4, 3, padding="same", activation="swish")(x),
        "depthwise": lambda x: layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(x)),
        "residual": residual,
        "inception": inception,
        "up and down": up_and_down,
        "dilated": lambda x: layers.Conv2D(4, 3, dilation_rate=2, padding="same", groups=2)(x),
        "pooled": lambda x: layers.UpSampling2D()(layers.MaxPooling2D()(x)),
        "averaged": lambda x: layers.UpSampling2D(interpolation="bilinear")(
            layers.AveragePooling2D(2)(x)),
        "group norm": lambda x: layers.GroupNormalization(2)(x),
        "spatial dropout": lambda x: layers.SpatialDropout2D(0.3)(x),
        "flipped": lambda x: layers.RandomFlip()(x),
        "rotated": lambda x: layers.RandomZoom(0.1)(layers.RandomRotation(0.1)(x)),
        "contrast": lambda x: layers.RandomContrast(0.2, value_range=(0, 1))(x),
        "moved": lambda x: layers.RandomTranslation(0.1, 0.1)(x),
        "erased": lambda x: layers.RandomErasing(value_range=(0, 1))(x),
        "padded": lambda x: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x)),
    }  # fmt: skip
    sequence: dict[str, Callable[[Any], Any]] = {
        "lstm": lambda x: layers.LSTM(8, return_sequences=True)(x),
        "lstm dropout": lambda x: layers.LSTM(
            8, return_sequences=True, dropout=0.2, recurrent_dropout=0.1)(x),
        "gru": lambda x: layers.GRU(8, return_sequences=True, reset_after=False)(x),
        "simple": lambda x: layers.SimpleRNN(8, return_sequences=True, unroll=True)(x),
        "in both ways": in_both_ways,
        "stacked": stacked,
        "with state": with_state,
        "convolved": convolved,
        "conv": lambda x: layers.Conv1D(8, 3, padding="causal", activation="relu")(x),
        "separable": lambda x: layers.SeparableConv1D(8, 3, padding="same")(x),
        "attention": lambda x: layers.Attention(use_scale=True)([x, x]),
        "transformer": transformer,
        "grouped": lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x),
        "distributed": lambda x: layers.TimeDistributed(layers.Dense(8, "relu"))(x),
        "masked": lambda x: layers.GRU(8, return_sequences=True)(layers.Masking(0.0)(x)),
        "layer norm": lambda x: layers.LayerNormalization()(x),
        "dropout": lambda x: layers.SpatialDropout1D(0.2)(x),
    }  # fmt: skip
    del keras
    own = own_blocks()
    sequence |= own
    return {"vector": vector | own, "image": image | own, "sequence": sequence, "tokens": sequence}


_ACTIVATIONS = ["relu", "tanh", "gelu", "softmax", "elu", "leaky_relu", "mish", "hard_sigmoid"]


def network(draw: Draw, rows: int, size: int) -> tuple[Any, list[Any]]:
    """Return a model that is not compiled, and its batches, the last one smaller."""
    import keras
    from keras import layers

    keras.config.set_dtype_policy(
        draw("dtype", ["float32"] * 8 + ["mixed_float16", "mixed_bfloat16"])
    )
    forms = ["functional", "nested", "sequential", "subclassed", "lazy", "siamese", "stateful"]
    form = draw("form", forms)
    sort = draw("sort", ["vector", "image", "sequence", "tokens"])
    if form == "stateful":  # a state for each row, so all batches have as many
        sort = draw.chosen["sort"] = "sequence"
        rows += -rows % size
    blocks = blocks_of(draw)[sort]
    shape = {"vector": (8,), "image": (8, 8, 4), "sequence": (6, 8), "tokens": (6,)}[sort]
    names = [draw(f"block {n}", list(blocks)) for n in range(draw("blocks", [1, 2, 3]))]
    task = draw("task", ["values", "classes", "classes", "binary", "two", "named"])
    masked = draw("masked", [False, True])

    def body(x: Any) -> Any:
        if sort == "tokens":
            x = layers.Embedding(20, 8, mask_zero=masked)(x)
        for name in names:
            inner = blocks[name]
            if form in ("nested", "siamese") and x.shape[1:] == shape:
                part = keras.Input(x.shape[1:])
                x = keras.Model(part, inner(part))(x)
            else:
                x = inner(x)
        return x

    def head(x: Any) -> Any:
        if len(x.shape) == 4:
            x = draw("pool", {"mean": layers.GlobalAveragePooling2D, "all": layers.Flatten})()(x)
        elif len(x.shape) == 3:
            ways: dict[str, Any] = {
                "mean": layers.GlobalAveragePooling1D,
                "last": lambda: layers.LSTM(5),
                "largest": layers.GlobalMaxPooling1D,
            }
            x = draw("pool", ways)()(x)
        if task == "binary":
            return layers.Dense(1, activation="sigmoid", dtype="float32")(x)
        if task == "classes":
            softmax = draw("softmax", [False, True])
            return layers.Dense(CLASSES, "softmax" if softmax else None, dtype="float32")(x)
        one = layers.Dense(2, dtype="float32", name="one")(x)
        if task == "values":
            return one
        two = layers.Dense(CLASSES, "softmax", dtype="float32", name="two")(x)
        return {"one": one, "two": two} if task == "named" else [one, two]

    dtype = "int32" if sort == "tokens" else "float32"
    x = keras.Input(shape, size if form == "stateful" else None, dtype, name="x")
    if form == "siamese":
        other = keras.Input(shape, dtype=dtype, name="other")
        shared = keras.Model(x, body(x))
        joined = layers.Subtract()([shared(x), shared(other)])
        inputs: Any = draw(
            "inputs", {"dict": {"x": x, "other": other}, "list": [x, other], "tuple": (x, other)}
        )
        model = model_class(draw, keras.Model)(inputs, head(joined))
    elif form == "sequential":
        first = keras.Model(x, body(x))
        second_in = keras.Input(first.output.shape[1:])
        parts = [x, first, keras.Model(second_in, head(second_in))]
        model = model_class(draw, keras.Sequential)(parts)
    elif form in ("subclassed", "lazy"):
        inner = body(x)
        second_in = keras.Input(inner.shape[1:])
        parts = [keras.Model(x, inner), keras.Model(second_in, head(second_in))]
        model = _own_model(model_class(draw, keras.Model), parts, lazy=form == "lazy")
    elif form == "stateful":
        kept = layers.LSTM(8, return_sequences=True, stateful=True)(x)
        model = model_class(draw, keras.Model)(x, head(body(kept)))
    else:
        model = model_class(draw, keras.Model)(x, head(body(x)))
    return model, _batches(draw, model, sort, form, task, shape, rows, size)


def _own_model(base: Any, parts: list[Any], lazy: bool) -> Any:
    import keras
    from keras import ops

    class Own(base):  # type: ignore[misc]
        """Calls its parts in its own code, with a layer that is built at the first call."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = parts
            self.lazy = keras.layers.Dense(8 if len(parts[0].output.shape) < 4 else 4)
            if not lazy:
                self.lazy.build(parts[0].output.shape)

        def call(self, x: Any, training: bool = False) -> Any:
            x = self.parts[0](x, training=training)
            return self.parts[1](x + ops.tanh(self.lazy(x)), training=training)

    return Own()


def _batches(
    draw: Draw, model: Any, sort: str, form: str, task: str, shape: Any, rows: int, size: int
) -> list[Any]:
    rng = np.random.default_rng(draw.seed)

    def some() -> Any:
        if sort == "tokens":
            return rng.integers(0, 20, (rows, *shape)).astype(np.int32)
        return rng.random((rows, *shape), dtype=np.float32)

    x = some()
    if form == "siamese":
        other = some()
        x = {"dict": {"x": x, "other": other}}.get(draw.chosen["inputs"], (x, other))
    values = rng.normal(size=(rows, 2)).astype(np.float32)
    classes = rng.integers(0, CLASSES, rows)
    y = {
        "values": values,
        "classes": classes,
        "binary": (classes[:, None] > 0).astype(np.float32),
        "two": (values, classes),
        "named": {"one": values, "two": classes},
    }[task]
    weights = (rng.uniform(0.5, 2, rows).astype(np.float32),)
    weighted = draw("sample_weight", [False, False, True]) and task not in ("two", "named")
    whole = (x, y, *weights) if weighted else (x, y)

    def part(value: Any, rows: slice) -> Any:
        if isinstance(value, dict):
            return {key: part(inner, rows) for key, inner in value.items()}
        if isinstance(value, tuple):
            return tuple(part(inner, rows) for inner in value)
        return value[rows]

    return [part(whole, slice(start, start + size)) for start in range(0, rows, size)]


def optimizer_of(draw: Draw) -> Any:
    from keras import optimizers
    from keras.optimizers import schedules

    rate = draw("rate", ["fixed", "fixed", "exponential", "cosine", "steps"])
    rates: dict[str, Any] = {
        "fixed": 0.02,
        "exponential": schedules.ExponentialDecay(0.02, 2, 0.5),
        "cosine": schedules.CosineDecay(0.01, 6, warmup_target=0.03, warmup_steps=2),
        "steps": schedules.PiecewiseConstantDecay([2, 5], [0.05, 0.01, 0.001]),
    }
    averages: dict[str, dict[str, Any]] = {
        "none": {},
        "ema": {"use_ema": True, "ema_momentum": 0.5},
        "ema written": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    }
    if draw.chosen["sort"] == "tokens":  # Keras cannot divide the sparse gradients
        draw.forced = {"accumulated": "{}", "loss scale": "{}", **draw.forced}
    more = {
        "learning_rate": rates[rate],
        **draw("clip", [{}, {}, {"clipnorm": 0.1}, {"clipvalue": 0.01}, {"global_clipnorm": 0.1}]),
        **draw("decay", [{}, {}, {"weight_decay": 0.01}]),
        **averages[draw("average", ["none", "none", *averages])],
        **draw("accumulated", [{}, {}, {"gradient_accumulation_steps": 2}]),
        **draw("loss scale", [{}, {}, {}, {"loss_scale_factor": 16.0}]),
    }
    names = "SGD Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion Muon Nadam RMSprop"
    makers: dict[str, Callable[[], Any]] = {
        name: partial(getattr(optimizers, name), **more) for name in names.split()
    }
    makers |= {
        "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(**more),
        "momentum": lambda: optimizers.SGD(momentum=0.9, nesterov=True, **more),
        "centered": lambda: optimizers.RMSprop(momentum=0.5, centered=True, **more),
        "amsgrad": lambda: optimizers.Adam(amsgrad=True, **more),
        "scaled": lambda: optimizers.LossScaleOptimizer(
            optimizers.Adam(0.01), initial_scale=2.0**60, dynamic_growth_steps=2),
    }  # fmt: skip
    return draw("optimizer", makers)()


def compiled(draw: Draw, model: Any) -> None:
    """Compile the model as it is drawn."""
    from keras import losses

    task = draw.chosen["task"]
    of_values = draw("loss", ["mse", "mae", "huber", "log_cosh", "cosine_similarity"])
    entropy = losses.SparseCategoricalCrossentropy(
        from_logits=not draw.chosen.get("softmax", True), ignore_class=None
    )
    sets: dict[str, tuple[Any, list[Any]]] = {
        "values": (of_values, ["mae", "mse"]),
        "classes": (entropy, ["accuracy"]),
        "binary": (draw("of binary", ["binary_crossentropy", "hinge"]), ["accuracy", "AUC"]),
        "two": ([of_values, "sparse_categorical_crossentropy"], [["mae"], ["accuracy"]]),
        "named": ({"one": of_values, "two": "sparse_categorical_crossentropy"}, []),
    }
    loss, metrics = sets[task]
    key = draw("metrics", ["none", "metrics", "weighted_metrics"])
    extra: dict[str, Any] = {key: metrics} if key != "none" and metrics else {}
    if task in ("two", "named") and draw("loss weights", [False, True]):
        extra["loss_weights"] = [0.3, 2.0] if task == "two" else {"one": 0.3, "two": 2.0}
    model.compile(
        optimizer_of(draw),
        loss,
        jit_compile=draw("jit", ["auto", "auto", False, True]),
        run_eagerly=draw("eager", [False] * 6 + [True]),
        steps_per_execution=draw("executed", [1, 1, 1, 2, 3]),
        **extra,
    )
