"""The state of a step that runs operation by operation: what it may change, to put it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from steptrace_tracer.capture.program import Program


class EagerState:
    """The values that all variables of a program have now.

    They are copied only if something assigns to them.

    Parameters
    ----------
    program
        A step that runs operation by operation.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._before = {id(v): (v, v.read_value()) for v in _parts(program)}

    def put_back(self) -> bool:
        """Give every variable the value that it had; return whether all have it.

        A variable that was made since, such as a slot of an optimizer, had none.
        """
        found = _parts(self._program)
        for variable, value in self._before.values():
            if not _same_bits(variable.read_value(), value):
                variable.assign(value)
        return all(id(variable) in self._before for variable in found)


def _parts(program: Program) -> list[Any]:
    """Return the variables of a step, those of each replica where one is spread over several."""
    return [part for v in program.variables() for part in getattr(v, "values", (v,))]


def _same_bits(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()
