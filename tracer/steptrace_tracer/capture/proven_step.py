"""The cheapest way of capturing a step that is shown not to change the training.

Taps in the training graph cost least, but what TensorFlow fuses depends on what else uses a tensor,
so that they may change the last bits of the training. Whether they do is found out: the step with
its taps and the step without run from the same state, and every variable is compared, and what the
step returns: a training may go on by its loss.
"""

from __future__ import annotations

import datetime
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from steptrace_schema.errors import TraceError
from steptrace_schema.format.attributes import Proof, Way
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.beside_step import BesideStep
from steptrace_tracer.capture.comparison import Comparison
from steptrace_tracer.capture.level_draws import draws_alike, has_seeds
from steptrace_tracer.capture.nearby import TRIAL_BYTES, TRIAL_SECONDS, TRIALS
from steptrace_tracer.capture.proof_memory import ProofMemory, Remembered, fingerprint
from steptrace_tracer.capture.proof_texts import DRAWS, EAGER, TOGETHER, changed, unproved
from steptrace_tracer.capture.proof_times import PROOF_STEPS, ProofTimes
from steptrace_tracer.capture.state import StepState, communicates
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.step_result import StepResult

Capture = Literal["auto", "inside", "beside"]
"""How steps are captured: ``inside`` the training step, ``beside`` it, or ``auto``: inside where
that is shown not to change a bit, beside elsewhere."""

EARLIER: Final = "shown by an earlier start of the same training"
"""The note of a proof that was not made again."""
_FIRST_PROOFS: Final = 2


class ProvenStep:
    """Runs steps in the way that `capture` asks for.

    Parameters
    ----------
    program, names, policy, probe
        As :class:`TracedStep` takes them.
    capture
        How steps are captured.
    memory
        What earlier starts of the same training have shown.
    is_worker
        Whether other processes take part in the training. Where they do each step together, none
        can do one a second time, and nothing is compared.

    Attributes
    ----------
    traced
        The step in the present way.
    way
        The present way.
    proofs
        What was compared so far.

    Raises
    ------
    TraceError
        If an eager step is to be captured beside.
    """

    def __init__(
        self,
        program: Program,
        names: Names,
        policy: Policy,
        probe: Any,
        capture: Capture,
        memory: ProofMemory,
        *,
        is_worker: bool = False,
    ) -> None:
        if capture == "beside" and program.eager:
            raise TraceError(EAGER)
        self._program = program
        self._arguments = (program, names, policy, probe)
        self._memory = memory
        self._is_worker, self._uncompared = is_worker, False
        self._fingerprint: str | None = None
        self._signatures: set[Any] = set()
        self._runs = 0
        # An operation that runs by itself computes the same, whatever else uses its result.
        self._proves = capture == "auto" and not program.eager and program.can_repeat
        self._is_known = False
        self._states: dict[int, StepState] = {}
        self._times = ProofTimes()
        self._seconds, self._has_time = 0.0, True
        self._said: tuple[Way, int] | None = None
        self.proofs: tuple[Proof, ...] = ()
        self.way: Way = "beside" if capture == "beside" else "inside"
        kind = BesideStep if self.way == "beside" else TracedStep
        self.traced: TracedStep = kind(*self._arguments)

    def go_on(self, program: Program, probe: Any) -> None:
        """Capture the same step in another ``fit``, which may have another trace.

        Parameters
        ----------
        program
            The step, as the other ``fit`` has it.
        probe
            Inputs of the probe; None for the first samples of the other first batch.
        """
        self._program = program
        self._arguments = (program, *self._arguments[1:3], probe)
        self._said = None  # the other trace says it, too
        self.traced.go_on(program, probe)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step: int,
        original: Callable[[], Any],
    ) -> StepResult:
        """Train on one batch.

        Parameters
        ----------
        args, kwargs
            The arguments of the program's step.
        step
            Its number.
        original
            Does the same step as it is done without the tracer.

        Raises
        ------
        TraceError
            If it cannot be shown that the training stays as it is.
        """
        self._runs += 1
        if self._proves and self._is_worker and self._runs == 1:
            self._uncompared = communicates(self.traced.concrete(args, kwargs))
            self._proves = not self._uncompared
        if self._proves and self._fingerprint is None:
            self._fingerprint = fingerprint(self.traced, args, kwargs)
            self._remember(self._memory.recall(self._fingerprint), step)
        begin = time.perf_counter()
        proves = self._proves and self.way == "inside" and self._is_due(args, kwargs)
        if proves:
            result = self._prove(args, kwargs, step, original)
        else:
            result = self.traced.run(args, kwargs, original)
        if proves or self._runs == 1:
            self._times.took(time.perf_counter() - begin)
        return result

    @property
    def program(self) -> Program:
        """The present step."""
        return self._program

    @property
    def done(self) -> tuple[Any, ...]:
        """What the step has returned if it is done with its taps and left so, else nothing."""
        return self.traced.progress.done

    @property
    def may_be_half_done(self) -> bool:
        """Whether a step that raised may have changed some variables, and left them so."""
        return self.traced.progress.runs

    def news(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what the trace does not say yet: root attributes, and events."""
        state = (self.way, len(self.proofs))
        if state == self._said:
            return {}, ()
        said, self._said = self._said, state
        kinds = dict.fromkeys(sorted(_COMPUTED & {"scalars", *self.traced.policy.kinds}), self.way)
        attributes = {"capture": kinds, "proofs": self.proofs}
        if said is None or said[0] == self.way:
            return attributes, (TOGETHER,) if said is None and self._uncompared else ()
        message = (
            "from here on the step is computed a second time for the record, beside the training, "
            f"because taps in it changed the last bits of '{self.proofs[-1].note}'"
        )
        return attributes, (message,)

    def _remember(self, known: Remembered | None, step: int) -> None:
        """Do as an earlier start of the same training has shown to be right."""
        if known is None:
            return
        self._is_known = True
        if known == "beside":
            self._go_beside()
        elif known == "apart":
            self._go_apart()
        self._note(step, known != "beside", EARLIER)

    def _is_due(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self.traced.draws_random_numbers and self._runs > 1:
            # Both draw the same as long as both run at every step, and later no more.
            return len(self.proofs) == self._runs - 1 < TRIALS and self._has_time
        is_again = self._runs % PROOF_STEPS == 0 and self._times.may_prove_again
        if self._is_known and not self._signatures and not is_again:
            return False
        signature = _signature((args, kwargs))
        if signature not in self._signatures:
            self._signatures.add(signature)
            return True
        return self._runs <= _FIRST_PROOFS or is_again

    def _prove(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step: int,
        original: Callable[[], Any],
    ) -> StepResult:
        """Do the step with its taps and without, and choose the way of those to come."""
        begin, concrete = time.perf_counter(), self.traced.concrete(args, kwargs)
        state = self._states.get(id(concrete)) or StepState(concrete, self._program)
        if state.obstacle is not None:
            raise TraceError(unproved(state.obstacle))
        traced = partial(self.traced.run, args, kwargs, original)
        pair = Comparison(state, self.traced.progress, traced, original)
        if not self.traced.draws_random_numbers:
            return self._judge(pair, args, kwargs, step, original)
        # Other states are those of the next steps, since no run of either is to spare.
        self._states = {id(concrete): state}
        self._seconds += time.perf_counter() - begin if self._runs > 1 else 0.0
        self._has_time = self._seconds < TRIAL_SECONDS and state.nbytes <= TRIAL_BYTES
        return self._judge_drawing(pair, concrete, args, kwargs, step)

    def _judge(
        self,
        pair: Comparison,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step: int,
        original: Callable[[], Any],
    ) -> StepResult:
        if pair.difference is None and self._runs == 1:
            pair.look_nearby()
        repeats = None if pair.difference is None else pair.repeats()
        if repeats and self._runs <= _FIRST_PROOFS and self.traced.may_read_apart:
            pair.undo()
            self._go_apart()
            return self._prove(args, kwargs, step, original)
        self._note(step, pair.difference is None, pair.difference, repeats)
        if pair.difference is None or not repeats:
            # A step that leaves other bits each time has none that the taps could change.
            self._proves = pair.difference is None
            if self._proves and self._runs == _FIRST_PROOFS:
                way: Remembered = "apart" if self.traced.reads_apart else "inside"
                self._memory.keep(str(self._fingerprint), way)
            return pair.kept()
        self._memory.keep(str(self._fingerprint), "beside")
        if self._runs > _FIRST_PROOFS:
            warnings.warn(changed(pair.difference, step), RuntimeWarning, stacklevel=2)
        self._go_beside()
        with pair.undone() as again:  # the record of this step is made as those to come will be
            return self.traced.run(args, kwargs, again)

    def _judge_drawing(
        self,
        pair: Comparison,
        concrete: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step: int,
    ) -> StepResult:
        """Choose the way of a step that draws random numbers, which would be others if repeated."""
        repeats = None if pair.difference is None or has_seeds(concrete) else False
        self._note(step, pair.difference is None, pair.difference, repeats)
        if pair.difference is None or repeats is False:
            self._proves = pair.difference is None
            return pair.kept()
        if not draws_alike(concrete, self._program, args, kwargs):
            raise TraceError(DRAWS)
        self._memory.keep(str(self._fingerprint), "beside")
        # The function that has drawn as much as the training's own is the one to continue with.
        beside = self._go_beside(level=self.traced)
        with pair.undone() as again:
            return beside.trained(pair.kept().tensors, again)

    def _go_apart(self) -> None:
        apart = TracedStep(*self._arguments, apart=True)
        apart.readings.probe = self.traced.probe
        self.traced = apart

    def _go_beside(self, level: TracedStep | None = None) -> BesideStep:
        beside = BesideStep(*self._arguments, level=level)
        beside.readings.probe = self.traced.probe
        self.way, self.traced = "beside", beside
        return beside

    def _note(
        self, step: int, identical: bool, note: str | None, repeats: bool | None = None
    ) -> None:
        proof = Proof(
            step=step, time=_now(), way="inside", identical=identical, repeats=repeats, note=note
        )
        self.proofs = (*self.proofs, proof)


_COMPUTED: Final = frozenset(
    {"scalars", "gradients", "activations", "activation_gradients", "inputs"}
)
"""Kinds with tensors that the step computes; others are read around it, or have their own graph."""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _signature(structure: Any) -> Any:
    """Return what decides which compiled program runs: shapes, types, and other values."""
    return tuple(
        (str(leaf.dtype), tuple(leaf.shape)) if hasattr(leaf, "shape") else repr(leaf)
        for leaf in tf.nest.flatten(structure, expand_composites=True)
    )
