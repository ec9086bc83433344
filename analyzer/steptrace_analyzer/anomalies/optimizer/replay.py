"""Following an optimizer through the recorded gradients of one weight."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.anomalies.optimizer.formulas import FORMULAS, LINEAR
from steptrace_analyzer.anomalies.optimizer.residual import EPS, ROUNDINGS, left_alone, residual
from steptrace_analyzer.anomalies.optimizer.setting import Setting
from steptrace_analyzer.anomalies.signals import layer_path, require
from steptrace_schema.names import SAMPLE_REPLICA, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.optimizer.formulas import Formula
    from steptrace_analyzer.anomalies.optimizer.residual import Residual
    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.names import Kind

    Array = npt.NDArray[np.float32]

ULP: Final = 4
"""Units in the last place of a weight that a healthy update may be off by."""
_MOVED: Final[tuple[Kind, ...]] = ("gradients", "weights")
_CLIPS: Final = ("clipnorm", "clipvalue", "global_clipnorm")
_BESIDE: Final = 4.0
"""Largest changes of a weight that an update may be off by where gradients are only equal up to
rounding: an optimizer that divides by their size makes whole steps of those that are but noise."""
_SPARSE: Final = 16  # times as many where the rows of an embedding are added one by one
_MIX: Final = 2  # units in the last place that an average of weights loses at each update


class Replay:
    """An optimizer's work on one weight.

    Parameters
    ----------
    signals
        The trace.
    path
        Path of a trainable weight.

    Raises
    ------
    NotJudgedError
        Where the trace does not hold what the formula needs; the text says what.
    """

    def __init__(self, signals: Signals, path: str) -> None:
        self._signals, self._path = signals, path
        self._setting = signals.once("optimizer", lambda: Setting.of(signals))
        self._sparse = False
        self._weights = signals.tensor("weights", path)
        self._gradients = signals.tensor("gradients", path)
        layer = signals.layers.get(layer_path(path))
        # Keras adds the rows that were looked up one by one, and rounds as often.
        self._sparse = sparse = layer is not None and "Embedding" in layer.class_name
        clips = any(self._setting.clip(name) is not None for name in _CLIPS)
        require(
            not sparse or (self._setting.name in LINEAR and not clips),
            f"Keras squares the gradients of the single rows that {path} looked up, and the trace "
            "holds their sum",
        )
        require(
            not (clips and signals.has("inputs", SAMPLE_REPLICA)),
            "each replica clipped its own gradients, and the trace holds their sum",
        )
        require(self._weights.dtype == np.float32, f"{path} is {self._weights.dtype}, not float32")
        self._rates = signals.learning_rate
        norm = self._setting.clip("global_clipnorm")
        self._norms = _global_norms(signals) if norm is not None else {}
        self._decays = self._setting.decay is not None
        self._beside = signals.attributes.capture.get("gradients") == "beside"

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the trace holds of the weight."""
        kind = FORMULAS[self._setting.name]
        return tuple(s for s in kind.slots if self._signals.has("optimizer", f"{self._path}/{s}"))

    def run(self, last: int | None = None) -> Iterator[Residual]:
        """Yield every update from the first step on, up to `last`.

        Raises
        ------
        NotJudgedError
            Where the gradients or weights of a step are not recorded.
        """
        steps = self._signals.steps("gradients")
        before = self._signals.steps("weights")
        resumed = next((e for e in self._signals.attributes.events if "resumed" in e.message), None)
        require(
            resumed is None,
            "the run was resumed, and what the optimizer remembered then is not recorded",
        )
        require(len(steps) and int(steps[0]) == 0, "the trace does not begin with the first step")
        limit = int(steps[-1]) if last is None else last
        formula: Formula | None = None
        accumulated: Array | None = None
        average: Array | None = None
        applied = calls = 0
        every = self._setting.accumulation
        without, unborn = (self._signals.absent(kind, self._path) for kind in _MOVED)
        for block, gradients, weights in self._blocks(steps, before, limit):
            for row, step in enumerate(block.tolist()):
                if step in unborn or step + 1 in unborn:
                    continue  # the weight does not exist yet, or no more
                gradient, weight = gradients[row], weights[row]
                if step in without:
                    # Keras leaves alone what has no gradient; other steps of the optimizer count.
                    applied, calls = applied + 1, calls + 1
                    require(
                        np.array_equal(weight, weights[row + 1]),
                        f"the gradient of step {step} is not recorded: {without[step]}",
                    )
                    continue
                if formula is None:
                    formula = FORMULAS[self._setting.name](self._setting.config, weight)
                calls += 1
                if every > 1:
                    accumulated = gradient if accumulated is None else accumulated + gradient
                    if (step + 1) % every:
                        found = left_alone(step, weight, weights[row + 1])
                        # Keras averages the weights, and takes averages over, at each batch.
                        average = self._averaged(average, weights[row + 1], found, calls)
                        yield self._overwritten(found, average, weight, weights[row + 1], calls)
                        continue
                    gradient = accumulated / np.float32(every)
                    accumulated = None
                if self._setting.scaled and not self._finite(step):
                    calls -= 1  # the wrapper skips the step
                    yield left_alone(step, weight, weights[row + 1])
                    continue
                applied += 1
                found = self._compare(formula, step, applied, gradient, weight, weights[row + 1])
                average = self._averaged(average, weights[row + 1], found, calls)
                yield self._overwritten(found, average, weight, weights[row + 1], calls)

    def at(self, step: int) -> Residual:
        """Return one update: from the recorded slots where there are some, else by `run`.

        Raises
        ------
        NotJudgedError
            Where the trace does not hold what is needed.
        """
        formula_type = FORMULAS[self._setting.name]
        needed = _needed(formula_type.slots, self._setting.config)
        simple = self._setting.accumulation == 1 and not self._setting.config.get("use_ema")
        if not set(needed) <= set(self.slots) or not simple or self._setting.scaled:
            found = next((each for each in self.run(step) if each.step == step), None)
            require(found is not None, f"step {step} is not recorded")
            assert found is not None
            return found
        rows = {
            "gradient": self._signals.row("gradients", self._path, step),
            "weight": self._signals.row("weights", self._path, step),
            "next weight": self._signals.row("weights", self._path, step + 1),
        }
        for name, row in rows.items():
            require(row is not None, f"the {name} of step {step} is not recorded")
        gradient, weight, after = (row for row in rows.values() if row is not None)
        formula = formula_type(self._setting.config, weight)
        state = {s: self._signals.row("optimizer", f"{self._path}/{s}", step) for s in needed}
        formula.remember({s: value for s, value in state.items() if value is not None})
        return self._compare(formula, step, step + 1, gradient, weight, after)

    def _blocks(
        self, steps: npt.NDArray[np.int64], before: npt.NDArray[np.int64], limit: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Array, Array]]:
        """Yield steps with their gradients and weights, and the weights after the last of them."""
        size = max(1, int(self._signals.attributes.shard_steps))
        wanted = steps[steps <= limit]
        gaps = np.flatnonzero(wanted != np.arange(len(wanted)))
        missing = int(gaps[0]) if len(gaps) else None
        require(missing is None, f"the gradient of step {missing} is not recorded")
        known = set(before.tolist())
        lost = next((s for s in [*wanted.tolist(), limit + 1] if s not in known), None)
        require(lost is None, f"the weights of step {lost} are not recorded")
        for start in range(0, len(wanted), size):
            block = wanted[start : start + size]
            rows = {STEP: [*block.tolist(), int(block[-1]) + 1]}
            gradients = np.asarray(self._gradients.sel({STEP: block}), dtype=np.float32)
            yield block, gradients, np.asarray(self._weights.sel(rows), dtype=np.float32)

    def _finite(self, step: int) -> bool:
        norms = self._signals.norms("gradients")
        row = norms.row(step)
        return row is None or bool(np.isfinite(norms.values[row]).all())

    def _compare(
        self, formula: Formula, step: int, count: int, gradient: Array, weight: Array, after: Array
    ) -> Residual:
        row = self._rates.row(step)
        require(row is not None, f"the learning rate of step {step} is not recorded")
        rate = np.float32(self._rates.values[row, 0])
        with np.errstate(all="ignore"):
            clipped, factor = self._clipped(gradient, step)
            decay = -(weight * self._setting.decay * rate) if self._setting.decay else None
            decayed = weight + decay if decay is not None and self._decays else weight
            change = formula.step(clipped, decayed, rate, count)
            allowed = ULP * (_SPARSE if self._sparse else 1)
            largest = float(np.abs(change.delta).max(initial=0.0)) if self._beside else 0.0
            if self._beside and self._setting.name not in LINEAR:
                largest = max(largest, float(rate))
            more = _BESIDE * largest
            found = residual(step, weight, decayed, after, change, factor, allowed, more)
            if decay is not None and found.beyond.any() and count == 1:
                # An optimizer may be told to leave weights undecayed; the trace does not say which.
                other = residual(step, weight, weight, after, change, factor, allowed, more)
                if not other.beyond.any():
                    self._decays, found = False, other
        return found

    def _clipped(self, gradient: Array, step: int) -> tuple[Array, float]:
        """Clip a gradient as the optimizer does; return it and the factor of its norm."""
        norm = self._setting.clip("clipnorm")
        if norm is not None:
            size = np.sqrt(np.square(gradient).sum())
            return gradient * norm / np.maximum(size, norm), float(norm / max(size, norm))
        total = self._setting.clip("global_clipnorm")
        if total is not None:
            size = np.float32(self._norms.get(step, np.nan))
            scale = total * min(np.float32(1) / size, np.float32(1) / total)
            return gradient * np.float32(scale), float(scale)
        value = self._setting.clip("clipvalue")
        if value is not None:
            clipped = np.clip(gradient, -value, value)
            before = float(np.linalg.norm(gradient))
            return clipped, float(np.linalg.norm(clipped)) / before if before else 1.0
        return gradient, 1.0

    def _averaged(
        self, average: Array | None, after: Array, found: Residual, calls: int
    ) -> Array | None:
        """Return the moving average of the weights after a batch, where the optimizer has one."""
        if not self._setting.config.get("use_ema"):
            return None
        # Where the average took the weight's place, only the formula gives the weight before that.
        weight = after - found.recorded + found.explained if found.beyond.any() else after
        if average is None or calls <= self._setting.accumulation:
            return weight
        momentum = self._ema_momentum
        mixed = momentum * average + (np.float32(1) - momentum) * weight
        return np.asarray(mixed, dtype=np.float32)

    @property
    def _ema_momentum(self) -> np.float32:
        return np.float32(self._setting.config.get("ema_momentum") or 0.0)

    def _overwritten(
        self, found: Residual, average: Array | None, weight: Array, after: Array, calls: int
    ) -> Residual:
        """Return the update with the average in place of the weight, where that explains it."""
        if average is None or not found.beyond.any():
            return found
        error = np.abs(average - after)
        largest = np.maximum(np.maximum(np.abs(after), np.abs(average)), np.abs(weight))
        unit = np.spacing(largest)
        # Each mix rounds its terms and their sum, and the average forgets with its momentum.
        mixes = min(float(calls), 1 / max(1 - float(self._ema_momentum), EPS))
        beyond = error > (ULP + ROUNDINGS + _MIX * mixes) * unit
        if beyond.any():
            return found
        return dataclasses.replace(
            found, explained=average - weight, beyond=beyond, ulp=float((error / unit).max())
        )


def _needed(slots: tuple[str, ...], config: Any) -> tuple[str, ...]:
    """Return the slots that a configuration makes the optimizer have."""
    used = {
        "velocity_hat": bool(config.get("amsgrad")),
        "average_gradient": bool(config.get("centered")),
        "momentum": not ("momentum" in config and not config["momentum"]),
    }
    return tuple(slot for slot in slots if used.get(slot, True))


def _global_norms(signals: Signals) -> dict[int, float]:
    """Return the norm of all gradients together at each step.

    Raises
    ------
    NotJudgedError
        Where not all gradients are recorded.
    """
    policy = signals.attributes.policy
    complete = policy.include == ("*",) and not policy.exclude
    lost = any(entry.kind == "gradients" for entry in signals.attributes.missing)
    require(
        complete and not lost,
        "the optimizer clips by the norm of all gradients, and not all of them are recorded",
    )
    norms = signals.norms("gradients")
    totals = np.sqrt(np.nansum(np.square(norms.values), axis=1))
    return dict(zip(norms.steps.tolist(), totals.tolist(), strict=True))
