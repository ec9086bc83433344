"""What the losses of Keras are of a prediction that is the same for every sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Slope = Callable[[Floats], Floats]

EPSILON: Final = 1e-7
"""What Keras keeps from zero what it divides by or takes the logarithm of."""

_HALVINGS: Final = 50
_MOST_VALUES: Final = 2e6  # that a least loss is searched on
_SHARES: Final = 1001  # that a least loss is searched among
_PADDING: Final = 0.3  # of all labels
_ONE: Final = 1e-3  # how far from 1 shares may add up


@dataclasses.dataclass(frozen=True)
class ConstantLosses:
    """Losses of one output, each the mean over the samples."""

    best: float
    """Of the best prediction that is the same for every sample."""
    perfect: float = 0.0
    """Of a prediction that is right for every sample."""
    zero: float | None = None
    """Of predicting zero, where zero is a number like others, as in a regression."""
    even: bool = True
    """Whether a right prediction has the same loss for every sample."""
    costs: Floats | None = None
    """What the best prediction costs for each value, as the targets; None where not known."""

    @classmethod
    def of_costs(cls, costs: Floats, zero: Floats) -> ConstantLosses:
        """Return the losses whose best and zero prediction cost so much for each value."""
        return cls(float(costs.mean()), zero=float(zero.mean()), costs=costs)


def constant_losses(
    function: str, values: Floats, config: Mapping[str, Any]
) -> ConstantLosses | None:
    """Return what a loss is of constant predictions, None where it is not known.

    Parameters
    ----------
    function
        What Keras calls the function of the loss.
    values
        Targets, dims (row, ...).
    config
        Settings of the function. What is left out is not known; of cross entropies it is taken for
        Keras' default.

    Examples
    --------
    >>> values = np.array([[0.0], [2.0], [7.0]])
    >>> constant_losses("mean_absolute_error", values, {}).best
    2.3333333333333335
    """
    compute = _FUNCTIONS.get(function)
    return None if compute is None or not values.size else compute(values, config)


def _squared(values: Floats, _: Mapping[str, Any]) -> ConstantLosses:
    """Mean: Bishop, "Pattern Recognition and Machine Learning", 1.5.5."""
    return ConstantLosses.of_costs((values - values.mean(axis=0)) ** 2, values**2)


def _absolute(values: Floats, _: Mapping[str, Any]) -> ConstantLosses:
    """Median: Bishop, "Pattern Recognition and Machine Learning", 1.5.5."""
    return ConstantLosses.of_costs(np.abs(values - np.median(values, axis=0)), np.abs(values))


def _huber(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """Where the clipped errors add up to zero: Huber, Ann. Math. Statist. 35, 1964."""
    delta = config.get("delta")
    if not isinstance(delta, (int, float)) or not delta > 0:
        return None

    def cost(errors: Floats) -> Floats:
        size = np.abs(errors)
        return np.asarray(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)))

    return _searched(values, cost, lambda errors: np.clip(errors, -delta, delta))


def _log_cosh(values: Floats, _: Mapping[str, Any]) -> ConstantLosses:
    """Where the hyperbolic tangents of the errors, which are the slopes, add up to zero."""

    def cost(errors: Floats) -> Floats:
        size = np.abs(errors)
        return np.asarray(size + np.log1p(np.exp(-2 * size)) - np.log(2))

    return _searched(values, cost, np.tanh)


def _squared_logarithmic(values: Floats, _: Mapping[str, Any]) -> ConstantLosses:
    """Mean of log(1 + y), since the error of these logarithms is squared."""
    logs = np.log1p(np.maximum(values, EPSILON))
    zero = (logs - np.log1p(EPSILON)) ** 2
    return ConstantLosses.of_costs((logs - logs.mean(axis=0)) ** 2, zero)


def _percentage(values: Floats, _: Mapping[str, Any]) -> ConstantLosses:
    """Median with weights 1 / |y|: de Myttenaere et al., Neurocomputing 192, 2016."""
    columns = values.reshape(len(values), -1)
    weights = 1 / np.maximum(np.abs(columns), EPSILON)
    order = np.argsort(columns, axis=0)
    sums = np.take_along_axis(weights, order, axis=0).cumsum(axis=0)
    middle = (sums < sums[-1] / 2).sum(axis=0)
    medians = np.take_along_axis(columns, np.take_along_axis(order, middle[None], axis=0), axis=0)
    costs = 100 * weights * np.abs(columns - medians)
    return ConstantLosses.of_costs(costs.reshape(values.shape), 100 * weights * np.abs(columns))


def _poisson(values: Floats, _: Mapping[str, Any]) -> ConstantLosses | None:
    """Mean, of which the rest is the mean of y log y: Banerjee et al., JMLR 6, 2005, example 5."""
    if values.min() < 0:
        return None
    means = values.mean(axis=0)
    best, perfect = (float((y - y * np.log(y + EPSILON)).mean()) for y in (means, values))
    return ConstantLosses(best, perfect, even=False)


def _kl_divergence(values: Floats, _: Mapping[str, Any]) -> ConstantLosses | None:
    """Mean of the shares: Banerjee et al., JMLR 6, 2005, proposition 1.

    Both are taken to add up to 1: outputs that do not can have any loss.
    """
    shares = _shares(values)
    if shares is None:
        return None
    return ConstantLosses(_entropy(shares.mean(axis=0)) - _mean_entropy(shares))


def _hinge(values: Floats, _: Mapping[str, Any]) -> ConstantLosses | None:
    """Twice the smaller share: Bartlett, Jordan, McAuliffe, JASA 101, 2006, example 4."""
    share = _share_of_ones(values)
    return None if share is None else ConstantLosses(float(2 * np.minimum(share, 1 - share).mean()))


def _squared_hinge(values: Floats, _: Mapping[str, Any]) -> ConstantLosses | None:
    """Four times the product of both shares: Bartlett, Jordan, McAuliffe, JASA 101, 2006."""
    share = _share_of_ones(values)
    return None if share is None else ConstantLosses(float(4 * (share * (1 - share)).mean()))


def _cosine(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """Direction of the mean of unit vectors: Dhillon, Modha, Machine Learning 42, 2001, eq. 4."""
    if values.ndim < 2 or config.get("axis") not in (-1, values.ndim - 1):
        return None
    sizes = np.linalg.norm(values, axis=-1, keepdims=True)
    units = values / np.maximum(sizes, EPSILON)
    best, perfect = (-float(np.linalg.norm(v, axis=-1).mean()) for v in (units.mean(axis=0), units))
    return ConstantLosses(best, perfect)


def _binary(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """Share of the ones, whose loss is their entropy: Banerjee et al., JMLR 6, 2005, example 3."""
    smoothing = config.get("label_smoothing") or 0.0
    if not isinstance(smoothing, float) or values.min() < 0 or values.max() > 1:
        return None
    smoothed = values * (1 - smoothing) + smoothing / 2
    best, perfect = (_binary_entropy(y) for y in (smoothed.mean(axis=0), smoothed))
    hard = bool(((values == 0) | (values == 1)).all())
    return ConstantLosses(best, perfect, even=hard)


def _binary_focal(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """Least of all shares: of (1 - p)^gamma log p, Lin et al., arXiv 1708.02002, equation 5."""
    gamma, alpha = config.get("gamma"), config.get("alpha")
    if not isinstance(gamma, (int, float)) or not isinstance(alpha, (int, float)):
        return None
    if config.get("label_smoothing") or not ((values == 0) | (values == 1)).all():
        return None
    balanced = bool(config.get("apply_class_balancing"))
    of_ones, of_zeros = (alpha, 1 - alpha) if balanced else (1.0, 1.0)
    grid = np.sin(np.linspace(0, np.pi / 2, _SHARES)) ** 2  # denser at both ends
    ones, p = grid[:, np.newaxis], grid[1:-1]
    costs = -ones * of_ones * (1 - p) ** gamma * np.log(p)
    costs = costs - (1 - ones) * of_zeros * p**gamma * np.log(1 - p)
    return ConstantLosses(float(np.interp(values.mean(axis=0), grid, costs.min(axis=1)).mean()))


def _categorical(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """Shares of the classes, whose loss is their entropy: Banerjee et al., JMLR 6, 2005."""
    smoothing, shares = config.get("label_smoothing") or 0.0, _shares(values)
    last = config.get("axis", -1) in (-1, values.ndim - 1)
    if shares is None or not isinstance(smoothing, float) or not last:
        return None
    smoothed = shares * (1 - smoothing) + smoothing / shares.shape[1]
    hard = bool(((values == 0) | (values == 1)).all())
    return ConstantLosses(_entropy(smoothed.mean(axis=0)), _mean_entropy(smoothed), even=hard)


def _sparse(values: Floats, config: Mapping[str, Any]) -> ConstantLosses | None:
    """As of whole numbers that stand for classes."""
    ignored = config.get("ignore_class")
    if ignored is not None and (values == ignored).any():
        return None
    _, counts = np.unique(values[values >= 0], return_counts=True)
    in_sequences = values[0].size > 1
    if in_sequences and counts.max(initial=0) > _PADDING * counts.sum():
        return ConstantLosses(_with_less_padding(counts.astype(np.float64)))
    return ConstantLosses(_entropy(counts / max(1, counts.sum())))


_FUNCTIONS: Final[dict[str, Callable[[Floats, Mapping[str, Any]], ConstantLosses | None]]] = {
    "mean_squared_error": _squared,
    "mean_absolute_error": _absolute,
    "huber": _huber,
    "log_cosh": _log_cosh,
    "mean_squared_logarithmic_error": _squared_logarithmic,
    "mean_absolute_percentage_error": _percentage,
    "poisson": _poisson,
    "kl_divergence": _kl_divergence,
    "hinge": _hinge,
    "squared_hinge": _squared_hinge,
    "cosine_similarity": _cosine,
    "binary_crossentropy": _binary,
    "binary_focal_crossentropy": _binary_focal,
    "categorical_crossentropy": _categorical,
    "sparse_categorical_crossentropy": _sparse,
}


def _searched(values: Floats, cost: Slope, slope: Slope) -> ConstantLosses:
    """Return the least mean of a convex cost of the errors, found where its slope is zero."""
    step = max(1, int(values.size // _MOST_VALUES))
    some = values[::step]
    low, high = some.min(axis=0), some.max(axis=0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = slope(middle - some).sum(axis=0) > 0
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return ConstantLosses.of_costs(cost((low + high) / 2 - values), cost(values))


def _share_of_ones(values: Floats) -> Floats | None:
    """Return the share of ones, where the others are all 0 or all -1; Keras takes 0 for -1."""
    for other in (0.0, -1.0):
        if ((values == 1) | (values == other)).all():
            return np.asarray((values == 1).mean(axis=0))
    return None


def _shares(values: Floats) -> Floats | None:
    """Return shares of classes, (row, class), None where they do not add up to 1."""
    if values.ndim < 2:
        return None
    shares = values.reshape(-1, values.shape[-1])
    whole = np.allclose(shares.sum(axis=1), 1, atol=_ONE) and shares.min() >= 0
    return shares if whole else None


def _with_less_padding(counts: Floats) -> float:
    """Return the largest entropy of labels of which some of the most frequent ones are left out.

    Of sequences that label is often padding, which a mask may leave out, and may be a class as
    well. How much of it counts is not known: what is above the largest is above the right one.
    """
    levels = []
    for part in np.linspace(0.0, 1.0, 41):
        rest = counts.copy()
        rest[counts.argmax()] *= part
        levels.append(_entropy(rest / (rest.sum() or 1.0)))
    return max(levels)


def _entropy(shares: Floats) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _mean_entropy(shares: Floats) -> float:
    return _entropy(shares) / len(shares)


def _binary_entropy(share: Floats) -> float:
    return (_entropy(share) + _entropy(1 - share)) / share.size
