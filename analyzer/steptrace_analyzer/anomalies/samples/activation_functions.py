"""Activation functions, and how a gradient passes them on its way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Pair = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]

_SELU_ALPHA: Final = 1.6732632423543772
_SELU_SCALE: Final = 1.0507009873554805
_LEAK: Final = 0.2  # of Keras' leaky_relu


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))


def _normal(z: Floats) -> Floats:
    """Return the normal distribution's cumulative probability (Abramowitz and Stegun 7.1)."""
    return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2))))


def _exp(z: Floats) -> Floats:
    return np.exp(np.minimum(z, 0.0))


_FUNCTIONS: Final[dict[str, Pair]] = {
    "linear": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(np.float64)),
    "leaky_relu": (lambda z: np.where(z > 0, z, _LEAK * z), lambda z: np.where(z > 0, 1.0, _LEAK)),
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: ((z > 0) & (z < 6)).astype(np.float64)),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "softplus": (lambda z: np.logaddexp(z, 0), _sigmoid),
    "softsign": (lambda z: z / (1 + np.abs(z)), lambda z: 1 / (1 + np.abs(z)) ** 2),
    "elu": (lambda z: np.where(z > 0, z, _exp(z) - 1), lambda z: np.where(z > 0, 1.0, _exp(z))),
    "selu": (
        lambda z: _SELU_SCALE * np.where(z > 0, z, _SELU_ALPHA * (_exp(z) - 1)),
        lambda z: _SELU_SCALE * np.where(z > 0, 1.0, _SELU_ALPHA * _exp(z)),
    ),
    "silu": (
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))),
    ),
    "gelu": (
        lambda z: z * _normal(z),
        lambda z: _normal(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
    ),
}
"""Each function of one number and its slope, as in ``keras/src/activations`` of Keras 3."""
_OTHER_NAMES: Final = {"swish": "silu", "": "linear"}


def known(name: str | None) -> bool:
    """Whether a function is one of those here."""
    name = _OTHER_NAMES.get(name or "", name or "")
    return name in _FUNCTIONS or name == "softmax"


def forward(name: str | None, before: Floats) -> Floats:
    """Return what the function gives of pre-activations, (..., unit)."""
    name = _OTHER_NAMES.get(name or "", name or "")
    if name == "softmax":
        exponents = np.exp(before - before.max(axis=-1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))
    return np.asarray(_FUNCTIONS[name][0](before))


def backward(name: str | None, before: Floats, gradient: Floats) -> Floats:
    """Return the gradient of pre-activations from that of the function's outputs, (..., unit).

    Examples
    --------
    >>> backward("relu", np.array([[-1.0, 2.0]]), np.array([[5.0, 5.0]]))
    array([[0., 5.]])
    """
    name = _OTHER_NAMES.get(name or "", name or "")
    if name == "softmax":
        share = forward(name, before)
        return np.asarray(share * (gradient - (gradient * share).sum(axis=-1, keepdims=True)))
    return np.asarray(gradient * _FUNCTIONS[name][1](before))
