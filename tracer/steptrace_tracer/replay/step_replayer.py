"""Doing a recorded step in place of the first step of a training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.named_state import STATE, NamedState
from steptrace_tracer.capture.optimizer_state import build_slots
from steptrace_tracer.keras_private import update_counter
from steptrace_tracer.replay.replay import Compared, Replay, Replayed
from steptrace_tracer.session.collect_step import to_arrays
from steptrace_tracer.session.failure import one_line, whole_message
from steptrace_tracer.session.moment import flat_arguments, named_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_tracer.capture.proven_step import ProvenStep
    from steptrace_tracer.replay.recorded_step import RecordedStep
    from steptrace_tracer.session.settings import Settings


_RANDOM: Final = (
    "states of random layers, which are recorded only where a step is kept as a whole (an incident)"
)


class StepReplayer:
    """Has the training of a script do a recorded step.

    The script's own first step runs before it, so that everything is built and compiled as in the
    training; then every variable gets its recorded value.

    Parameters
    ----------
    recorded
        The step.
    fit
        Which of the script's trainings it is of, counted from 1.
    check_numerics
        Whether to stop at the first operation that gives a number that is not finite.
    folder
        An empty folder, for what recordings need while they begin.
    """

    def __init__(
        self, recorded: RecordedStep, *, fit: int, check_numerics: bool, folder: Path
    ) -> None:
        self._recorded = recorded
        self._fit = fit
        self._begun = 0
        self._check_numerics = check_numerics
        self._folder = folder

    def settings(self, settings: Settings) -> Settings:
        """Return how a recording is made that writes nothing into the user's traces."""
        self._begun += 1
        attributes = self._recorded.attributes
        return dataclasses.replace(
            settings,
            path=self._folder / f"{self._begun}.zarr",
            policy=attributes.policy,
            on_error="raise",
            progress=False,
            resume=False,
            capture=attributes.capture.get(
                "gradients", attributes.capture.get("scalars", "inside")
            ),
            sample_ids=None,
            incidents=0,
        )

    def step(
        self,
        capture: ProvenStep,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        original: Callable[[], Any],
    ) -> Any:
        """Do a step of the script as it is, or the recorded one, and end the script."""
        if self._begun < self._fit:
            return original()
        raise Replayed(self._replay(capture, args, kwargs))

    def _replay(self, capture: ProvenStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Replay:
        recorded, program = self._recorded, capture.traced.program
        if self._check_numerics:
            tf.debugging.enable_check_numerics()
        own, lacks = self._arguments(capture, args, kwargs)
        if _slots(recorded.arrays):
            build_slots(program, capture.traced.policy)
        initial = NamedState(program, capture.traced.names)
        before = initial.read().arrays()
        try:
            capture.traced.run(args, kwargs, dict)
        except tf.errors.OpError:
            pass  # the script's first batch may be the one that breaks
        lacks = (*lacks, *recorded.lacks, *self._restore(capture, before))
        try:
            tensors = capture.traced.run(*own, dict).tensors
            error = capture.traced.taps.error
            if error is not None:
                raise error
            gave = to_arrays({k: t for k, t in tensors.items() if k in recorded.gave})
        except Exception as error:
            return self._raised(error, lacks)
        if self._check_numerics:
            return Replay(recorded.step, not_restored=lacks)
        if recorded.incident is not None and recorded.incident.cause == "exception":
            return Replay(recorded.step, not_restored=lacks, error_is_recorded=False)
        compared = [_compared(key, then, gave.get(key)) for key, then in recorded.gave.items()]
        if not compared:
            msg = (
                f"step {recorded.step} was run again, but neither its loss nor its gradients are "
                "recorded, so that there is nothing to compare with"
            )
            raise TraceError(msg)
        return Replay(recorded.step, tuple(compared), lacks)

    def _raised(self, error: Exception, lacks: tuple[str, ...]) -> Replay:
        incident = self._recorded.incident
        is_recorded = None
        if incident is not None and incident.cause == "exception":
            is_recorded = incident.reason.endswith(one_line(error))
        return Replay(
            self._recorded.step,
            not_restored=lacks,
            error=whole_message(error),
            error_is_recorded=is_recorded,
        )

    def _arguments(
        self, capture: ProvenStep, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], tuple[str, ...]]:
        """Return the script's arguments with the recorded arrays in them."""
        recorded = self._recorded
        flat = flat_arguments(args, kwargs)
        paths, _, lost = named_arguments(capture.traced.program, args, kwargs)
        if recorded.incident is not None:
            paths, then = recorded.incident.arguments, paths
            if [p is None for p in paths] != [p is None for p in then] and len(paths) != len(then):
                msg = (
                    f"the step of the script takes {len(then)} arguments, and {len(paths)} are "
                    "recorded; give the script, and the fit (--fit), that the trace is of"
                )
                raise TraceError(msg)
        parts, lacks = [], list(lost)
        for number, (leaf, path) in enumerate(zip(flat, paths, strict=True)):
            values = None if path is None else recorded.arrays.get(path)
            if values is None:
                parts.append(leaf)
                if path is not None:
                    lacks.append(f"argument {number} of the step ('{path}') is not recorded")
                continue
            parts.append(tf.cast(tf.constant(values), tf.as_dtype(leaf.dtype)))
        packed = tf.nest.pack_sequence_as((args, kwargs), parts, expand_composites=True)
        return packed, tuple(lacks)

    def _restore(self, capture: ProvenStep, before: dict[str, npt.NDArray[Any]]) -> tuple[str, ...]:
        """Give every variable its recorded value; return what has none, each a sentence.

        Variables that are not recorded have the value that they had before the script's own step.
        """
        recorded = self._recorded
        state = NamedState(capture.traced.program, capture.traced.names)
        then = _by_place(recorded.arrays, state.variables)
        known = {key: values for key, values in then.items() if key in state.variables}
        # That no slot is recorded is said once, not of each.
        slots = {} if _slots(recorded.arrays) else _slots(state.read().arrays())
        lacks = list(state.restore({**slots, **before, **known}))
        if recorded.incident is None:
            if any("seed_generator" in key for key in state.variables):
                lacks.append(_RANDOM)
            for optimizer in capture.traced.program.optimizers:
                counter = update_counter(optimizer)
                if hasattr(counter, "assign"):
                    counter.assign(recorded.step)
        of_training = ("weights/", "optimizer/", f"{STATE}/")
        lacks += [
            f"'{key}' is recorded, and the script has no such variable"
            for key in then
            if key.startswith(of_training) and key not in state.variables
        ]
        return tuple(lacks)


def _slots(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {key: values for key, values in arrays.items() if key.startswith("optimizer/")}


def _by_place(
    recorded: Mapping[str, npt.NDArray[Any]], variables: Mapping[str, Any]
) -> Mapping[str, npt.NDArray[Any]]:
    """Return recorded arrays under the present paths of the variables under ``state``.

    Keras numbers layers and optimizers by what the program made before, so that these paths may be
    others now. Then their order tells them, where they are as many, and of the same shapes.
    """
    own = [key for key in variables if key.startswith(f"{STATE}/")]
    then = [key for key in recorded if key.startswith(f"{STATE}/")]
    alike = len(own) == len(then) and all(
        tuple(variables[now].shape) == recorded[before].shape
        for now, before in zip(own, then, strict=True)
    )
    if not alike or set(own) == set(then):
        return recorded
    rest = {key: values for key, values in recorded.items() if not key.startswith(f"{STATE}/")}
    return {**rest, **{now: recorded[before] for now, before in zip(own, then, strict=True)}}


def _compared(name: str, then: npt.NDArray[Any], now: npt.NDArray[Any] | None) -> Compared:
    if now is None or now.shape != then.shape:
        return Compared(name, identical=False)
    if now.tobytes() == then.tobytes():
        return Compared(name, identical=True)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(now.astype(np.float64) - then.astype(np.float64)).max()
    return Compared(name, False, float(difference) if np.isfinite(difference) else None)
