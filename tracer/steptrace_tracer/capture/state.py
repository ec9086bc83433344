"""The state of a compiled step: every variable that it may change, to copy and to put back."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.random_draws import draws_inside
from steptrace_tracer.capture.resource_uses import READING, ResourceUses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_tracer.capture.program import Program

_OUTSIDE = (
    "Barrier",
    "EagerPyFunc",
    "FIFOQueue",
    "IteratorGetNext",
    "LookupTableInsert",
    "LookupTableRemove",
    "PyFunc",
    "QueueDequeue",
    "QueueEnqueue",
    "Save",
    "Write",
)
"""How the names of operations begin that act on something else than variables."""

_EXCHANGES = ("Collective", "Horovod")
"""How the names of operations begin that exchange tensors between processes."""

RETURNED: Final = "what the step returned"
"""Named as the difference where variables have the same bits, and results have not."""

_SHARED_DRAWS: Final = (
    "a tf.function that it calls draws random numbers, and draws others when it runs again: take "
    "that tf.function away, or draw from a tf.random.Generator"
)
_NO_VARIABLE = "it changes a resource that is no variable, which cannot be copied"


class StepState:
    """Copies, and puts back, what a compiled step may change.

    Parameters
    ----------
    function
        The compiled step, for one input signature.
    program
        What it is a step of.

    Attributes
    ----------
    obstacle
        Why the step cannot be run a second time without an effect; None where it can.
    """

    def __init__(self, function: tf.types.experimental.ConcreteFunction, program: Program) -> None:
        uses = ResourceUses(function)
        changed = {
            id(tensor)
            for tensor in function.captured_inputs
            if tensor.dtype == tf.resource and not uses.of(tensor) <= READING
        }
        parts = _with_components((*function.variables, *program.variables()))
        found = {id(v.handle): v for v in parts if id(v.handle) in changed}
        self._variables = list(found.values())
        self.obstacle = outside_effect(function, depth=2)
        if self.obstacle is None and changed - found.keys():
            self.obstacle = _NO_VARIABLE
        # Called without a search for the function of the arguments, and without a warning of
        # TensorFlow where many networks are trained.
        specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._variables]
        self._read = tf.function(self._values, autograph=False).get_concrete_function()
        self._write = tf.function(self._assign, autograph=False).get_concrete_function(specs)

    def copy(self) -> list[Any]:
        """Return the present value of every variable."""
        values: list[Any] = self._read()
        return values

    @property
    def nbytes(self) -> int:
        """Bytes of all variables."""
        return sum(v.dtype.size * math.prod(v.shape) for v in self._variables)

    def put_back(self, values: list[Any]) -> None:
        """Give every variable the value that `copy` returned."""
        self._write(values)

    def put_near(self, values: list[Any], seed: int) -> None:
        """Give every variable what `copy` returned, but each number up to a tenth off."""
        numbers = np.random.default_rng(seed)
        for variable, value in zip(self._variables, values, strict=True):
            near = value
            if value.dtype.is_floating:
                near = value * tf.cast(numbers.uniform(0.9, 1.1, value.shape), value.dtype)
            variable.assign(near)

    def bits(self, result: Any = None) -> list[bytes]:
        """Return 128 bits for the present bits of every variable, and every tensor in `result`.

        To compare two states by them takes no more memory than there is one of.
        """
        return [_bits(np.asarray(value)) for value in (*self._read(), *_tensors(result))]

    def first_difference(self, one: list[bytes], other: list[bytes]) -> str | None:
        """Return the name of the first variable whose bits differ, None where none does.

        It is `RETURNED` where no variable differs, and a result does.
        """
        names = (str(variable.name) for variable in self._variables)
        for name, first, second in itertools.zip_longest(names, one, other, fillvalue=RETURNED):
            if first != second:
                return name
        return None

    def _values(self) -> list[Any]:
        return [tf.identity(variable) for variable in self._variables]

    def _assign(self, values: list[Any]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def _with_components(variables: Iterable[Any]) -> list[Any]:
    """Return variables, those of each replica where one is spread over several."""
    return [part for v in variables for part in getattr(v, "values", (v,))]


def outside_effect(function: Any, depth: int = 1) -> str | None:
    """Return what a compiled function does to more than variables, such as calling Python.

    Parameters
    ----------
    function
        The function.
    depth
        How many calls deep the functions are at least that other programs call, too.
    """
    if draws_inside(function, depth):
        return _SHARED_DRAWS
    found = next((name for name in _operation_types(function) if name.startswith(_OUTSIDE)), None)
    if found is None:
        return None
    return f"it runs '{found}', which acts on more than variables"


def communicates(function: Any) -> bool:
    """Whether a compiled function exchanges tensors, by operations that all workers have to run."""
    return any(name.startswith(_EXCHANGES) for name in _operation_types(function))


def _operation_types(function: Any) -> list[str]:
    definition = function.graph.as_graph_def()
    nodes = [definition.node, *(inner.node_def for inner in definition.library.function)]
    return sorted({node.op for part in nodes for node in part})


def _tensors(result: Any) -> list[Any]:
    """Return the tensors of a result that hold numbers or text."""
    found = tf.nest.flatten(result, expand_composites=True)
    return [
        leaf
        for leaf in found
        if isinstance(leaf, tf.Tensor) and leaf.dtype not in (tf.resource, tf.variant)
    ]


def _bits(values: np.ndarray[Any, Any]) -> bytes:
    if values.dtype == object:  # strings
        values = np.asarray(values.astype(bytes))
    flat = np.ascontiguousarray(values).reshape(-1)
    digest = xxhash.xxh3_128(repr((values.shape, values.dtype)).encode())
    digest.update(flat.view(np.uint8).data if flat.size else b"")
    return digest.digest()
