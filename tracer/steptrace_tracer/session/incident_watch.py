"""Watching a training for steps that are to be kept as a whole, or reported."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.graph_statistics import describes_in_graph
from steptrace_tracer.capture.named_state import NamedState
from steptrace_tracer.record.live_rules import LiveRules
from steptrace_tracer.record.pending_step import Collected
from steptrace_tracer.session.failure import one_line, whole_message
from steptrace_tracer.session.moment import Moment, is_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from steptrace_schema.format.attributes import Incident
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.moving.resume import Continuation
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.record.pending_step import KeptStep
    from steptrace_tracer.session.live_watch import LiveWatch
    from steptrace_tracer.session.settings import Settings

    Put = Callable[[int, Callable[[], Collected]], None]
    """Takes what a step gives to the journal."""

INCIDENTS: Final = 8
"""How many steps are kept as a whole, by default."""
INCIDENT_BYTES: Final = 2 * 2**30
"""The most bytes of all of them, by default."""

SLOT_BYTES: Final = 256 * 2**20
"""The most bytes of the optimizer's slots that are held, and copied, before each step."""

_DRAWS: Final = "operations of the step draw random numbers without a seed, which are not kept"
_MARKED: Final = "the training marked it"


class IncidentWatch:
    """Keeps the steps at which something breaks, with all that a repetition of them needs.

    Parameters
    ----------
    most
        How many steps are kept. Jumps take no more than half of them.
    most_bytes
        The most bytes of all of them.
    names
        The paths of the weights.
    policy
        What else is recorded.
    earlier
        What a trace that is resumed has already.
    live
        Takes what the rules find, to report it; None where nothing is reported.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        names: Names,
        policy: Policy,
        earlier: Iterable[Incident] = (),
        live: LiveWatch | None = None,
    ) -> None:
        self._most, self._most_bytes, self._live = most, most_bytes, live
        self._rules = LiveRules(described=policy.statistics_only if describes_in_graph() else ())
        self._kept: set[int] = set()
        self._jumps = 0
        self._nbytes = 0
        for incident in earlier:
            self._kept.add(incident.step)
            self._nbytes += incident.nbytes
        self._names = names
        self._states: dict[tuple[int, ...], NamedState] = {}
        self._last: Moment | None = None
        self._marked: set[int] = set()
        self._judged: Moment | None = None
        self._judged_arrays: Mapping[str, npt.NDArray[Any]] = {}

    def before(
        self, step: int, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Moment | None:
        """Return the step that is about to run; None where nothing can be kept of it.

        Variables that are spread over replicas are not kept.
        """
        if self._is_full or program.strategy is not None:
            return None
        # Each fit has a program of its own, of the same variables.
        key = (*map(id, program.models), *map(id, program.optimizers))
        state = self._states.get(key)
        if state is None or not state.is_current():
            is_settled = state is not None
            state = NamedState(program, self._names, is_settled=is_settled, slot_bytes=SLOT_BYTES)
            self._states[key] = state
        # The user may write into an array of NumPy as soon as the step is done.
        if any(isinstance(leaf, np.ndarray) for leaf in tf.nest.flatten((args, kwargs))):
            args, kwargs = tf.nest.map_structure(_own, (args, kwargs))
        self._last = Moment(step, program, args, kwargs, state.read(), state.lacks)
        return self._last

    def judged(
        self, collected: Collected, step: int, moment: Moment | None, *, draws: bool
    ) -> Collected:
        """Return what a step recorded, with the steps that are kept because of it.

        Parameters
        ----------
        collected
            What it recorded.
        step
            Its number.
        moment
            The step, before it ran; None where nothing is kept of it.
        draws
            Whether it draws random numbers that cannot be repeated.
        """
        if moment is None and self._live is None:
            return collected
        alarms = self._rules.judge(step, collected.arrays)
        if self._live is not None and (told := self._live.note(alarms)):
            collected = dataclasses.replace(collected, notes=(*collected.notes, *told))
        if moment is None:
            return collected
        before, arrays_before = self._judged, self._judged_arrays
        self._judged = moment
        self._judged_arrays = {k: v for k, v in collected.arrays.items() if is_outcome(k)}
        lacks = (_DRAWS,) if draws else ()
        whole: list[KeptStep] = []
        for alarm in alarms:
            of = moment
            arrays: Mapping[str, npt.NDArray[Any]] = collected.arrays
            if alarm.step != moment.step:
                if before is None or before.step != alarm.step:
                    continue
                of, arrays = before, arrays_before
            if self._may_keep(of.step, is_jump=alarm.is_jump):
                whole += self._keep(of.kept(alarm.cause, alarm.reason, arrays, lacks=lacks))
                self._jumps += alarm.is_jump
        if moment.step in self._marked and self._may_keep(moment.step):
            whole += self._keep(moment.kept("mark", _MARKED, collected.arrays, lacks=lacks))
        return dataclasses.replace(collected, whole=tuple(whole))

    def mark(self, step: int, put: Put) -> None:
        """Keep a step that the training marks; one that has not run is kept when it has."""
        last = self._last
        if self._is_full:
            return
        if last is None or last.step != step:
            self._marked.add(step)
        elif self._may_keep(step):
            arrays = self._judged_arrays if self._judged is last else {}
            self._put(last.kept("mark", _MARKED, arrays), put)

    def crashed(self, moment: Moment | None, error: BaseException, put: Put) -> None:
        """Keep a step that raised an exception; nothing of one that was interrupted."""
        if moment is None or not isinstance(error, Exception) or not self._may_keep(moment.step):
            return
        reason, message = f"the training step raised {one_line(error)}", whole_message(error)
        self._put(moment.kept("exception", reason, {}, message=message), put)

    def _put(self, kept: KeptStep, put: Put) -> None:
        whole = tuple(self._keep(kept))
        if whole:
            put(kept.incident.step, lambda: Collected({}, whole=whole))

    @property
    def _is_full(self) -> bool:
        return len(self._kept) >= self._most

    def _may_keep(self, step: int, *, is_jump: bool = False) -> bool:
        if self._is_full or step in self._kept:
            return False
        return not is_jump or self._jumps < -(-self._most // 2)

    def _keep(self, kept: KeptStep) -> list[KeptStep]:
        """Return a step where it has room, and count it."""
        if self._nbytes + kept.incident.nbytes > self._most_bytes:
            return []
        self._kept.add(kept.incident.step)
        self._nbytes += kept.incident.nbytes
        return [kept]


def watch_for(
    settings: Settings, names: Names, policy: Policy, before: Continuation | None
) -> IncidentWatch | None:
    """Return what watches a recording; None where no step is to be kept, and nothing told."""
    live = settings.live if settings.live.rules else None
    if not settings.incidents and live is None:
        return None
    earlier = () if before is None else before.attributes.incidents
    most, most_bytes = settings.incidents, settings.incident_bytes
    return IncidentWatch(most, most_bytes, names, policy, earlier, live)


def _own(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
