"""What is recorded, and when."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from steptrace_schema.format.retention import MARK, TRIGGERS, Retain, RetainAround
from steptrace_schema.names import DEFAULT_KINDS, Kind

Durability = Literal["process", "fsync"]
"""What recorded steps survive: ``process`` the death of every process, as files do that the
operating system has taken over; ``fsync`` also a loss of power, which costs a wait for the disk at
every step."""


Profile = Literal["fast", "compact", "none"]
"""How arrays are encoded, without loss. ``fast`` compresses with core Zarr codecs; ``compact``
compresses most, with pcodec, which readers need the package numcodecs[pcodec] for; ``none`` does
not compress."""


Precision = Literal["bfloat16"] | Annotated[int, Field(ge=1, le=52)]
"""Bits of the mantissa that are kept, or the name of a type that has as many."""


Samples = (
    Literal["auto"] | Annotated[int, Field(ge=1)] | Annotated[tuple[int, ...], Field(min_length=1)]
)
"""How many samples of a batch are kept, or the ids of those that are."""


StatisticsKind = Literal["weights", "gradients", "activations", "activation_gradients"]
"""Kinds that may be recorded by their statistics alone."""


MOST_SAMPLES: Final = 4
"""Samples of a batch that are kept by default, where they are small."""


_BFLOAT16_BITS: Final = 7


SACRIFICES: Final[tuple[Kind, ...]] = (
    "probe_gradients",
    "optimizer",
    "activation_gradients",
    "activations",
    "probe",
    "inputs",
    "updates",
    "gradients",
    "weights",
)
"""What is left out of a step that takes more bytes than the policy allows, first to last."""


def _ordered(window: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= window[0] < window[1]:
        msg = f"the window {window} must begin at 0 or later, and end after its beginning"
        raise ValueError(msg)
    return window


Window = Annotated[tuple[int, int], AfterValidator(_ordered)]
"""A range of steps: from the first number, and before the second."""


class Policy(BaseModel):
    """What is recorded, and when.

    Parameters
    ----------
    kinds
        Kinds to record. ``scalars`` is always recorded. ``updates`` is recorded only where it
        cannot be derived from consecutive weights; with ``weights`` it needs no mention here.
    every
        Record steps whose number is a multiple of this.
    windows
        Record only steps in one of these ranges, ``((0, 100), (5000, 5100))``: from the first
        number, and before the second; all steps where there are none.
    epochs
        Record only steps of these epochs, counted from 0; None for all.
    samples
        How many of the first rows of each batch are kept of inputs, activations and their
        gradients; or the ids of samples that are kept wherever they occur, which takes
        ``Tracer(sample_ids=...)``. ``"auto"`` is at most `MOST_SAMPLES`, and fewer, but one, where
        they would take more than the weights and their gradients do, and more than 4 MiB; the trace
        says how many.
    include, exclude
        Shell patterns on array paths (``"*/conv2d*/kernel"``, ``"*dense*"``); a tensor is recorded
        if any of `include` matches and none of `exclude` does.
    precision
        Per kind, how many bits of each number's mantissa are kept (a float32 has 23), or
        ``"bfloat16"``, which are 7; numbers are rounded to the nearest, and to even between two.
        Kinds that are not named are recorded as they are.
    statistics_only
        Kinds of which only the statistics are recorded.
    step_bytes
        The most bytes that a step may take, before encoding. Kinds are left out until it does, in
        the order of `SACRIFICES`; what is left out is listed as missing.
    total_bytes
        The most bytes that all steps may take, before encoding. When they are used up, the
        recording ends, and the training goes on without it.
    disk_limit
        The most bytes that the trace may take on disk, store and journal together, at every moment:
        the lengths of all files, as ``ls -l`` shows them. A disk gives space in blocks, so that
        each file and folder takes up to one block (mostly 4 KiB) more. In a job of several
        processes the limit is that of each. As it is used up, fewer and fewer steps keep their
        tensors; when not even statistics have room, the recording ends, and the training goes on
        without it.
    probe_unit
        The unit whose gradient ``probe_gradients`` holds; None for the strongest of each sample.
    profile
        How arrays are encoded in the store.
    durability
        What recorded steps survive: ``process`` the death of every process, ``fsync`` also a loss
        of power.
    retain
        Which recorded steps keep their tensors: ``"all"``, or what `retention.last` and
        `retention.around` return. Statistics and scalars are kept of all. ``update_jump`` compares
        recorded weights: without them ``around()``, which names no trigger, watches the others,
        and a policy that names it is refused.

    Examples
    --------
    >>> policy = Policy(kinds=("weights", "gradients"), exclude=("*/bias",))
    >>> policy.covers("weights", "dense/kernel"), policy.covers("weights", "dense/bias")
    (True, False)
    >>> Policy(every=10).records_step(20)
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = DEFAULT_KINDS
    every: Annotated[int, Field(ge=1)] = 1
    windows: tuple[Window, ...] = ()
    epochs: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    samples: Samples = "auto"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    precision: dict[Kind, Precision] = Field(default_factory=dict)
    statistics_only: tuple[StatisticsKind, ...] = ()
    step_bytes: Annotated[int, Field(ge=1)] | None = None
    total_bytes: Annotated[int, Field(ge=1)] | None = None
    disk_limit: Annotated[int, Field(ge=1)] | None = None
    probe_unit: Annotated[int, Field(ge=0)] | None = None
    profile: Profile = "fast"
    durability: Durability = "process"
    retain: Retain = "all"

    @field_validator("retain")
    @classmethod
    def _with_triggers_that_show(cls, retain: Retain, info: ValidationInfo) -> Retain:
        """Leave a trigger out that no record can show, and refuse it where it is named."""
        if not isinstance(retain, RetainAround) or "update_jump" not in retain.triggers:
            return retain
        if "weights" in info.data.get("kinds", ()) and "weights" not in info.data.get(
            "statistics_only", ()
        ):
            return retain
        if set(retain.triggers) != set(TRIGGERS):
            msg = (
                "the trigger 'update_jump' compares recorded weights, of which this policy records "
                "no values; add 'weights' to kinds and take it out of statistics_only, or leave "
                "the trigger out"
            )
            raise ValueError(msg)
        return retain.model_copy(
            update={"triggers": tuple(t for t in retain.triggers if t != "update_jump")}
        )

    @property
    def rows(self) -> int | None:
        """How many of the first rows of a batch a step returns; None for all, to be picked."""
        return None if self.picks_samples else self.sample_count

    @property
    def sample_count(self) -> int:
        """The most samples that are kept of a batch."""
        if isinstance(self.samples, tuple):
            return len(self.samples)
        return MOST_SAMPLES if self.samples == "auto" else self.samples

    @property
    def picks_samples(self) -> bool:
        """Whether samples are kept by their id."""
        return isinstance(self.samples, tuple)

    @property
    def _retains_marks(self) -> bool:
        return isinstance(self.retain, RetainAround) and "mark" in self.retain.triggers

    @property
    def derives_updates(self) -> bool:
        """Whether updates follow from the weights: every step is recorded, and they are exact."""
        return (
            self.every == 1
            and not self.windows
            and self.epochs is None
            and "weights" in self.kinds
            and "weights" not in self.precision
            and "weights" not in self.statistics_only
        )

    def records_step(self, step: int, epoch: int = 0) -> bool:
        """Whether step number `step`, of epoch number `epoch`, is recorded."""
        return (
            step % self.every == 0
            and (not self.windows or any(start <= step < stop for start, stop in self.windows))
            and (self.epochs is None or epoch in self.epochs)
        )

    def only_describes(self, kind: str) -> bool:
        """Whether only the statistics of `kind` are recorded; of updates, if of weights."""
        return ("weights" if kind == "updates" else kind) in self.statistics_only

    def keep_bits(self, kind: Kind) -> int | None:
        """Return how many bits of the mantissa are kept in arrays of `kind`, None for all.

        Updates are rounded as the weights are, where they are not named.
        """
        rounded_as = "weights" if kind == "updates" and kind not in self.precision else kind
        precision = self.precision.get(rounded_as)
        return _BFLOAT16_BITS if precision == "bfloat16" else precision

    def covers(self, kind: Kind, path: str) -> bool:
        """Whether the array at `path` of `kind` is recorded; scalars always, and used marks."""
        if kind == "scalars":
            return True
        if f"{kind}/{path}" == MARK and self._retains_marks:
            return True
        wanted = kind in self.kinds
        if kind == "updates":
            wanted = (wanted or "weights" in self.kinds) and not self.derives_updates
        return (
            wanted
            and any(fnmatchcase(path, pattern) for pattern in self.include)
            and not any(fnmatchcase(path, pattern) for pattern in self.exclude)
        )
