"""Losses of the best constant prediction, against a search of all numbers in small steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from plot_traces import make_trace
from quiet_run import quiet_layers, quiet_run
from steptrace_analyzer import diagnose
from steptrace_analyzer.anomalies.baseline import constants, trivial_loss
from steptrace_analyzer.anomalies.constant_losses import constant_losses
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_schema.format.attributes import TargetLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

EPSILON = 1e-7
GRID = np.linspace(-6, 6, 24001)
SHARES = np.linspace(EPSILON, 1 - EPSILON, 20001)

RNG = np.random.default_rng(3)
NUMBERS = RNG.standard_t(2, 41).clip(-6, 6)
POSITIVE = np.abs(NUMBERS) / 2 + 0.1
COUNTS = RNG.poisson(1.7, 41).astype(np.float64)
SIGNS = np.where(RNG.random(41) < 0.3, 1.0, -1.0)
ONES = (SIGNS + 1) / 2
SOFT = RNG.random(41)


def softplus(z: Any) -> Any:
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


def huber(delta: float) -> Callable[[Any, Any], Any]:
    def loss(y: Any, p: Any) -> Any:
        error = np.abs(y - p)
        return np.where(error <= delta, 0.5 * error**2, delta * error - 0.5 * delta**2)

    return loss


def msle(y: Any, p: Any) -> Any:
    return (np.log(np.maximum(p, EPSILON) + 1) - np.log(np.maximum(y, EPSILON) + 1)) ** 2


def entropy_of(smoothing: float) -> Callable[[Any, Any], Any]:
    def loss(y: Any, p: Any) -> Any:
        y = y * (1 - smoothing) + 0.5 * smoothing
        return -(y * np.log(p) + (1 - y) * np.log(1 - p))

    return loss


FOCAL = {"gamma": 2.0, "alpha": 0.25, "apply_class_balancing": False, "label_smoothing": 0.0}


def focal(gamma: float, alpha: float | None) -> Callable[[Any, Any], Any]:
    def loss(y: Any, p: Any) -> Any:
        right = y * p + (1 - y) * (1 - p)
        weight = 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
        return weight * (1 - right) ** gamma * entropy_of(0)(y, p)

    return loss


CASES: dict[str, tuple[str, Any, dict[str, Any], Callable[[Any, Any], Any], Any]] = {
    "squared": ("mean_squared_error", NUMBERS, {}, lambda y, p: (y - p) ** 2, GRID),
    "absolute": ("mean_absolute_error", NUMBERS, {}, lambda y, p: np.abs(y - p), GRID),
    "huber": ("huber", NUMBERS, {"delta": 1.0}, huber(1.0), GRID),
    "narrow huber": ("huber", NUMBERS, {"delta": 0.1}, huber(0.1), GRID),
    "wide huber": ("huber", NUMBERS, {"delta": 100}, huber(100), GRID),
    "log cosh": (
        "log_cosh",
        NUMBERS,
        {},
        lambda y, p: (p - y) + softplus(-2 * (p - y)) - np.log(2),
        GRID,
    ),
    "logarithmic": ("mean_squared_logarithmic_error", NUMBERS, {}, msle, GRID),
    "percentage": (
        "mean_absolute_percentage_error",
        POSITIVE * SIGNS,
        {},
        lambda y, p: 100 * np.abs((y - p) / np.maximum(np.abs(y), EPSILON)),
        GRID,
    ),
    "poisson": (
        "poisson",
        COUNTS,
        {},
        lambda y, p: p - y * np.log(p + EPSILON),
        GRID[GRID >= 0],
    ),
    "hinge": ("hinge", SIGNS, {}, lambda y, p: np.maximum(1 - y * p, 0), GRID),
    "hinge of ones": (
        "hinge",
        ONES,
        {},
        lambda y, p: np.maximum(1 - (2 * y - 1) * p, 0),
        GRID,
    ),
    "squared hinge": ("squared_hinge", SIGNS, {}, lambda y, p: np.maximum(1 - y * p, 0) ** 2, GRID),
    "entropy": ("binary_crossentropy", ONES, {}, entropy_of(0), SHARES),
    "smoothed entropy": (
        "binary_crossentropy",
        ONES,
        {"label_smoothing": 0.2},
        entropy_of(0.2),
        SHARES,
    ),
    "focal": ("binary_focal_crossentropy", ONES, FOCAL, focal(2.0, None), SHARES),
    "balanced focal": (
        "binary_focal_crossentropy",
        ONES,
        FOCAL | {"gamma": 1, "apply_class_balancing": True},
        focal(1.0, 0.25),
        SHARES,
    ),
    "soft entropy": ("binary_crossentropy", SOFT, {"label_smoothing": 0.0}, entropy_of(0), SHARES),
}


@pytest.mark.parametrize("name", CASES)
def test_the_best_constant_is_as_good_as_the_best_number_of_a_fine_grid(name: str) -> None:
    function, values, config, loss, grid = CASES[name]
    columns = np.stack([values, np.roll(values, 7)[::-1] * 1.0], axis=1)
    columns[:20, 1] = columns[0, 1]  # the two columns have other best constants
    means = [np.array([loss(c, p).mean() for p in grid]) for c in columns.T]
    found = constant_losses(function, columns, config)
    assert found is not None
    assert found.best == pytest.approx(np.mean([m.min() for m in means]), rel=1e-4, abs=1e-6)
    assert found.best <= np.mean([m.min() for m in means]) + 1e-6
    right = {"smoothed entropy": columns * 0.8 + 0.1, "hinge of ones": 2 * columns - 1}
    p = right.get(name, columns)
    p = p.clip(EPSILON, 1 - EPSILON) if "entropy" in name or "focal" in name else p
    assert found.perfect == pytest.approx(loss(columns, p).mean(), rel=1e-4, abs=1e-5)
    if found.zero is not None:
        assert found.zero == pytest.approx(loss(columns, 0.0 * columns).mean(), rel=1e-6)


def _directions() -> Any:
    """Return unit vectors of three dims, about evenly spread (Fibonacci's spiral)."""
    count = 40000
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=1)


def test_the_best_direction_is_the_best_of_many_directions() -> None:
    values = RNG.normal([1.0, 0.5, -0.2], 1, (50, 3))
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    found = constant_losses("cosine_similarity", values, {"axis": -1})
    assert found is not None
    assert found.best == pytest.approx((-(_directions() @ units.T).mean(axis=1)).min(), rel=1e-3)
    assert found.perfect == pytest.approx(-1)
    assert constant_losses("cosine_similarity", values, {"axis": 0}) is None


@pytest.mark.parametrize("function", ["kl_divergence", "categorical_crossentropy"])
def test_the_best_shares_are_the_best_of_all_on_a_grid(function: str) -> None:
    values = RNG.dirichlet([2.0, 1.0, 0.5], 50)
    grid = np.stack(np.meshgrid(*[np.linspace(0.002, 0.998, 499)] * 2), axis=-1).reshape(-1, 2)
    shares = np.concatenate([grid, 1 - grid.sum(axis=1, keepdims=True)], axis=1)
    shares = shares[shares[:, 2] > 1e-3]
    losses = -(np.log(shares) @ values.mean(axis=0))
    own = -(values * np.log(values)).sum(axis=1).mean()
    found = constant_losses(function, values, {})
    assert found is not None
    ahead = own if function == "kl_divergence" else 0
    assert found.best == pytest.approx(losses.min() - ahead, rel=1e-3)
    assert found.perfect == pytest.approx(own - ahead)
    assert constant_losses(function, 2 * values, {}) is None


@pytest.mark.parametrize(
    ("function", "values", "config"),
    [
        ("huber", NUMBERS, {}),  # its delta is not known
        ("poisson", NUMBERS, {}),  # of numbers below zero it has no least value
        ("hinge", COUNTS, {}),
        ("binary_crossentropy", COUNTS, {}),
        ("sparse_categorical_crossentropy", COUNTS, {"ignore_class": 1}),
        ("binary_focal_crossentropy", ONES, {}),
        ("binary_focal_crossentropy", SOFT, FOCAL),
        ("categorical_focal_crossentropy", ONES, FOCAL),
        ("my_own", NUMBERS, {}),
    ],
)
def test_what_is_not_known_is_not_guessed(function: str, values: Any, config: Any) -> None:
    assert constant_losses(function, values[:, np.newaxis], config) is None


STEPS = 120


def _trace(losses: tuple[TargetLoss, ...], level: float = 1.0, **attributes: Any) -> xr.DataTree:
    rng = np.random.default_rng(8)
    arrays = quiet_run(STEPS)
    arrays.pop("inputs/sample_loss", None)
    arrays["inputs/y_kind"] = rng.integers(0, 4, (STEPS, 4))
    arrays["inputs/y_size"] = rng.normal(1, 2, (STEPS, 4, 2)).astype(np.float32)
    noise = rng.uniform(0.999, 1.001, STEPS)
    arrays["scalars/loss"] = (level * noise).astype(np.float32)
    return make_trace(arrays, layers=quiet_layers(), losses=losses, **attributes)


KIND = TargetLoss(
    target="y_kind", name="kind", function="sparse_categorical_crossentropy", weight=0.5
)
SIZE = TargetLoss(target="y_size", name="size", function="huber", config={"delta": 0.5}, weight=3.0)


def test_the_level_of_several_outputs_is_the_weighted_sum_of_theirs() -> None:
    trace = _trace((KIND, SIZE))
    kinds, sizes = (np.asarray(trace[f"inputs/{p}"]) for p in ("y_kind", "y_size"))
    _, counts = np.unique(kinds, return_counts=True)
    share = counts / counts.sum()
    flat = sizes.reshape(-1, 2).astype(np.float64)
    grid = np.linspace(0, 2, 2001)
    best = [min(huber(0.5)(column, p).mean() for p in grid) for column in flat.T]
    expected = -0.5 * (share * np.log(share)).sum() + 3 * np.mean(best)
    assert trivial_loss(Signals(trace)) == pytest.approx(expected, rel=1e-5)
    found = constants(Signals(trace))
    assert found is not None
    zero = -0.5 * (share * np.log(share)).sum() + 3 * huber(0.5)(flat, 0.0).mean()
    assert found.zero == pytest.approx(zero, rel=1e-5)
    for level, rules in ((1.0, ["not_learning"]), (0.8, [])):
        trace = _trace((KIND, SIZE), level * expected)
        assert [f.rule for f in diagnose(trace, rules=["not_learning"]).findings] == rules


def test_single_losses_of_outputs_of_which_one_is_a_regression_are_not_judged() -> None:
    found = diagnose(_trace((KIND, SIZE)), rules=["suspect_samples"])
    assert found.findings == ()
    assert "a regression have long tails" in found.not_judged[0].reason


@pytest.mark.parametrize(
    "other",
    [
        SIZE.model_copy(update={"function": None}),
        SIZE.model_copy(update={"weight": -1.0}),
        SIZE.model_copy(update={"target": "y_gone"}),
        SIZE.model_copy(update={"config": {"delta": 0.5, "reduction": "sum"}}),
    ],
)
def test_the_level_is_not_known_where_that_of_one_output_is_not(other: TargetLoss) -> None:
    assert trivial_loss(Signals(_trace((KIND, other)))) is None


def test_a_name_that_hides_another_function_is_not_believed() -> None:
    own = TargetLoss(target="y_size", name="mean_squared_error")
    assert trivial_loss(Signals(_trace((own,), loss="mean_squared_error"))) is None


def test_a_loss_below_zero_is_judged_from_that_of_a_right_prediction() -> None:
    cosine = TargetLoss(
        target="y_size", name="c", function="cosine_similarity", config={"axis": -1}
    )
    best = trivial_loss(Signals(_trace((cosine,))))
    assert best is not None
    assert -1 < best < 0
    for level, learned, solved in ((best, False, False), (-0.9, True, False), (-0.99, True, True)):
        found = outcome(Signals(_trace((cosine,), level)))
        assert found is not None
        assert (not found.learned_nothing, found.solved, found.got_worse) == (
            learned,
            solved,
            False,
        )
