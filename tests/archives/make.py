"""Make the archived trace of the format version that this release introduces.

Run once for a release, ``python tests/archives/make.py``. Released traces are not edited, so it
never replaces one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from steptrace_schema.format.retention import last
from steptrace_schema.names import KINDS
from steptrace_schema.version import FORMAT_VERSION

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
_MARKED = 4
"""The batch of each epoch whose step is marked."""


def main() -> None:
    """Train a tiny network on handwritten digits for twelve steps, and pack its trace.

    One step of each epoch is marked, so that it is kept as an incident. The model ends with the
    average of its weights, so that these are kept as `final`.
    """
    import keras
    from sklearn.datasets import load_digits

    from steptrace_analyzer import pack
    from steptrace_tracer import Tracer

    target = Path(__file__).parent / FORMAT_VERSION / "digits.zarr.zip"
    if target.exists():
        sys.exit(f"{target} exists, and archived traces are never replaced")
    target.parent.mkdir(exist_ok=True)
    digits = load_digits()
    x = (digits.images[:128, :, :, None] / 16).astype("float32")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits",
    )
    adam = keras.optimizers.Adam(use_ema=True)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "digits.zarr"
        tracer = Tracer(
            trace,
            kinds=KINDS,
            probe_gradients_every=1,
            samples=2,
            precision={"activations": "bfloat16"},
            statistics_only=("activation_gradients",),
            retain=last(4, every=3),
            on_error="raise",
        )

        def log_batch(batch: int, logs: object) -> None:
            tracer.log("batch_number", batch)
            if batch == _MARKED:
                tracer.mark()

        log = keras.callbacks.LambdaCallback(on_train_batch_begin=log_batch)
        y = digits.target
        model.fit(
            x[:96],
            y[:96],
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=(x[96:], y[96:128]),
            callbacks=[tracer, log],
        )
        pack(trace, target)


if __name__ == "__main__":
    main()
