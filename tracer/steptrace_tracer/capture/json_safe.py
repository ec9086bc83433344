"""What Keras says of its objects, as valid JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def json_safe(value: Any) -> Any:
    """Return `value` as valid JSON values: what JSON has no word for becomes its text.

    Examples
    --------
    >>> json_safe({"rate": float("inf"), "shape": (1, None)})
    {'rate': 'inf', 'shape': [1, None]}
    """
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
