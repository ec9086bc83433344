"""Whether a model has its weights, and calling it without Keras noting that it was called.

Keras calls a model built when it was called. One whose own step calls only the models inside it
never is: it may be given further layers at any time, and cannot be saved. Neither may change
because the tracer calls it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import keras
from steptrace_tracer.capture.names import walk_layers
from steptrace_tracer.keras_private import sublayers

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_built(layer: Any) -> bool:
    """Return whether `layer` is built, or has all of its weights and nothing to build.

    Examples
    --------
    >>> is_built(keras.layers.Dense(2))
    False
    """
    if layer.built:
        return True
    has_own_build = type(layer).build is not keras.Layer.build
    return not has_own_build and bool(layer.weights) and all(map(is_built, sublayers(layer)))


@contextmanager
def left_unbuilt(model: Any) -> Iterator[None]:
    """Have `model` and the layers in it be as much or as little built afterwards as before."""
    layers = [model, *(layer for layer, _ in walk_layers(model))]
    unbuilt = [layer for layer in layers if not layer.built and is_built(layer)]
    for layer in unbuilt:
        layer.built = True  # so that Keras does not build it, and lock it, when it is called
    try:
        yield
    finally:
        for layer in unbuilt:
            layer.built = False
