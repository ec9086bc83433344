"""What Keras says of its objects, as valid JSON."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def json_safe(value: Any) -> Any:
    """Return `value` as valid JSON values: what JSON has no word for becomes its text.

    Addresses in memory are left out of it, which differ from run to run.

    Examples
    --------
    >>> json_safe({"rate": float("inf"), "shape": (1, None)})
    {'rate': 'inf', 'shape': [1, None]}
    >>> json_safe([lambda: 0])
    ['<function <lambda>>']
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
    return _ADDRESS.sub("", str(value))
