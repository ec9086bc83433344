"""What each Keras optimizer makes of a gradient, in NumPy, in Keras' order of operations.

Every formula is that of ``update_step`` in ``keras/src/optimizers/<name>.py`` of Keras 3, which
names the paper. Numbers are float32, as the weights are; hyper-parameters are rounded where Keras
rounds them. Beside each state there is its *size*: what it would be, were all gradients positive.
Rounding errors are in proportion to it, also where the state itself cancels to nearly zero.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]  # of float32

F = np.float32


@dataclasses.dataclass(frozen=True)
class Change:
    """What one update adds to a weight."""

    delta: Array
    """The change itself."""
    size: Array
    """The sum of the magnitudes that it was computed from; rounding errors are parts of this."""
    alone: Array
    """What it would be, had the optimizer remembered no gradient before this one."""


@dataclasses.dataclass
class Formula(abc.ABC):
    """An optimizer's rule for one weight, with what it remembers.

    Parameters
    ----------
    config
        The optimizer's configuration, as ``get_config`` returns it.
    weight
        The weight before the first update, whose shape the state has.
    """

    config: Mapping[str, Any]
    weight: Array
    slots: ClassVar[tuple[str, ...]] = ()
    """Names of what is remembered, as Keras names its variables."""
    initial: ClassVar[str | None] = None
    """Entry of the configuration with which the first slot begins; zero if None."""

    def __post_init__(self) -> None:
        """Begin with nothing remembered."""
        zero = np.zeros_like(self.weight)
        first = F(self.config[self.initial]) if self.initial is not None else F(0)
        self.state: dict[str, Array] = {
            name: np.full_like(self.weight, first) if place == 0 else zero.copy()
            for place, name in enumerate(self.slots)
        }
        self.sizes = {name: np.abs(value) for name, value in self.state.items()}

    def remember(self, slots: Mapping[str, Array]) -> None:
        """Take what the optimizer remembered from the trace."""
        for name, value in slots.items():
            self.state[name] = value.astype(F)
            self.sizes[name] = np.abs(self.state[name])

    @abc.abstractmethod
    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change of update number `count`, counted from 1, and remember."""

    def number(self, name: str) -> float:
        """Return a hyper-parameter."""
        return float(self.config[name])


class SGD(Formula):
    """w -= rate g; with momentum v = m v - rate g, w += v; Nesterov: w += m v - rate g."""

    @property
    def momentum(self) -> np.float32:
        """How much of the velocity is kept."""
        return F(self.config.get("momentum") or 0.0)

    slots = ("momentum",)

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        plain, size = gradient * rate, np.abs(gradient) * rate
        if not self.momentum:
            return Change(-plain, size, -plain)
        velocity = self.state["momentum"] * self.momentum - plain
        sizes = self.sizes["momentum"] * self.momentum + size
        self.state["momentum"], self.sizes["momentum"] = velocity, sizes
        if self.config.get("nesterov"):
            ahead = velocity * self.momentum - plain
            alone = -plain * self.momentum - plain
            return Change(ahead, sizes * self.momentum + size, alone)
        return Change(velocity, sizes, -plain)


class RMSprop(Formula):
    """v = rho v + (1 - rho) g^2; w -= rate g / sqrt(v + epsilon); centred and with momentum too."""

    slots = ("velocity", "momentum", "average_gradient")

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        rho, epsilon = F(self.number("rho")), F(self.number("epsilon"))
        rest, momentum = F(1 - self.number("rho")), F(self.config.get("momentum") or 0.0)
        square = np.square(gradient)
        velocity = rho * self.state["velocity"] + rest * square
        self.state["velocity"] = velocity
        denominator, lost = velocity + epsilon, np.ones_like(velocity)
        fresh = rest * square + epsilon
        if self.config.get("centered"):
            average = rho * self.state["average_gradient"] + rest * gradient
            self.state["average_gradient"] = average
            denominator = velocity - np.square(average) + epsilon
            fresh = rest * square - np.square(rest * gradient) + epsilon
            lost = (velocity + epsilon) / denominator  # digits that the difference loses
        increment = (rate * gradient) / np.sqrt(denominator)
        size = np.abs(increment) * lost
        alone = -(rate * gradient) / np.sqrt(fresh)
        if not momentum:
            return Change(-increment, size, alone)
        self.state["momentum"] = momentum * self.state["momentum"] + increment
        self.sizes["momentum"] = momentum * self.sizes["momentum"] + size
        return Change(-self.state["momentum"], self.sizes["momentum"], alone)


class Adagrad(Formula):
    """a += g^2; w -= rate g / sqrt(a + epsilon)."""

    slots = ("accumulator",)
    initial = "initial_accumulator_value"

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        epsilon, square = F(self.number("epsilon")), np.square(gradient)
        self.state["accumulator"] = self.state["accumulator"] + square
        change = (rate * gradient) / np.sqrt(self.state["accumulator"] + epsilon)
        start = F(self.number("initial_accumulator_value"))
        alone = -(rate * gradient) / np.sqrt(start + square + epsilon)
        return Change(-change, np.abs(change), alone)


class Adadelta(Formula):
    """a = rho a + (1 - rho) g^2; d = -g sqrt(u + e) / sqrt(a + e); u likewise of d; w += rate d."""

    slots = ("accumulated_grad", "accumulated_delta_var")

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        rho, rest = F(self.number("rho")), F(1 - self.number("rho"))
        epsilon, square = F(self.number("epsilon")), np.square(gradient)
        grad, moved = self.state["accumulated_grad"], self.state["accumulated_delta_var"]
        grad = rho * grad + rest * square
        delta = -((np.sqrt(moved + epsilon) * gradient) / np.sqrt(grad + epsilon))
        self.state["accumulated_grad"] = grad
        self.state["accumulated_delta_var"] = rho * moved + rest * np.square(delta)
        alone = -(np.sqrt(epsilon) * gradient) / np.sqrt(rest * square + epsilon)
        change = rate * delta
        return Change(change, np.abs(change), rate * alone)


class Adam(Formula):
    """m, v: means of g and g^2; w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)."""

    slots = ("momentum", "velocity", "velocity_hat")

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        beta_1, beta_2 = self.number("beta_1"), self.number("beta_2")
        epsilon, rest_1, rest_2 = F(self.number("epsilon")), F(1 - beta_1), F(1 - beta_2)
        alpha = _bias_correction(rate, beta_1, beta_2, count)
        m, v = self.state["momentum"], self.state["velocity"]
        m = m + (gradient - m) * rest_1
        v = v + (np.square(gradient) - v) * rest_2
        sizes = self.sizes["momentum"] * F(beta_1) + np.abs(gradient) * rest_1
        self.state |= {"momentum": m, "velocity": v}
        self.sizes["momentum"] = sizes
        if self.config.get("amsgrad"):
            v = np.maximum(self.state["velocity_hat"], v)
            self.state["velocity_hat"] = v
        root = np.sqrt(v) + epsilon
        first = _bias_correction(rate, beta_1, beta_2, 1)
        fresh = np.sqrt(np.square(gradient) * rest_2) + epsilon
        unsure = _power_rounding(beta_1, count) + 0.5 * _power_rounding(beta_2, count)
        sizes = sizes * F(1 + unsure)
        alone = -(gradient * rest_1 * first) / fresh
        return Change(-((m * alpha) / root), sizes * alpha / root, alone)


class Adamax(Formula):
    """m: mean of g; u = max(b2 u, |g|); w -= rate m / ((1 - b1^t) (u + epsilon))."""

    slots = ("momentum", "norm")

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        beta_1, beta_2 = self.number("beta_1"), self.number("beta_2")
        rest, epsilon = F(1 - beta_1), F(self.number("epsilon"))
        power = F(1) - np.power(F(beta_1), F(count))
        m = self.state["momentum"] + (gradient - self.state["momentum"]) * rest
        u = np.maximum(F(beta_2) * self.state["norm"], np.abs(gradient))
        sizes = self.sizes["momentum"] * F(beta_1) + np.abs(gradient) * rest
        self.state |= {"momentum": m, "norm": u}
        self.sizes["momentum"] = sizes
        below = power * (u + epsilon)
        sizes = sizes * F(1 + _power_rounding(beta_1, count))
        alone = -(rate * gradient * rest) / (F(1 - beta_1) * (np.abs(gradient) + epsilon))
        return Change(-((rate * m) / below), rate * sizes / below, alone)


class Nadam(Formula):
    """Adam whose momentum looks one step ahead, by a schedule of the decay 0.96."""

    slots = ("momentum", "velocity")

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        beta_1, beta_2 = F(self.number("beta_1")), F(self.number("beta_2"))
        one, epsilon = F(1), F(self.number("epsilon"))
        product = self._product(beta_1, count)
        now, following = _nadam_weight(beta_1, count), _nadam_weight(beta_1, count + 1)
        m, v = self.state["momentum"], self.state["velocity"]
        m = m + (gradient - m) * (one - beta_1)
        v = v + (np.square(gradient) - v) * (one - beta_2)
        sizes = self.sizes["momentum"] * beta_1 + np.abs(gradient) * (one - beta_1)
        self.state |= {"momentum": m, "velocity": v}
        self.sizes["momentum"] = sizes
        ahead, here = one - F(product * following), one - product
        m_hat = (following * m) / ahead + ((one - now) * gradient) / here
        size = (following * sizes) / ahead + ((one - now) * np.abs(gradient)) / here
        root = np.sqrt(v / (one - np.power(beta_2, F(count)))) + epsilon
        size = size * F(1 + 0.5 * _power_rounding(self.number("beta_2"), count))
        fresh = np.abs(gradient) + epsilon
        alone = -(rate * gradient) / fresh
        return Change(-((m_hat * rate) / root), size * rate / root, alone)

    def _product(self, beta_1: np.float32, count: int) -> np.float32:
        """Return the product of the momentum's weights up to an update."""
        before, product = self._last if self._last[0] < count else (0, F(1))
        for n in range(before + 1, count + 1):
            product = F(product * _nadam_weight(beta_1, n))
        self._last = count, product
        return product

    _last: tuple[int, np.float32] = (0, F(1))


class Lion(Formula):
    """w -= rate sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g."""

    slots = ("momentum",)

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        beta_1, beta_2, one = F(self.number("beta_1")), F(self.number("beta_2")), F(1)
        m, sizes = self.state["momentum"], self.sizes["momentum"]
        mixed = m * beta_1 + gradient * (one - beta_1)
        size = sizes * beta_1 + np.abs(gradient) * (one - beta_1)
        self.state["momentum"] = m * beta_2 + gradient * (one - beta_2)
        self.sizes["momentum"] = sizes * beta_2 + np.abs(gradient) * (one - beta_2)
        # The sign of a sum that cancels is left to rounding: either is right then.
        open_sign = np.abs(mixed) <= 32 * np.finfo(F).eps * size
        unsure = np.where(open_sign, 2 / (16 * np.finfo(F).eps), 1).astype(F)
        return Change(-(rate * np.sign(mixed)), rate * unsure, -(rate * np.sign(gradient)))


class Ftrl(Formula):
    """Follow the regularised leader: the weight itself is computed from the sums of gradients."""

    slots = ("accumulator", "linear")
    initial = "initial_accumulator_value"

    def step(self, gradient: Array, weight: Array, rate: np.float32, count: int) -> Change:
        """Return the change."""
        power = self.number("learning_rate_power")
        l1 = F(self.number("l1_regularization_strength"))
        l2 = F(self.number("l2_regularization_strength")) + F(self.config.get("beta") or 0.0) / (
            F(2) * rate
        )
        shrink = F(2 * self.number("l2_shrinkage_regularization_strength"))
        accumulator, linear = self.state["accumulator"], self.state["linear"]
        used = gradient + shrink * weight
        grown = accumulator + np.square(gradient)
        new, old = np.power(grown, F(-power)), np.power(accumulator, F(-power))
        pull = ((new - old) / rate) * weight
        linear = linear + (used - pull)
        rounding = np.abs(((new + old) / rate) * weight)
        self.sizes["linear"] = self.sizes["linear"] + np.abs(used) + rounding
        self.state |= {"accumulator": grown, "linear": linear}
        quadratic = new / rate + F(2) * l2
        result = (np.clip(linear, -l1, l1) - linear) / quadratic
        size = self.sizes["linear"] / quadratic
        alone = -gradient / quadratic
        return Change((result - weight).astype(F), size + np.abs(weight), alone)


FORMULAS: Final[dict[str, type[Formula]]] = {
    "SGD": SGD,
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
    "Adadelta": Adadelta,
    "Adam": Adam,
    "AdamW": Adam,
    "Adamax": Adamax,
    "Nadam": Nadam,
    "Lion": Lion,
    "Ftrl": Ftrl,
}
"""The formula of each optimizer by its Keras class; AdamW is Adam with weight decay."""
LINEAR: Final = frozenset({"SGD", "Lion"})
"""Optimizers in which a gradient counts as the sum of its parts; others square or measure each."""


def _bias_correction(rate: np.float32, beta_1: float, beta_2: float, count: int) -> np.float32:
    one = F(1)
    power_1, power_2 = np.power(F(beta_1), F(count)), np.power(F(beta_2), F(count))
    return F(rate * np.sqrt(one - power_2) / (one - power_1))


def _power_rounding(beta: float, count: int) -> float:
    """Return how much more than itself rounding of ``beta ** count`` makes 1 - beta ** count.

    Implementations of powers differ in the last place, which the difference to 1 magnifies while
    the power is near 1. In the unit of `Change.size`: parts of it that are 16 roundings.
    """
    return 2 / (16 * (1 - beta**count))


def _nadam_weight(beta_1: np.float32, count: int) -> np.float32:
    return F(beta_1 * (F(1) - F(0.5) * np.power(F(0.96), F(count))))
