"""A training step done with its taps and without, from the same state."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_tracer.capture.nearby import difference_nearby
from steptrace_tracer.capture.step_result import StepProgress, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_tracer.capture.state import StepState


class Comparison:
    """Does a step with its taps, puts its state back, and does it without them.

    The training continues from what the step without taps left.

    Parameters
    ----------
    state
        The variables that the step may change.
    progress
        How far the step has come.
    traced, original
        Do the step with and without taps.

    Attributes
    ----------
    difference
        The first variable whose bits differ, or what the step returned; None where none does.
    """

    def __init__(
        self,
        state: StepState,
        progress: StepProgress,
        traced: Callable[[], StepResult],
        original: Callable[[], Any],
    ) -> None:
        self._state, self._progress = state, progress
        self._traced, self._original = traced, original
        self._before = state.copy()
        with self._putting_back():
            self._tapped = traced()
            after = state.bits(self._tapped.result)
        self._result = original()
        self._reached = state.bits(self._result)
        self.difference = state.first_difference(after, self._reached)

    def look_nearby(self) -> None:
        """Compare from states around the first one, too; then do the step without taps again."""
        with self._putting_back():
            self.difference = difference_nearby(
                self._state, self._before, lambda: self._traced().result, self._original
            )
        self._result = self._original()

    def repeats(self) -> bool:
        """Do the step without taps again, and return whether it leaves the same bits."""
        self.undo()
        self._result = self._original()
        return self._state.first_difference(self._reached, self._state.bits(self._result)) is None

    def kept(self) -> StepResult:
        """Return what the taps gave, and what the step without them returned."""
        tapped = self._tapped
        return StepResult(self._result, tapped.tensors, tapped.wall_time, tapped.duration)

    def undo(self) -> None:
        """Have the state before the step."""
        self._put_back(self._before)

    @contextmanager
    def undone(self) -> Iterator[Callable[[], Any]]:
        """Have the state before the step in the context.

        Yields what leaves the state that the step without taps left, and returns what it returned.
        """
        left = self._state.copy()

        def again() -> Any:
            self._put_back(left)
            return self._result

        self.undo()
        try:
            yield again
        finally:
            self._put_back(left)

    @contextmanager
    def _putting_back(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.undo()

    def _put_back(self, values: list[Any]) -> None:
        with self._progress.putting_back():
            self._state.put_back(values)
