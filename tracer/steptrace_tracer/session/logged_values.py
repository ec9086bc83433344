"""What a training logs, until the step that it belongs to is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.session.logged_names import LoggedNames

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from steptrace_schema.format.policy import Policy


class LoggedValues:
    """Values of one step; the last one of a name counts.

    Attributes
    ----------
    at
        The step; None before the first one.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self._values: dict[str, npt.NDArray[Any]] = {}
        self._names = LoggedNames()

    def begin(self, step: int) -> None:
        """Note that the first step is number `step`, where there was none yet."""
        if self.at is None:
            self.at = step

    def log(
        self,
        step: int | None,
        name: str,
        value: npt.NDArray[Any],
        policy: Policy,
        over: Callable[[], None],
    ) -> None:
        """Keep a value of a step, which is the present one from now on.

        Parameters
        ----------
        step, name, value
            What is logged.
        policy
            What is recorded.
        over
            Called when another step was the present one, to take its values.

        Raises
        ------
        ValueError
            If the value is none that can be logged under the name.
        """
        path, value = self._names.checked(name, value)
        if not policy.covers("logged", path):
            return
        if step != self.at:
            over()
        self.at = step
        self._values[f"logged/{path}"] = value

    def take(self) -> tuple[int, dict[str, npt.NDArray[Any]]] | None:
        """Return the step and its values, and forget them; None where there are none."""
        if not self._values or self.at is None:
            return None
        values, self._values = self._values, {}
        return self.at, values


def value_of(name: str, value: Any) -> npt.NDArray[Any]:
    """Return what is logged under a name as an array.

    Raises
    ------
    ValueError
        If it is a symbolic tensor, which has no value yet.
    """
    if tf.is_symbolic_tensor(value):
        msg = (
            f"'{name}' has no value while its step is compiled; return it from the step, and log "
            "what it returned"
        )
        raise ValueError(msg)
    return np.asarray(value)
