"""The one door to TensorFlow and Keras, and the sentence for where they are missing."""

from __future__ import annotations

MISSING = (
    "steptrace records TensorFlow/Keras training, and TensorFlow is not installed here; "
    "run: pip install 'steptrace[tensorflow]'"
)
"""What a user reads where TensorFlow is missing."""

try:
    import keras
    import tensorflow as tf
except ImportError as error:
    raise ImportError(MISSING) from error

__all__ = ["MISSING", "keras", "tf"]
