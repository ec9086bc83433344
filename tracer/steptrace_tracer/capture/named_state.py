"""Every variable of a training step by a path: what a repetition of the step begins with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.format.paths import unique_paths
from steptrace_schema.human import human_bytes
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.optimizer_state import optimizer_slots
from steptrace_tracer.capture.taps import to_array
from steptrace_tracer.private_names import MissingNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program

STATE: Final = "state"
"""Group of variables that are neither weights nor slots: states of random layers, counts, rates."""


@dataclasses.dataclass(frozen=True)
class StateValues:
    """What variables held at one time.

    Attributes
    ----------
    tensors
        One tensor for each of `places`.
    places
        What each tensor holds, one after the other: path and shape of each variable.
    """

    tensors: tuple[Any, ...]
    places: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the values, path to array."""
        found = {}
        for tensor, places in zip(self.tensors, self.places, strict=True):
            flat = to_array(tensor).reshape(-1)
            ends = itertools.accumulate(math.prod(shape) for _, shape in places)
            for (path, shape), end in zip(places, ends, strict=True):
                found[path] = flat[end - math.prod(shape) : end].reshape(shape)
        return found


class NamedState:
    """The variables of a step's models, metrics and optimizers.

    Weights and optimizer slots have the paths that they have in a trace, with their kind before
    it; others stand under ``state``, by Keras' own path.

    Parameters
    ----------
    program
        The step, with built models.
    names
        The paths of their weights.
    is_settled
        Whether a step has run, which builds metrics, and optimizers.
    slot_bytes
        The most bytes of the optimizer's slots; where they have more, they are left out. None for
        any number.

    Attributes
    ----------
    variables
        Path to variable.
    lacks
        What is left out, each a sentence.
    """

    def __init__(
        self,
        program: Program,
        names: Names,
        *,
        is_settled: bool = True,
        slot_bytes: int | None = None,
    ) -> None:
        self._program = program
        self._is_settled = is_settled
        self._reads = 0
        self._built = self._what_is_built()
        self.variables, self.lacks = _within(slot_bytes, _named(program, names))
        self._groups = _together(self.variables)
        self._places = tuple(
            tuple((path, tuple(variable.shape)) for path, variable in group.items())
            for group in self._groups
        )
        # What is used once is not worth compiling.
        self._read = self._compiled() if is_settled else self._values

    def is_current(self) -> bool:
        """Whether no optimizer or metric has been built since, which makes variables."""
        is_known = self._is_settled or not self._reads
        return is_known and self._built == self._what_is_built()

    def read(self) -> StateValues:
        """Return the present values."""
        self._reads += 1
        return StateValues(tuple(self._read()), self._places)

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
        """Give variables the values of `arrays`; return which variables have none, or others.

        Each is a sentence. What `arrays` holds beside variables is passed over.
        """
        wrong = []
        for path, variable in self.variables.items():
            values = arrays.get(path)
            if values is None:
                wrong.append(f"'{path}' is not recorded")
            elif tuple(variable.shape) != values.shape:
                wrong.append(
                    f"'{path}' has shape {tuple(variable.shape)}, and {values.shape} is recorded"
                )
            else:
                variable.assign(tf.cast(tf.constant(values), variable.dtype))
        return tuple(wrong)

    def _compiled(self) -> Any:
        # Called without a search for the function of the arguments, of which there are none.
        return tf.function(self._values, autograph=False).get_concrete_function()

    def _values(self) -> list[Any]:
        return [_joined(list(group.values())) for group in self._groups]

    def _what_is_built(self) -> tuple[bool, ...]:
        return tuple(bool(optimizer.built) for optimizer in self._program.optimizers)


def _named(program: Program, names: Names) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for model in program.models:
        for weight in model.weights:
            if id(weight) in names.weights and id(weight) not in seen:
                found[f"weights/{names.weights[id(weight)]}"] = weight
                seen.add(id(weight))
    try:
        slots = [s for optimizer in program.optimizers for s in optimizer_slots(optimizer, names)]
    except MissingNameError:  # then they are kept by their own names, as the rest is
        slots = []
    for path, (_, variable) in zip(unique_paths([p for p, _ in slots]), slots, strict=True):
        found[f"optimizer/{path}"] = variable
        seen.add(id(variable))
    rest = [
        *(v for model in program.models for v in (*model.variables, *model.metrics_variables)),
        *(v for optimizer in program.optimizers for v in optimizer.variables),
    ]
    others = {id(v): v for v in rest if id(v) not in seen}.values()
    for path, variable in zip(unique_paths([v.path for v in others]), others, strict=True):
        found[f"{STATE}/{path}"] = variable
    own = {path: variable.value for path, variable in found.items()}
    return {path: v for path, v in own.items() if _is_storable(v)}


def _within(
    slot_bytes: int | None, variables: dict[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return variables without slots where these have more bytes, and what is left out."""
    slots = {path: v for path, v in variables.items() if path.startswith("optimizer/")}
    size = sum(v.dtype.size * math.prod(v.shape) for v in slots.values())
    if slot_bytes is None or size <= slot_bytes:
        return variables, ()
    lacks = (
        f"what the optimizer remembers, {human_bytes(size)}, is more than the "
        f"{human_bytes(slot_bytes)} that are held before each step",
    )
    return {path: v for path, v in variables.items() if path not in slots}, lacks


def _together(variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables that are copied into one tensor, path to variable.

    A weight is read by itself: its value is not copied, as the step's own record holds it as well.
    What else is held would have to be copied by the step that changes it, one by one.
    """
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, variable in variables.items():
        is_alone = path.startswith("weights/") or not variable.shape.is_fully_defined()
        key = (path,) if is_alone else (variable.dtype.name, variable.device)
        groups.setdefault(key, {})[path] = variable
    return list(groups.values())


def _joined(variables: list[Any]) -> Any:
    if len(variables) == 1:
        return tf.identity(variables[0])
    return tf.concat([tf.reshape(variable, [-1]) for variable in variables], 0)


def _is_storable(variable: Any) -> bool:
    try:
        dtype = np.dtype(variable.dtype.as_numpy_dtype)
    except TypeError:
        return False
    return variable.dtype == tf.bfloat16 or dtype.kind in "biuf"
