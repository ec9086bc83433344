"""Running one recorded step again in place of a training: what stands in for a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from steptrace_tracer.session.substitute import Substitute

if TYPE_CHECKING:
    from collections.abc import Callable

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


REPLAYER: Final = Substitute[Replayer]()
"""Takes the place of every recording, where there is one."""
