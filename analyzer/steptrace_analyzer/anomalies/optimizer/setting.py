"""What a trace says about its optimizer, and whether that is enough to follow it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.anomalies.optimizer.formulas import FORMULAS
from steptrace_analyzer.anomalies.signals import require
from steptrace_schema.names import LEARNING_RATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_analyzer.anomalies.signals import Signals

_WRAPPER: Final = "LossScaleOptimizer"


@dataclasses.dataclass(frozen=True)
class Setting:
    """An optimizer that a formula is known of, and everything around it.

    Parameters
    ----------
    name
        Its Keras class.
    config
        Its configuration.
    scaled
        Whether a loss scale is wrapped around it, with which it skips steps whose gradients are
        not finite.
    """

    name: str
    config: Mapping[str, Any]
    scaled: bool

    @classmethod
    def of(cls, signals: Signals) -> Setting:
        """Read the optimizer of a trace.

        Raises
        ------
        NotJudgedError
            Where the trace does not say enough; the text says what is missing.
        """
        attributes = signals.attributes
        optimizer = attributes.optimizer
        require(optimizer is not None, "the trace does not say which optimizer trained")
        assert optimizer is not None
        several = any(path.startswith(f"{LEARNING_RATES}/") for path in signals.paths("scalars"))
        require(
            not several, "several optimizers trained, and the trace does not say which did what"
        )
        name, config, scaled = optimizer.class_name, optimizer.config, False
        if name == _WRAPPER:
            inner = config.get("inner_optimizer")
            inner = inner if isinstance(inner, dict) else {}
            name, config, scaled = inner.get("class_name", ""), inner.get("config", {}), True
        require(
            isinstance(name, str) and name in FORMULAS,
            f"no formula is known of the optimizer {name or 'inside its wrapper'}",
        )
        require(config, f"the trace does not hold the configuration of {name}")
        policy = attributes.policy
        for kind in ("weights", "gradients"):
            rounded = kind in policy.precision
            require(not rounded, f"{kind} were rounded when they were recorded")
        setting = cls(name, config, scaled)
        require(setting._is_possible(), f"the configuration of {name} is none that it can have")
        return setting

    def _is_possible(self) -> bool:
        """Whether an update can be computed with these settings, which a trace may have made up."""
        nothing = np.zeros(1, np.float32)
        try:
            with np.errstate(all="ignore"):
                FORMULAS[self.name](self.config, nothing).step(nothing, nothing, np.float32(1), 1)
            for name in ("clipnorm", "clipvalue", "global_clipnorm"):
                self.clip(name)
            np.float32(self.config.get("ema_momentum") or 0.0)
            return self.averages_at(0) in (True, False) and self.decay != ""
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            return False

    @property
    def decay(self) -> np.float32 | None:
        """Weight decay, None where there is none."""
        decay = self.config.get("weight_decay")
        return np.float32(decay) if decay else None

    @property
    def accumulation(self) -> int:
        """Batches whose gradients make one update."""
        return int(self.config.get("gradient_accumulation_steps") or 1)

    def averages_at(self, step: int) -> bool:
        """Whether the moving averages take the weights' place at a step.

        Keras asks its count of updates at each batch, so all batches of an update have them do so.
        """
        every = self.config.get("ema_overwrite_frequency")
        if not self.config.get("use_ema") or not every:
            return False
        return (step // self.accumulation + 1) % int(every) == 0

    def clip(self, name: str) -> np.float32 | None:
        """Return ``clipnorm``, ``clipvalue`` or ``global_clipnorm``, None where it is not set."""
        limit = self.config.get(name)
        return np.float32(limit) if limit else None
