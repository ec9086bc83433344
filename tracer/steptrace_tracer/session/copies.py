"""Copies of a tracer, as a search over hyper-parameters makes of the callbacks of each trial."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.session.settings import Settings

T = TypeVar("T")

_SAME: Final = (
    *("policy", "probe", "on_error", "progress", "journal_limit", "resume", "capture"),
    *("sample_ids", "incidents", "incident_bytes"),
)


def copied(
    tracer: T, begin: Callable[..., None], settings: Settings, number: int, **more: Any
) -> T:
    """Return a tracer with the same settings, of another trace, which has recorded nothing yet.

    Parameters
    ----------
    tracer
        The tracer.
    begin
        The ``__init__`` that takes its settings, which that of a subclass need not.
    settings
        Its settings.
    number
        Of the trace, counted from 1.
    more
        Arguments of `begin` that are not among the settings.
    """
    other = type(tracer).__new__(type(tracer))
    vars(other).update(vars(tracer))  # what a subclass has added
    same = {name: getattr(settings, name) for name in _SAME}
    watch = {"watch": settings.live.rules, "on_finding": settings.live.on_finding}
    # Each process of a job adds its own name to the path that it was given.
    path = settings.path if settings.worker is None else settings.path.parent
    begin(other, path.parent / numbered(path.name, number), **same, **watch, **more)
    return other


def numbered(name: str, number: int) -> str:
    """Return the name of trace `number`, counted from 1, of those that are called `name`.

    Examples
    --------
    >>> [numbered("run.zarr", number) for number in (1, 2)]
    ['run.zarr', 'run-2.zarr']
    """
    own = PurePosixPath(name)
    return name if number == 1 else f"{own.stem}-{number}{own.suffix}"
