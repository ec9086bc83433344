"""Changing what a wrapped step trains on, for ``steptrace perturb``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from steptrace_tracer.session.substitute import Substitute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from steptrace_tracer.session.settings import Settings

    Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Perturber(Protocol):
    """What changes the training of a script, and where its traces go.

    Attributes
    ----------
    overwrite
        Whether its traces may replace others.
    """

    overwrite: bool

    def settings(self, settings: Settings, *, resume: bool) -> tuple[Settings, bool]:
        """Return how a recording is made, and whether it resumes one."""

    def arguments(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        models: Callable[[], Sequence[Any]],
    ) -> Arguments:
        """Return the arguments of a wrapped step with other inputs."""


PERTURBER: Final = Substitute[Perturber]()
"""Changes every wrapped step, where there is one."""
