"""The one door to TensorFlow and Keras, and the sentences for where they cannot be used."""

from __future__ import annotations

import os
from typing import Final

from steptrace_schema.errors import TraceError

MISSING: Final = (
    "steptrace records TensorFlow/Keras training, and TensorFlow is not installed here; "
    "run: pip install 'steptrace[tensorflow]'"
)
"""What a user reads where TensorFlow is missing."""


def refuse_other_backend(backend: str) -> None:
    """Raise unless Keras computes with TensorFlow.

    Parameters
    ----------
    backend
        What ``keras.config.backend()`` returns.

    Raises
    ------
    TraceError
        If it is any other.
    """
    if backend != "tensorflow":
        msg = (
            "steptrace records what Keras does with TensorFlow, and Keras runs on the backend "
            f"'{backend}' here; set KERAS_BACKEND=tensorflow before Keras is imported"
        )
        raise TraceError(msg)


# Before Keras is imported, which fails by itself where that backend is not installed.
refuse_other_backend(os.environ.get("KERAS_BACKEND") or "tensorflow")
try:
    import keras

    refuse_other_backend(keras.config.backend())
    import tensorflow as tf
except ImportError as error:
    raise ImportError(MISSING) from error

__all__ = ["MISSING", "keras", "tf"]
