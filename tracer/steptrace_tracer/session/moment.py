"""A step with all that a repetition of it needs: its arguments, and the variables before it."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import Incident
from steptrace_schema.format.paths import safe_path
from steptrace_schema.names import LOSS, SAMPLE_WEIGHT
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.record.pending_step import KeptStep
from steptrace_tracer.session.collect_step import to_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from steptrace_tracer.capture.named_state import StateValues
    from steptrace_tracer.capture.program import Program


@dataclasses.dataclass(frozen=True)
class Moment:
    """A step that is about to run.

    Attributes
    ----------
    step
        Its number.
    program, args, kwargs
        What runs, and with which arguments.
    before
        What every variable held.
    lacks
        What `before` does not hold, each a sentence.
    """

    step: int
    program: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: StateValues
    lacks: tuple[str, ...]

    def kept(
        self,
        cause: str,
        reason: str,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        message: str | None = None,
        lacks: tuple[str, ...] = (),
    ) -> KeptStep:
        """Return the step as it is kept as a whole.

        Parameters
        ----------
        cause, reason, message
            Why it is kept.
        arrays
            What it recorded, ``kind/path`` to array, of which loss and gradients are kept.
        lacks
            What a repetition lacks beside arguments that cannot be kept, each a sentence.
        """
        paths, found, not_kept = named_arguments(self.program, self.args, self.kwargs)
        found = to_arrays(found) | self.before.arrays()
        found |= {key: values for key, values in arrays.items() if is_outcome(key)}
        incident = Incident(
            step=self.step,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cause=cause,
            reason=reason,
            message=message,
            arrays=tuple(found),
            arguments=paths,
            not_kept=(*not_kept, *self.lacks, *lacks),
            nbytes=sum(values.nbytes for values in found.values()),
        )
        return KeptStep(incident, found)


def is_outcome(key: str) -> bool:
    """Whether ``kind/path`` names what a step gave that is kept with it: gradients and loss."""
    return key.startswith("gradients/") or key == f"scalars/{LOSS}"


def named_arguments(
    program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[str | None, ...], dict[str, Any], tuple[str, ...]]:
    """Return the arrays among a step's arguments.

    Returns
    -------
    paths
        Of each part of the arguments, as ``tf.nest.flatten`` orders them, the path of its array;
        None for what is no array, or cannot be kept.
    tensors
        Path to tensor.
    not_kept
        What is lost of the arguments, each a sentence.
    """
    names: dict[int, str] = {}
    batch = program.batch(*args, **kwargs)
    for base, structure in batch.parts():
        for name, leaf in leaves(structure):
            names.setdefault(id(leaf), joined(base, name))
    data = args[0] if args else None
    if program.frozen is not None and isinstance(data, tuple) and len(data) == 3:
        for name, leaf in leaves(data[2]):
            names.setdefault(id(leaf), joined(SAMPLE_WEIGHT, name))
    paths: list[str | None] = []
    tensors: dict[str, Any] = {}
    not_kept = []
    for number, leaf in enumerate(flat_arguments(args, kwargs)):
        is_tensor = isinstance(leaf, (tf.Tensor, np.ndarray))
        dtype = tf.as_dtype(leaf.dtype) if is_tensor else None
        if dtype is None or not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            paths.append(None)
            if is_tensor or hasattr(leaf, "get_next"):
                what = dtype.name if dtype is not None else type(leaf).__name__
                not_kept.append(f"argument {number} of the step, of type {what}, is not kept")
            continue
        path = f"inputs/{safe_path(names.get(id(leaf), f'argument_{number}'))}"
        paths.append(path)
        tensors[path] = tf.convert_to_tensor(leaf)
    return tuple(paths), tensors, tuple(not_kept)


def flat_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the parts of a step's arguments, those of composite tensors one by one."""
    return list(tf.nest.flatten((args, dict(kwargs)), expand_composites=True))
