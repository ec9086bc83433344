"""What one traced step gave, and how far it came where it did not end."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one traced step gave, or several together.

    Attributes
    ----------
    result
        What the step returned; of several, the last one.
    tensors
        ``kind/path`` to eager tensor, and the extra taps; of several steps to array, dims
        (step, ...).
    wall_time
        When the step began, or the first one, seconds since 1970.
    duration
        How long it took, or each of them, seconds.
    together
        How many steps these are; None for one, whose tensors have no dimension of steps.
    """

    result: Any
    tensors: dict[str, Any]
    wall_time: float
    duration: float
    together: int | None = None

    @property
    def steps(self) -> int:
        """How many steps these are."""
        return 1 if self.together is None else self.together

    def apart(self) -> list[StepResult]:
        """Return what each step gave."""
        if self.together is None:
            return [self]
        return [
            StepResult(
                self.result,
                {key: values[number] for key, values in self.tensors.items()},
                self.wall_time + number * self.duration,
                self.duration,
            )
            for number in range(self.together)
        ]


class StepProgress:
    """How far a step has come, which decides what may be done when it fails.

    Attributes
    ----------
    runs
        Whether it has begun and not ended: some of its variables may be changed, and others not.
    done
        What it returned, in a tuple, once all that it does to variables is done; else empty.
    """

    def __init__(self) -> None:
        self.runs = False
        self.done: tuple[Any, ...] = ()
        self._failures: list[Exception] | None = None

    def prepare(self) -> None:
        """Note that nothing of the next step has run yet."""
        self.runs, self.done = False, ()

    def begin(self) -> None:
        """Note that the step runs from here on."""
        self.runs, self.done = True, ()

    def end(self, result: Any) -> None:
        """Note that it has done all that it does, and returned `result`."""
        self.runs, self.done = False, (result,)

    @contextmanager
    def putting_back(self) -> Iterator[None]:
        """Note that every variable is as it was before the step, once this has not failed."""
        self.begin()
        yield
        self.runs = False

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Note that nothing runs in the context; where it fails, nothing has run."""
        before, self.runs = self.runs, False
        try:
            yield
        except Exception as error:
            if self._failures is None:
                raise
            self._failures.append(error)
        self.runs = before

    @contextmanager
    def compiling_first(self) -> Iterator[None]:
        """Raise what fails while something is compiled for the first time when it is compiled.

        TensorFlow gives the variables that a function makes, such as the momenta of an optimizer,
        their first values when it has compiled the function, and never if that fails: then the
        training could not continue without the tracer either.
        """
        failures: list[Exception] = []
        self._failures = failures
        try:
            yield
        finally:
            self._failures = None
        if failures:
            raise failures[0]

    def refuse_failed(self) -> None:
        """Raise what has failed already in what is compiled for the first time."""
        if self._failures:
            raise self._failures[0]
