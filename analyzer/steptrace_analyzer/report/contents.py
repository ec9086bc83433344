"""What the page holds, as plain data that the templates write as HTML."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def step_place(step: int) -> str:
    """Return the id of the control that chooses a step, and the place of what is shown then."""
    return f"step-{step}"


def figure_place(step: int) -> str:
    """Return the place of what is drawn at a step, and shown for the steps around it too."""
    return f"figure-{step}"


def layer_place(step: int) -> str:
    """Return the place of a layer's figures of a step; shown for the steps around it too."""
    return f"layer-{step}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as an image inside the page."""

    source: str
    """A ``data:`` address."""
    alt: str
    """What it shows, for whoever cannot see it."""
    width: int
    height: int
    """In CSS pixels."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture, or the reason why there is none."""

    picture: Picture | None
    reason: str = ""
    place: str | None = None
    """:func:`step_place` or :func:`figure_place` of its step; None where it is always shown."""
    numbers: Table | None = None
    """What it shows, as numbers."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Pictures of one view of a layer."""

    title: str
    shown: tuple[Shown, ...]


@dataclasses.dataclass(frozen=True)
class Moving:
    """One array at many steps, with one range of colours.

    Parameters
    ----------
    title, note
        What it is, and what the reader must know.
    low, high, bar
        The ends of the colours, and a strip of them; None where there is no picture.
    shown
        A picture for each step.
    """

    title: str
    note: str
    low: str
    high: str
    bar: Picture | None
    shown: tuple[Shown, ...]


def pictures_size(shown: Iterable[Shown]) -> int:
    """Return the characters that pictures take on the page."""
    return sum(len(one.picture.source) for one in shown if one.picture is not None)


@dataclasses.dataclass(frozen=True)
class LayerSection:
    """One layer's part of the page: its figures, or the command that draws them."""

    anchor: str
    path: str
    figures: tuple[Figures, ...] = ()
    command: str = ""
    thumbnails: tuple[Shown, ...] = ()
    moving: tuple[Moving, ...] = ()

    @property
    def size(self) -> int:
        """Characters that its pictures take on the page."""
        views = [view.shown for view in self.figures] + [view.shown for view in self.moving]
        return pictures_size(self.thumbnails) + sum(map(pictures_size, views))


@dataclasses.dataclass(frozen=True)
class Fact:
    """A name with its value."""

    name: str
    value: str


@dataclasses.dataclass(frozen=True)
class Link:
    """A cell that leads to a part of the page."""

    text: str
    anchor: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that scrolls sideways where it is too wide.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Cells of each row.
    numbers
        How many of the last columns are numbers, set flush right.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str | Link, ...], ...]
    numbers: int = 0


@dataclasses.dataclass(frozen=True)
class Told:
    """A finding in words."""

    heading: str
    text: str
    step: int
    control: str | None
    """Id of the control that shows the figures of its step; None where the page has none."""
    effects: tuple[str, ...] = ()
    """What it led to, in the order of time."""
    remedy: str = ""
    """What to do."""


@dataclasses.dataclass(frozen=True)
class StepChoices:
    """The steps of the page, and the one it shows at first.

    Parameters
    ----------
    steps
        Ascending; all can be chosen.
    chosen
        The one that is shown at first; None where there is none.
    drawn
        Those with figures of the whole model, which are shown for the steps around them, too.
    closely
        Those with all figures of every layer.
    """

    steps: tuple[int, ...]
    chosen: int | None
    drawn: tuple[int, ...] = ()
    closely: tuple[int, ...] = ()

    @property
    def controls(self) -> tuple[tuple[int, str], ...]:
        """The steps, and the ids of the controls that choose them."""
        return tuple((step, step_place(step)) for step in self.steps)

    def places(self, step: int) -> tuple[str, ...]:
        """Return the places of what is shown while a step is chosen."""
        found = [step_place(step)]
        for prefix, steps in (("figure", self.drawn), ("layer", self.closely)):
            if steps:
                nearest = min(steps, key=lambda other: (abs(other - step), other))
                found.append(f"{prefix}-{nearest}")
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole page.

    Parameters
    ----------
    title, lead
        Of the page, and one sentence below it.
    choices
        The steps to choose from; may be none.
    summary, kinds
        What the trace is, and what it holds of each kind.
    findings
        The biggest first.
    loss, gradients
        Pictures over all steps.
    whole
        Views of the whole model: its flow, the way of its parameters, its sensitivity.
    layers
        The model's layers; None where the trace does not describe them.
    sections
        The layers that have figures.
    missing
        What was declared and has no data; None where nothing is missing.
    events
        What happened to the recording.
    policy, optimizer, environment
        How it was recorded.
    """

    title: str
    lead: str
    choices: StepChoices
    summary: tuple[Fact, ...]
    kinds: Table | None
    findings: tuple[Told, ...]
    loss: Shown | None
    gradients: Shown | None
    whole: tuple[Figures, ...]
    layers: Table | None
    sections: tuple[LayerSection, ...]
    missing: Table | None
    events: Table | None
    policy: tuple[Fact, ...]
    optimizer: tuple[Fact, ...]
    environment: tuple[Fact, ...]
