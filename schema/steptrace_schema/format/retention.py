"""Which steps keep their tensors.

Statistics, scalars, logged and validation values are kept of every recorded step. Tensors of the
newest steps wait in the journal, in full, until it is clear whether they are to be kept.
"""

from __future__ import annotations

import abc
from typing import Annotated, Final, Literal, TypeAlias, final, get_args

from pydantic import BaseModel, ConfigDict, Field

Trigger = Literal["non_finite", "update_jump", "mark", "crash"]
"""``non_finite``: the loss or a gradient is NaN or infinite; ``update_jump``: the norm of the
update that led to the weights is more than 5 times the median of the 50 before it; ``mark``:
`Tracer.mark` was called; ``crash``: the run did not come to its end."""

TRIGGERS: Final[tuple[Trigger, ...]] = get_args(Trigger)
"""All triggers."""

ALWAYS_KEPT: Final = ("scalars", "validation", "logged")
"""Kinds that are kept of every step, whatever is retained."""

MARK: Final = "logged/mark"
"""The logged value that marks a step."""


class _Retain(BaseModel, abc.ABC):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abc.abstractmethod
    def waiting(self) -> int:
        """How many of the newest steps wait until it is clear whether they are kept."""


@final
class RetainLast(_Retain):
    """Keep the tensors of the last steps, and of every few before them; see :func:`last`."""

    mode: Literal["last"] = "last"
    steps: Annotated[int, Field(ge=1)]
    every: Annotated[int, Field(ge=1)] | None = None

    @property
    def waiting(self) -> int:
        """How many of the newest steps wait: those that would be kept if the run ended now."""
        return self.steps


@final
class RetainAround(_Retain):
    """Keep the tensors of the steps around triggers; see :func:`around`."""

    mode: Literal["around"] = "around"
    triggers: Annotated[tuple[Trigger, ...], Field(min_length=1)]
    before: Annotated[int, Field(ge=1)] = 10
    after: Annotated[int, Field(ge=0)] = 10

    @property
    def waiting(self) -> int:
        """How many of the newest steps wait: those that a trigger may still want."""
        return self.before


Retain: TypeAlias = (
    Literal["all"] | Annotated[RetainLast | RetainAround, Field(discriminator="mode")]
)
"""Which steps keep their tensors: ``"all"``, or what :func:`last` or :func:`around` return."""


def last(steps: int, every: int | None = None) -> RetainLast:
    """Keep the tensors of the last recorded steps.

    Parameters
    ----------
    steps
        How many of the last steps keep their tensors; they wait in the journal, which has to have
        room for them.
    every
        Of the older ones, steps whose number is a multiple of this keep them too; none if None.

    Examples
    --------
    >>> last(100, every=1000).steps
    100
    """
    return RetainLast(steps=steps, every=every)


def around(*triggers: Trigger, before: int = 10, after: int = 10) -> RetainAround:
    """Keep the tensors of the steps around triggers.

    Parameters
    ----------
    triggers
        What makes steps worth keeping: ``non_finite``, ``update_jump``, ``mark`` or ``crash``. If
        none is given, all for which the policy records enough.
    before, after
        How many steps before and after the step with the trigger are kept too.

    Examples
    --------
    >>> around("non_finite", "mark", before=20).before
    20
    """
    return RetainAround(triggers=triggers or TRIGGERS, before=before, after=after)


def is_thinned(kind: str) -> bool:
    """Whether the arrays of `kind` lose steps that are not retained."""
    return kind not in ALWAYS_KEPT
