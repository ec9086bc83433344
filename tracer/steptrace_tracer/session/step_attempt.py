"""One step that is tried with the tracer, and what is done where that fails.

The training must go on as it would without the tracer, or stop. What has been assigned to variables
by then decides: nothing, all of the step, or a part of it, which is put back where it can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer.capture.eager_state import EagerState
from steptrace_tracer.session.failure import why_ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.capture.proven_step import ProvenStep
    from steptrace_tracer.capture.step_result import StepResult

HALF_DONE: Final = (
    "some weights may have been changed by the step that failed, and others not, so that it was "
    "not done again without the tracer; if it fails without the tracer too, start again from a "
    "checkpoint without the cause, else with Tracer(capture='beside') or with fewer kinds"
)


class StepAttempt:
    """A step, tried with the tracer.

    Parameters
    ----------
    capture
        What runs it with its taps.
    original
        Does the same step without the tracer.
    """

    def __init__(self, capture: ProvenStep, original: Callable[[], Any]) -> None:
        self._capture = capture
        self._original = original
        self._original_began = False
        self._result: tuple[Any, ...] = ()
        self._is_half_done = False
        self._state: EagerState | None = None
        capture.traced.progress.prepare()

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], step: int) -> StepResult:
        """Do the step with its taps.

        Parameters
        ----------
        args, kwargs
            The arguments of the program's step.
        step
            Its number.
        """
        if self._capture.program.eager:  # a compiled one copies its variables where it runs twice
            self._capture.traced.prepare(args, kwargs)  # which may make variables
            self._state = EagerState(self._capture.program)
        return self._capture.run(args, kwargs, step, self._run_original)

    def rescued(self, error: Exception) -> Any:
        """Return what the step returns without the tracer, once `error` has ended it with it.

        The variables are then as the step without the tracer leaves them.

        Raises
        ------
        Exception
            The training's own error, which the step raises without the tracer too; or `error`
            itself, with a note, if some variables may have been changed and cannot be put back.
        """
        if self._capture.may_be_half_done and not self._is_put_back():
            self._is_half_done = True
            error.add_note(f"steptrace: {HALF_DONE}")
            raise error
        if self._result:
            return self._result[0]
        if self._original_began:
            raise error
        if done := self._capture.done:
            return done[0]
        return self._original()

    def reason(self, error: Exception) -> str:
        """Return why the trace ends with an error that was raised for the step."""
        more = f"; {HALF_DONE}" if self._is_half_done else ""
        return f"{why_ended(error)}{more}"

    def _is_put_back(self) -> bool:
        return self._state is not None and self._state.put_back()

    def _run_original(self) -> Any:
        self._original_began = True
        result = self._original()
        self._result = self._result or (result,)  # what is done again is put back again
        return result
