"""What is recorded, and when."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
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


MAX_SLOWDOWN: Final = 0.1
"""How much longer a training may take for the recording, where ``every`` is ``"auto"``."""


_BFLOAT16_BITS: Final = 7


_CLOSE_ROWS: Final = 16
"""Recorded steps up to this one are differentiated by fours, later ones ever more rarely."""


Often = Literal["auto"] | Annotated[int, Field(ge=1)]
"""Every how many recorded steps something is done, or ``"auto"``."""


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
        Kinds to record. ``scalars`` is always recorded. ``updates`` is recorded only if it cannot
        be derived from consecutive weights; ``weights`` includes it.
    every
        Record the steps whose number is a multiple of this. ``"auto"`` stands for 1 with a
        `max_slowdown` of 0.1, where that is not given.
    max_slowdown
        How much longer the training may take for the recording, as a part of its time: 0.1 for a
        tenth. The tracer measures that while it records, and takes the smallest interval of
        `every` times 1, 2, 5, 10, 20, 50, ... that keeps it. The trace says which, from which step
        on, and why. None records at the interval `every`, however long it takes.
    windows
        Record only the steps in these ranges: ``((0, 100), (5000, 5100))``. The first number
        belongs to a range, the second does not. Empty means all steps.
    epochs
        Record only the steps of these epochs, counted from 0; None means all.
    samples
        How many samples of each batch are recorded in inputs, activations and their gradients: a
        number, which takes the first rows of the batch, or a tuple of ids, which takes these
        samples wherever they occur and needs ``Tracer(sample_ids=...)``. ``"auto"`` takes
        `MOST_SAMPLES`. It takes fewer, but at least one, if these need more than 4 MiB and more
        than the weights and their gradients. The trace says how many.
    include, exclude
        Shell patterns on array paths (``"*/conv2d*/kernel"``, ``"*dense*"``); a tensor is recorded
        if any of `include` matches and none of `exclude` does.
    precision
        For each kind, how many bits of the mantissa are kept (a float32 has 23), or ``"bfloat16"``,
        which keeps 7. Numbers are rounded to the nearest one, ties to even. Kinds that are not
        named are recorded exactly.
    statistics_only
        Kinds of which only the statistics are recorded.
    step_bytes
        The most bytes of one step, before encoding. Kinds are left out in the order of
        `SACRIFICES` until the step fits. The trace lists them as missing.
    total_bytes
        The most bytes of all steps, before encoding. When they are used up, the recording ends
        and the training continues.
    sample_statistics
        Whether ``inputs/sample_statistics`` is recorded: the root mean square, mean and largest
        magnitude of each input and target of every sample of the batch, and how many of its values
        are not finite; the category where it is one.
    disk_limit
        The most bytes of the trace on disk, store and journal together, at every moment. It counts
        the lengths of files, as ``ls -l`` shows them. A disk gives space in blocks, so each file
        and folder takes up to one block (usually 4 KiB) more. In a job of several processes the
        limit applies to each. As it is used up, fewer and fewer steps keep their tensors. When
        not even statistics have room, the recording ends and the training continues.
    probe_gradients_every
        Of which recorded steps the probe is differentiated: a number ``n`` takes every n-th of
        them, and all layers. ``"auto"`` takes the first one, and then two for each doubling of
        their number (4, 8, 12, 16, 24, 32, 48, ...), of at most 8 layers, while this takes less
        than a hundredth of the processor time of the process, and 0.3 seconds; fewer while a pass
        is not compiled yet.
    probe_unit
        The unit whose gradient ``probe_gradients`` holds. None takes the unit with the largest mean
        activation, for each sample.
    profile
        How arrays are encoded in the store: ``fast``, ``compact`` or ``none``, always lossless.
    durability
        What recorded steps survive: ``process`` the death of every process, ``fsync`` also a loss
        of power.
    retain
        Which recorded steps keep their tensors: ``"all"``, or the result of `last` or `around`.
        All steps keep statistics and scalars. The trigger ``update_jump`` compares recorded
        weights. Without them, ``around()`` watches the other triggers, and a policy that names
        ``update_jump`` is refused.

    Examples
    --------
    >>> policy = Policy(kinds=("weights", "gradients"), exclude=("*/bias",))
    >>> policy.covers("weights", "dense/kernel"), policy.covers("weights", "dense/bias")
    (True, False)
    >>> Policy(every=10).records_step(20)
    True
    >>> Policy(every="auto").max_slowdown
    0.1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = DEFAULT_KINDS
    every: Annotated[int, Field(ge=1)] = 1
    max_slowdown: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    windows: tuple[Window, ...] = ()
    epochs: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    samples: Samples = "auto"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    precision: dict[Kind, Precision] = Field(default_factory=dict)
    statistics_only: tuple[StatisticsKind, ...] = ()
    sample_statistics: bool = True
    step_bytes: Annotated[int, Field(ge=1)] | None = None
    total_bytes: Annotated[int, Field(ge=1)] | None = None
    disk_limit: Annotated[int, Field(ge=1)] | None = None
    probe_gradients_every: Often = "auto"
    probe_unit: Annotated[int, Field(ge=0)] | None = None
    profile: Profile = "fast"
    durability: Durability = "process"
    retain: Retain = "all"

    @model_validator(mode="before")
    @classmethod
    def _with_every_in_numbers(cls, fields: Any) -> Any:
        """Write ``every="auto"`` as numbers, which readers of all versions understand."""
        if not isinstance(fields, dict) or fields.get("every") != "auto":
            return fields
        slowdown = fields.get("max_slowdown")
        return {
            **fields,
            "every": 1,
            "max_slowdown": MAX_SLOWDOWN if slowdown is None else slowdown,
        }

    @field_validator("every", mode="before")
    @classmethod
    def _every_is_a_number(cls, every: Any) -> Any:
        if isinstance(every, str) and not every.isdecimal():
            msg = f"every is a number of steps, or 'auto'; found {every!r}"
            raise ValueError(msg)
        return every

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
        """Whether updates follow from the weights: every step is recorded, and they are exact.

        Also where these are only described, which the recorder does.
        """
        return (
            self.every == 1
            and self.max_slowdown is None
            and not self.windows
            and self.epochs is None
            and "weights" in self.kinds
            and "weights" not in self.precision
        )

    def records_step(self, step: int, epoch: int = 0, every: int | None = None) -> bool:
        """Whether step number `step`, of epoch number `epoch`, is recorded.

        Where there is a `max_slowdown`, `every` is the present interval.
        """
        return (
            step % (every or self.every) == 0
            and (not self.windows or any(start <= step < stop for start, stop in self.windows))
            and (self.epochs is None or epoch in self.epochs)
        )

    def next_probe_gradients(self, row: int) -> int:
        """Return the number of the first recorded step, from `row` on, with gradients of the probe.

        Examples
        --------
        >>> [Policy().next_probe_gradients(row) for row in (0, 1, 5, 17, 25, 49)]
        [0, 4, 8, 24, 32, 64]
        """
        if self.probe_gradients_every != "auto":
            return -(-row // self.probe_gradients_every) * self.probe_gradients_every
        if row <= _CLOSE_ROWS:
            return -(-row // 4) * 4
        power = 1 << (row - 1).bit_length()
        return power // 4 * 3 if row <= power // 4 * 3 else power

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
