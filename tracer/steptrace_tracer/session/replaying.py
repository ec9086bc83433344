"""Running one recorded step again in place of a training: what stands in for a recording."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_tracer.capture.proven_step import ProvenStep
    from steptrace_tracer.session.settings import Settings


class Replayer(Protocol):
    """What takes the place of a recording."""

    def settings(self, settings: Settings) -> Settings:
        """Return how a recording is made that writes nothing into the user's traces."""

    def step(
        self,
        capture: ProvenStep,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        original: Callable[[], Any],
    ) -> Any:
        """Do a step of the script, or the recorded one, and end the script."""


_makers: list[Callable[[], Replayer]] = []
_made: list[Replayer] = []


@contextmanager
def replaying(make: Callable[[], Replayer]) -> Iterator[None]:
    """Have what `make` returns take the place of every recording that begins inside the context.

    It is made when the first one begins, since it needs TensorFlow.
    """
    _makers.append(make)
    try:
        yield
    finally:
        _makers.clear()
        _made.clear()


def present() -> Replayer | None:
    """Return what takes the place of recordings at present, None in a training as usual."""
    if _makers and not _made:
        _made.append(_makers[-1]())
    return _made[-1] if _made else None
