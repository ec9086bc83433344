"""Typed models of the attributes of a trace's root group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from steptrace_schema.format.later_versions import (
    minor_of,
    without_newer_kinds,
    without_newer_values,
)
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import STATISTICS, Kind, Status
from steptrace_schema.version import FORMAT_VERSION

if TYPE_CHECKING:
    from typing import Self

    from pydantic.functional_validators import ModelWrapValidatorHandler


class _Model(BaseModel):
    """Frozen; unknown fields of a later minor version are kept on reading."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="null")


Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


class Layer(_Model):
    """One layer of the model."""

    path: str
    """Where the layer's arrays are: its group path inside ``weights``, ``activations``, ..."""
    name: str
    class_name: str
    activation: str | None = None
    """Name of the activation function, None where the layer has none."""
    output_shape: tuple[int | None, ...] | None = None
    """Shape of the output with None for the batch; None where it has several outputs."""
    parameters: int = 0
    trainable: bool = True
    variables: tuple[str, ...] = ()
    """Paths of the layer's own weights inside ``weights``."""
    inputs: tuple[str, ...] | None = None
    """Paths of the layers whose outputs the layer takes; None where that is unknown."""
    data: tuple[str, ...] | None = None
    """Names in the kind ``inputs`` of the data that it takes; None where that is unknown."""


class Model(_Model):
    """The model that was trained."""

    name: str
    class_name: str
    parameters: int
    trainable_parameters: int


class Optimizer(_Model):
    """The optimizer and its configuration."""

    class_name: str
    config: dict[str, Any] = Field(default_factory=dict)


class PhaseOptimizer(Optimizer):
    """An optimizer of a phase."""

    name: str
    learning_rate: float | None = None
    """As the phase began; None where it was not finite."""
    used: bool = True
    """False where other optimizers of the model were given gradients, and this one was not."""


class TargetLoss(_Model):
    """The loss of one output of the model: what it compares with which target."""

    target: str
    """Path of the target inside ``inputs``."""
    name: str
    """Name of the loss."""
    function: str | None = None
    """What Keras calls the function that it computes, None where that is none of Keras' own."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its reduction, and the settings of the function."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What it is multiplied by in the loss of the step."""


class Phase(_Model):
    """Steps that are trained in the same way: a fit, or several that do not differ."""

    step: Count
    """The first of them."""
    optimizers: tuple[PhaseOptimizer, ...] = ()
    loss: str | None = None
    """Name of the loss function."""
    trainable: tuple[str, ...] = ()
    """Paths inside ``weights`` of the weights that are trained."""


class Interval(_Model):
    """From which step on one step in how many is recorded, where the tracer finds that out."""

    step: Count
    every: Annotated[int, Field(ge=1, le=2**53)]
    reason: str
    """One sentence for a person."""
    step_seconds: float | None = None
    """Time of a step that is not recorded; None where it is not known yet."""
    record_seconds: float | None = None
    """What a recorded step adds to the time of the training; None where it is not known yet."""


class Missing(_Model):
    """Why something that the policy covers has no data."""

    kind: Kind
    path: str
    reason: str
    """One sentence for a person."""
    steps: tuple[int, ...] | None = None
    """The steps it is missing at; None for all."""


RESUMED: Final = "recording was resumed here"
"""How the message of an event begins where a recording was resumed."""


class Event(_Model):
    """Something that happened to the recording itself, such as a slow-down or a resumed run."""

    time: str
    message: str
    step: int | None = None


Way = Literal["inside", "beside"]
"""Where tensors are computed: in the training step itself, or beside it from the same values."""


class Proof(_Model):
    """Whether a step that is recorded leaves the same bits as the step without the tracer."""

    step: Count
    time: str
    """UTC, ISO 8601."""
    way: Way
    """How the step was captured."""
    identical: bool
    """Whether every variable that the step may change had the same bits after both."""
    repeats: bool | None = None
    """Whether two runs without the tracer had the same bits; None where that was not asked."""
    note: str | None = None
    """The first variable that differed, or why nothing was compared."""


class Incident(_Model):
    """A step that is kept as a whole, in the group ``incidents/<step>``, and why."""

    step: Count
    time: str
    """UTC, ISO 8601."""
    cause: str
    """``loss``, ``gradient``, ``update``, ``exception`` or ``mark``."""
    reason: str
    """One sentence for a person."""
    message: str | None = None
    """The whole message of the exception."""
    arrays: tuple[str, ...] = ()
    """Paths of its arrays below the group."""
    arguments: tuple[str | None, ...] = ()
    """Of each tensor among the arguments of the step, in their order, the path of its array; null
    for what cannot be kept."""
    not_kept: tuple[str, ...] = ()
    """What a repetition of the step lacks, each a sentence."""
    nbytes: Count = 0
    """Bytes of its arrays."""


class FinalWeights(_Model):
    """The weights that the model ended with, beside those that the last step left."""

    step: Count
    """The step that would have followed: the last row of ``weights`` is of it, too."""
    time: str
    """UTC, ISO 8601."""
    cause: str
    """``none`` where the last step left the same weights; else ``averages``, ``restored`` or
    ``other``."""
    reason: str
    """One sentence for a person."""
    compared: Count
    """How many weights were compared."""
    changed: Count
    """How many of them differ from those that the last step left."""
    arrays: tuple[str, ...] = ()
    """Paths of these below the group ``final``, as in ``weights``."""
    same_as: Count | None = None
    """The last step before which they were the same; None where there is none."""
    not_kept: str | None = None
    """Why they are not stored."""
    nbytes: Count = 0
    """Bytes of the arrays."""


class Worker(_Model):
    """Which process of a distributed job recorded the trace."""

    rank: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]


class TraceAttributes(_Model):
    """Everything that the root group says about a trace, under the key ``steptrace``."""

    version: Annotated[str, Field(pattern=r"^\d+\.\d+$")] = FORMAT_VERSION
    run_id: str
    status: Status = "recording"
    status_reason: str | None = None
    created: str
    """UTC, ISO 8601."""
    finished: str | None = None
    producer: str
    """Name and version of the program that recorded the trace."""
    policy: Policy
    declared: dict[Kind, tuple[str, ...]] = Field(default_factory=dict)
    """Paths that the policy covers, per kind."""
    missing: tuple[Missing, ...] = ()
    model: Model | None = None
    layers: tuple[Layer, ...] = ()
    optimizer: Optimizer | None = None
    loss: str | None = None
    """Name of the loss function."""
    losses: tuple[TargetLoss, ...] = ()
    """The losses whose weighted sum is the loss of the task; empty where that is unknown."""
    phases: tuple[Phase, ...] = ()
    """How the steps were trained, by the first step; empty before format 1.3."""
    intervals: tuple[Interval, ...] = ()
    """Which steps are recorded, by the first step; empty where the policy says so itself."""
    worker: Worker | None = None
    """None where the training ran in one process."""
    environment: dict[str, Any] = Field(default_factory=dict)
    events: tuple[Event, ...] = ()
    capture: dict[Kind, Way] = Field(default_factory=dict)
    """Where the tensors of each kind are computed; empty before format 1.3."""
    incidents: tuple[Incident, ...] = ()
    """Steps that are kept as a whole, in the order in which they were moved into the store."""
    final: FinalWeights | None = None
    """The weights that the model ended with; None where that is unknown."""
    sample_statistics: tuple[str, ...] = ()
    """Names of the columns of ``inputs/sample_statistics``: ``x/rms``, ``y/category``, ..."""
    proofs: tuple[Proof, ...] = ()
    """When it was shown that the step is not changed."""
    shard_steps: Annotated[int, Field(ge=1, le=65536)] = 8
    """How many steps one shard, and one commit, spans."""
    steps_recorded: dict[Kind, Count] = Field(default_factory=dict)
    """How many rows of each kind are written; rows beyond are not data."""
    statistics_recorded: dict[Kind, Count] = Field(default_factory=dict)
    """Rows of the statistics of each kind that has more of them than of tensors, because not all
    steps keep their tensors."""
    records: Count = 0
    """How many records of the journal have been moved into the store."""
    checksum: str | None = None
    """Of the root's zarr.json; written by `sealing.sealed`, None before format 1.2."""

    def rows(self, key: str) -> int:
        """Return how many rows of the array at `key` are data."""
        counts = {str(kind): count for kind, count in self.steps_recorded.items()}
        kind = key.partition("/")[0]
        if kind == STATISTICS:
            kind = key.split("/")[1] if "/" in key else ""
            counts |= {str(k): count for k, count in self.statistics_recorded.items()}
        return counts.get(kind, 0)

    @model_validator(mode="wrap")
    @classmethod
    def _without_what_is_newer(cls, fields: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Leave out what a later minor version has added: kinds, fields and values."""
        if not isinstance(fields, dict):
            return handler(fields)
        known = without_newer_kinds(fields)
        try:
            return handler(known)
        except ValidationError as error:
            if minor_of(known.get("version")) <= minor_of(FORMAT_VERSION):
                raise
            return handler(without_newer_values(known, error))

    def layer(self, path: str) -> Layer | None:
        """Return the layer at `path`, or None."""
        return next((layer for layer in self.layers if layer.path == path), None)
