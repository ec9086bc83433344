"""The end of a recording, as the person at the terminal sees it."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steptrace_schema.errors import TraceError
from steptrace_schema.human import human_bytes
from steptrace_schema.validate.coverage import summarize

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from steptrace_schema.names import Status
    from steptrace_tracer.record.recording import Recording
    from steptrace_tracer.record.summary import Summary
    from steptrace_tracer.session.settings import Settings
    from steptrace_tracer.session.time_spent import TimeSpent


QUIET_VARIABLE: Final = "STEPTRACE_QUIET"
"""Environment variable that, set to 1, has recordings print nothing but warnings."""

_NO_STEP: Final = (
    "{}: this training did no step that could be recorded, so that nothing was written; it did "
    "none at all (epochs=0, an empty data set), or one that built the model"
)


class ClosingProgress:
    """A progress bar on standard error for the records that are left; nothing off a terminal.

    Parameters
    ----------
    shown
        False for none on a terminal either.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]steptrace[/] writing the trace"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not (shown and self._console.is_terminal),
        )
        self._task = self._progress.add_task("moving", total=None)
        self._most = 0

    def showing(self) -> AbstractContextManager[object]:
        """Show the bar inside the context."""
        # Rich before 14.3 prints an empty line at the end of a bar that it does not show.
        return nullcontext() if self._progress.disable else self._progress

    @property
    def waiting(self) -> Callable[[int], None]:
        """What to call with the number of records still waiting."""
        return self._update

    def _update(self, pending: int) -> None:
        self._most = max(self._most, pending)
        self._progress.update(self._task, total=self._most, completed=self._most - pending)


def is_quiet() -> bool:
    """Whether ``STEPTRACE_QUIET`` asks for nothing to be printed but warnings."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def describe(summary: Summary, spent: TimeSpent, *, brief: bool = False) -> str:
    """Return the summary at the end of a run, in a few lines.

    Parameters
    ----------
    summary
        What was recorded.
    spent
        How long the steps took.
    brief
        Whether to say it in one line, as after each of several fits.
    """
    steps = max(1, summary.steps)
    lines = [
        f"steptrace: {summary.steps} steps recorded in {summary.path} ({summary.status})",
        f"  {human_bytes(summary.raw_bytes)} of tensors, "
        f"{human_bytes(summary.raw_bytes / steps)} a step, "
        f"stored in {human_bytes(summary.stored_bytes)}",
        f"  {spent}",
    ]
    if brief:
        return lines[0]
    lines.insert(2, f"  {summarize(summary.coverage)}")
    if summary.missing:
        named = ", ".join(f"{m.kind}/{m.path}" for m in summary.missing[:3])
        more = f" and {len(summary.missing) - 3} more" if len(summary.missing) > 3 else ""
        lines.append(f"  not recorded, with the reason in the trace: {named}{more}")
    lines.append(f"  look at it: steptrace info {summary.path}")
    return "\n".join(lines)


def report(text: str) -> None:
    """Print `text` on standard error."""
    Console(stderr=True, highlight=False).print(escape(text), soft_wrap=True)


def finish(
    recording: Recording | None,
    status: Status,
    reason: str | None,
    settings: Settings,
    spent: TimeSpent,
) -> TraceError | None:
    """Finish a recording, and say what it holds; return what went wrong.

    Parameters
    ----------
    recording, status, reason
        What ends, and how; a training without a step has no recording.
    settings
        Whether anything is shown.
    spent
        How long the steps took.
    """
    if recording is None:
        if status == "complete":
            warnings.warn(_NO_STEP.format(settings.path), RuntimeWarning, stacklevel=4)
        return None
    bar = ClosingProgress(shown=settings.progress)
    try:
        with bar.showing():
            summary = recording.close(status, reason, bar.waiting)
    except TraceError as error:
        return error
    if summary is not None and settings.progress:
        report(describe(summary, spent, brief=settings.resume))
    if summary is None and status == "complete":
        warnings.warn(_nothing_recorded(settings), RuntimeWarning, stacklevel=4)
    return None


def _nothing_recorded(settings: Settings) -> str:
    policy = settings.policy
    chosen = {"every": policy.every, "windows": policy.windows, "epochs": policy.epochs}
    given = ", ".join(
        f"{name}={value}" for name, value in chosen.items() if value not in ((), None)
    )
    return (
        f"{settings.path}: no step of this training was recorded, so that there is no trace; the "
        f"policy wants none of its steps ({given}; a loop of tracer.wrap has epoch 0 alone)"
    )
