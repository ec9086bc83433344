"""The traced training step: the model's own step, returning its taps beside its result."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.batch_taps import batch_taps
from steptrace_tracer.capture.direct_call import DirectCall
from steptrace_tracer.capture.finished_taps import finished
from steptrace_tracer.capture.frozen_step import batch_kind
from steptrace_tracer.capture.graph_statistics import described_in_graph, describes_in_graph
from steptrace_tracer.capture.input_gradient import (
    explain_undifferentiable,
    without_input_gradient,
)
from steptrace_tracer.capture.metric_taps import metric_taps
from steptrace_tracer.capture.names import inside_recurrent, walk_operations
from steptrace_tracer.capture.probe import Probe, same_inputs, working_probe
from steptrace_tracer.capture.random_draws import draws_random_numbers
from steptrace_tracer.capture.readings import Readings
from steptrace_tracer.capture.rebinding import tapped
from steptrace_tracer.capture.replicas import on_every_replica, run_on_replicas
from steptrace_tracer.capture.step_result import StepProgress, StepResult
from steptrace_tracer.capture.tap_collector import TapCollector
from steptrace_tracer.capture.taps import Taps
from steptrace_tracer.keras_private import note_what_tensors_lack

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program

_INNER, _OUTER = "inner", "outer"
"""Keys of taps that say which of the compiled functions ran."""

_READ_APART: Final = 50
"""Weights from which on a step reads what it begins with in a function of its own.

TensorFlow fuses fewer operations of a step that waits for these reads, which changes its last bits.
To call another function takes a tenth of a millisecond, which a small step would feel.
"""

_NOT_SPREAD = (
    "the model was made for several replicas, and the training step does not call strategy.run; "
    "wrap the function that does"
)


class TracedStep:
    """Runs single training steps of `program` and returns their taps.

    The graph of the step is traced once for each input signature, as its own is.

    Parameters
    ----------
    program
        The step, with built models.
    names
        The paths of their layers and weights.
    policy
        What to keep.
    probe
        Inputs of the probe; None for the first samples of the first batch.
    apart
        Whether to read what the step begins with in a function of its own, however small it is.
    """

    def __init__(
        self,
        program: Program,
        names: Names,
        policy: Policy,
        probe: Any = None,
        *,
        apart: bool = False,
    ) -> None:
        self.policy = policy
        self.names = names
        self.readings = Readings(program, names, policy)
        self.taps = Taps()
        self.traces = 0
        self.draws_random_numbers = False
        """Whether its graph draws numbers from a state: another graph would draw other ones."""
        self.progress = StepProgress()
        self._probe_inputs = probe
        self.function: Any = None
        self._inner: Any = None
        self._apart = apart or sum(len(m.weights) for m in program.models) >= _READ_APART
        self._reader: Any = None
        """Reads what the step begins with; None where the step does so itself."""
        self._functions: dict[str, Any] = {}
        """The compiled functions around the step, by the signature of the data set."""
        self._taps_of: dict[int, Taps] = {}  # of several functions where signatures differ
        self._batch_taps_of: dict[int, Taps] = {}
        self._batch_taps = Taps()
        self._probe_missing: tuple[Missing, ...] = ()
        self._undifferentiable: Exception | None = None
        self._asked = policy
        """What is asked of the step itself."""

    @property
    def program(self) -> Program:
        """The present step."""
        return self.readings.program

    @property
    def probe(self) -> Probe | None:
        """What runs with the weights before the step; None without one."""
        return self.readings.probe

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make ready, without running anything, what the step with these arguments needs.

        What fails here has changed nothing yet.
        """
        if self.function is None:
            self.prepare_probe(args, kwargs)
            self.readings.prepare(self.program.batch(*args, **kwargs).x)
            if self.readings.shortcut is not None:
                self._asked = without_input_gradient(self.policy)
            note_what_tensors_lack(self.policy.kinds)
            if self._apart and self.may_read_apart:
                read = partial(self.readings.before)
                self._reader = DirectCall(tf.function(read, autograph=False))
            self.function = self._compile()
            if not self.program.eager and self.program.strategy is None:
                self._compile_first(args, kwargs)

    def _compile_first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compile the step; without the gradient of its input, where an operation has none."""
        try:
            with self.progress.compiling_first():
                self.function.get_concrete_function(*args, **kwargs)
        except Exception:
            if self._undifferentiable is None or self._inner is None:
                raise
            self._inner, self._asked = None, without_input_gradient(self._asked)
            self.function = self._compile()
            with self.progress.compiling_first():
                self.function.get_concrete_function(*args, **kwargs)

    def prepare_probe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the probe, if there is to be one, from the batch of a step with these arguments."""
        is_known = self.probe is not None or self._probe_missing
        if self.function is None and not is_known and "probe" in self.policy.kinds:
            about = (self.program, self.names, self.policy, self._probe_inputs)
            self.readings.probe, self._probe_missing = working_probe(*about, args, kwargs)

    def go_on(self, program: Program, probe: Any) -> None:
        """Do the same step in another ``fit``, compiled as it was.

        Parameters
        ----------
        program
            The step, as the other ``fit`` has it.
        probe
            Inputs of the probe; None for the first samples of the other first batch.
        """
        self.readings.program = program
        asked = "probe" in self.policy.kinds
        if asked and (self.probe is None or not same_inputs(self.probe.x, probe)):
            self.readings.probe, self._probe_inputs, self._probe_missing = None, probe, ()
            self._functions.clear()
            self._reader = None
        self.function = self._functions.get(program.compiled.signature)

    def concrete(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the compiled function for arguments of this signature, without running it."""
        self.prepare(args, kwargs)
        return self.function.get_concrete_function(*args, **kwargs)

    def run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[[], Any]
    ) -> StepResult:
        """Train on one batch.

        Parameters
        ----------
        args, kwargs
            The arguments of the program's step.
        original
            Does the same step without the tracer; not needed here, where it is done with its taps.
        """
        self.prepare(args, kwargs)
        wall_time, start = time.time(), time.perf_counter()
        result, tensors = self._call(args, kwargs)
        return StepResult(result, tensors, wall_time, time.perf_counter() - start)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        before = self._reader() if self.reads_apart else None
        self.progress.begin()
        result, tensors = self.function(*args, **kwargs)
        self.progress.end(result)
        self.note_function(tensors)
        if before is not None:
            batch = self.program.batch(*args, **kwargs)
            tensors |= self.readings.since(before, tensors, batch.x, self.taps)
        return result, tensors

    def together(self) -> Any:
        """Return the compiled step that reads itself what it begins with."""
        around = partial(self._compiled_around, True, self._inner)
        return self.program.compiled.around(around) if self.reads_apart else self.function

    @property
    def may_read_apart(self) -> bool:
        """Whether what the step begins with is not read in a function of its own, and could be."""
        plain = not self.program.eager and self.program.strategy is None
        return plain and self._reader is None and not describes_in_graph()

    @property
    def reads_apart(self) -> bool:
        """Whether what the step begins with is read in a function of its own."""
        return self._reader is not None

    def note_function(self, tensors: dict[str, Any]) -> None:
        """Note what the function that gave `tensors`, of one step or more, was asked for."""
        inner, outer = (int(np.asarray(tensors.pop(key)).flat[0]) for key in (_INNER, _OUTER))
        self.taps, self._batch_taps = self._taps_of[inner], self._batch_taps_of[outer]

    def missing(self) -> tuple[Missing, ...]:
        """Return what the last step has no data for, with reasons."""
        probed = self.probe.taps.missing_entries() if self.probe is not None else ()
        own = (*self.taps.missing_entries(), *self._batch_taps.missing_entries())
        return (*own, *probed, *self._probe_missing, *self.readings.missing)

    def _compile(self) -> Any:
        if self.program.eager:
            return partial(self._around, True, self._step)
        compiled = self.program.compiled
        if self._inner is None:
            self._inner = compiled.step(self._compiled_step)
        around = partial(self._compiled_around, not self.reads_apart, self._inner)
        function = compiled.around(around)
        if self.program.frozen is not None:  # a `fit`, whose steps are all called alike
            function = DirectCall(function)
        self._functions[compiled.signature] = function
        return function

    def _compiled_around(
        self, reads: bool, step: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        with self.progress.compiling():
            return self._around(reads, step, *args, **kwargs)
        return None, {}  # which is never run

    def _compiled_step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with self.progress.compiling():
            return self._step(*args, **kwargs)
        return None, {}

    def _around(
        self, reads: bool, step: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Take what does not depend on how the step computes, so that its graph stays as it is.

        A random operation without its own seed is seeded by the random operations that its graph
        has so far: reading the weights inside that graph would change the training. TensorFlow
        orders these reads before the step's assignments, since the step uses the same variables.
        """
        before = self.readings.before() if reads else None
        result, tensors = step(*args, **kwargs)
        self.progress.refuse_failed()
        batch = self.program.batch(*args, **kwargs)
        if before is not None:
            tensors |= self.readings.since(before, tensors, batch.x, self.taps)
        data = batch_taps(batch, self.policy, self.program.strategy)
        tensors |= data.tensors
        self._batch_taps_of[number := self._number(self._batch_taps_of)] = data
        return result, described_in_graph(tensors, self.policy) | {_OUTER: tf.constant(number)}

    def _number(self, taps: dict[int, Taps]) -> int:
        """Return a new number for a function that is compiled; eagerly, each step has the same."""
        return 0 if tf.executing_eagerly() else len(taps)

    def _step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.traces += 1
        program, frozen = self.program, self.program.frozen
        if frozen is None or frozen.eager:
            return self._observed(*args, **kwargs)
        kind = batch_kind((args, kwargs))
        with frozen.as_compiled(kind, program.models, program.optimizers):
            return self._observed(*args, **kwargs)

    def _observed(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        program = self.program
        layers = [
            layer
            for model in program.models
            for layer, _ in walk_operations(model)
            if id(layer) in self.names.layers  # one that was added has to be compiled first
        ]
        in_loops = frozenset[int]().union(*map(inside_recurrent, program.models))
        collectors: list[TapCollector] = []
        running = threading.local()  # each replica runs in its own thread, one at a time

        def on_replica(
            body: Callable[..., Any], *args: Any, **kwargs: Any
        ) -> tuple[Any, dict[str, Any]]:
            collector = TapCollector(
                program, self.names, self._asked, program.batch(*args, **kwargs)
            )
            collectors.append(collector)
            running.collector = collector
            try:
                result = body(*args, **kwargs)
            except Exception:
                self._undifferentiable = collector.undifferentiable
                raise
            if tf.executing_eagerly() and program.strategy is None:
                self.progress.end(result)
            del running.collector
            return result, finished(collector, self._asked, layers, in_loops)

        current = partial(getattr, running, "collector", None)
        with tapped(program, self._asked, layers, in_loops, current):
            if program.strategy is None:
                result, tensors = on_replica(program.body, *args, **kwargs)
            elif program.calls_strategy_run:
                with on_every_replica(program.strategy, on_replica) as tensors:
                    result = program.body(*args, **kwargs)
            else:
                step = partial(on_replica, program.body)
                result, tensors = run_on_replicas(program.strategy, step, args, kwargs)
        if not collectors:
            raise TraceError(_NOT_SPREAD)
        self.taps = collectors[0].taps
        if self._undifferentiable is not None:
            x = program.batch(*args, **kwargs).x
            explain_undifferentiable(self.taps, x, self._undifferentiable)
        self._taps_of[number := self._number(self._taps_of)] = self.taps
        self.draws_random_numbers |= draws_random_numbers()
        metrics = metric_taps(program.logs(result)) if tensors else {}
        return result, tensors | metrics | {_INNER: tf.constant(number)}

    def current_weights(self) -> dict[str, Any]:
        """Return the models' present weights, ``weights/path`` to tensor."""
        weights = {f"weights/{p}": t for p, t in self.readings.weights().items()}
        return described_in_graph(weights, self.policy)
