"""What breaks in a training while it runs, by the few numbers that are there already.

These rules decide which steps are kept as a whole, and what a watch reports; the causes are for the
analyzer to say.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.names import LOSS, SKIPPED
from steptrace_schema.statistics.moments import row_sums

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_HISTORY: Final = 50
_LEAST: Final = 20  # steps before which nothing is called a jump
_Z: Final = 8.0
_SPREAD: Final = 0.1  # least spread of a logarithm
_PAUSE: Final = 20  # steps after a jump in which another one of its kind is its effect
_RATIO: Final = {"loss": 5.0, "gradient": 10.0, "update": 10.0}
_PART: Final = 1024  # elements of a weight that an update is measured by
_L2, _NAN, _INF = 5, 7, 8  # columns of the statistics of a tensor
_GRADIENTS: Final = "gradients/"
NOT_FINITE: Final = "not finite"

NON_FINITE: Final = "non_finite"
_RULE_OF_JUMP: Final = {"loss": "loss_spike", "gradient": "gradient_jump", "update": "update_jump"}
LIVE_RULES: Final = (NON_FINITE, *_RULE_OF_JUMP.values())
"""The rules by the names that the analyzer's have."""


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that broke at a step.

    Attributes
    ----------
    step
        The step: the one that was judged, or the one before it, whose update shows only now.
    cause
        ``loss``, ``gradient`` or ``update``.
    reason
        One sentence.
    is_jump
        Whether it is a jump rather than a number that is not finite.
    """

    step: int
    cause: str
    reason: str
    is_jump: bool

    @property
    def rule(self) -> str:
        """The name of the rule that found it, one of `LIVE_RULES`."""
        return _RULE_OF_JUMP[self.cause] if self.is_jump else NON_FINITE


class LiveRules:
    """Judges one step after the other.

    An alarm is the first of several losses or gradients that are not finite. A jump is a loss 5
    times, or a norm of all gradients or of the update 10 times the median of the 50 steps before,
    and 8 spreads of its logarithm above it.

    Parameters
    ----------
    described
        Kinds whose arrays are statistics in place of the tensors.
    """

    def __init__(self, *, described: Collection[str] = ()) -> None:
        self._described = described
        self._histories = {cause: _History(ratio) for cause, ratio in _RATIO.items()}
        self._broken: set[str] = set()
        self._before: tuple[int, dict[str, npt.NDArray[Any]]] | None = None

    def judge(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> list[Alarm]:
        """Return what broke at a step, or by the update of the step before.

        Parameters
        ----------
        step
            Its number.
        arrays
            ``kind/path`` to array, as a step records them.
        """
        found = self._of_update(step, arrays)
        if arrays.get(f"scalars/{SKIPPED}", 0) == 1:
            return found  # loss scaling overflowed, which is no fault
        loss = arrays.get(f"scalars/{LOSS}")
        if loss is not None:
            found += self._of("loss", "the loss", step, float(loss), None)
        norm, bad = self._gradient_norm(arrays)
        if norm is not None:
            found += self._of("gradient", "the norm of all gradients", step, norm, bad)
        return found

    def _of(self, cause: str, what: str, step: int, value: float, bad: str | None) -> list[Alarm]:
        if bad is not None or not math.isfinite(value):
            if cause in self._broken:
                return []
            self._broken.add(cause)
            reason = bad or f"{what} is {value}"
            return [Alarm(step, cause, reason, is_jump=False)]
        self._broken.discard(cause)
        ratio = self._histories[cause].ratio_of_jump(value)
        if ratio is None:
            return []
        times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
        reason = f"{what} is {times} times its usual size ({value:.3g})"
        return [Alarm(step, cause, reason, is_jump=True)]

    def _gradient_norm(
        self, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[float | None, str | None]:
        """Return the norm of all gradients, and which one is not finite."""
        total, any_known = 0.0, False
        for key, values in arrays.items():
            if not key.startswith(_GRADIENTS) or not values.size:
                continue
            any_known = True
            if "gradients" in self._described:
                bad, squares = values[_NAN] + values[_INF] > 0, float(values[_L2]) ** 2
            else:
                squares = _squares(values)
                bad = not math.isfinite(squares) and not np.isfinite(values).all()
            if bad:
                return math.nan, f"the gradient of {key.removeprefix(_GRADIENTS)} is {NOT_FINITE}"
            total += squares
        return (math.sqrt(total) if any_known else None), None

    def _of_update(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> list[Alarm]:
        """Judge the update of the step before, by a part of each weight's elements."""
        if "weights" in self._described:
            return []
        parts = {
            key: values.reshape(-1)[:: -(-values.size // _PART)].copy()
            for key, values in arrays.items()
            if key.startswith("weights/") and values.size and values.dtype.kind == "f"
        }
        before, self._before = self._before, (step, parts)
        if before is None or before[0] != step - 1 or before[1].keys() != parts.keys() or not parts:
            return []
        squares = 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            for key, part in parts.items():
                moved = part.astype(np.float64) - before[1][key]
                squares += float(moved @ moved)
        if not math.isfinite(squares):
            return []  # whose gradient or loss says it
        return self._of("update", "the update of the weights", step - 1, math.sqrt(squares), None)


class _History:
    """The last sizes of something, which may have a trend."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._logs: deque[float] = deque(maxlen=_HISTORY)
        self._pause = 0

    def ratio_of_jump(self, value: float) -> float | None:
        """Return how many times the usual size a value is, None where it is no jump; keep it."""
        found = self._jump(value)
        if value > 0:
            self._logs.append(math.log(value))
        else:
            self._logs.clear()  # there are no ratios to it
        self._pause = _PAUSE if found is not None else max(0, self._pause - 1)
        return found

    def _jump(self, value: float) -> float | None:
        if self._pause or len(self._logs) < _LEAST or value <= 0:
            return None
        log = math.log(value)
        if log < self._logs[-1] + math.log(2):
            return None  # the usual case, without a median
        logs = np.fromiter(self._logs, np.float64)
        median = float(np.median(logs))
        spread = max(1.4826 * float(np.median(np.abs(logs - median))), _SPREAD)
        ratio = math.exp(min(log - median, 700.0))
        return ratio if ratio > self._ratio and (log - median) / spread > _Z else None


def _squares(values: npt.NDArray[Any]) -> float:
    """Return the sum of the squares of an array, not finite where an element is not."""
    flat = values.reshape(-1)
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        found = float(np.einsum("i,i->", flat, flat))  # one pass, without threads of BLAS
        if not math.isfinite(found):  # squares of finite numbers may be too large for float32
            found = float(row_sums(flat[None], None)[0, 1])
    return found
