"""Every name that a trace uses, in one place: kinds, arrays, dimensions, statistics."""

from typing import Final, Literal, get_args

Kind = Literal[
    "scalars",
    "weights",
    "gradients",
    "updates",
    "activations",
    "activation_gradients",
    "inputs",
    "probe",
    "optimizer",
    "validation",
    "logged",
    "probe_gradients",
]
"""The kinds of data that a step can record; each is a top-level group of the store."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""All kinds, in the order in which a training step produces them."""

DEFAULT_KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind != "optimizer")
"""The kinds that are recorded unless a policy says otherwise: those that cost little."""

STATISTICS: Final = "statistics"
"""Group that holds one group of statistics per kind."""

INCIDENTS: Final = "incidents"
"""Group that holds one group for each step that is kept as a whole, since something broke at it."""

FINAL: Final = "final"
"""Group with the weights that the model ended with, where the last step left others."""

STATISTICS_VALUES: Final = "values"
"""The array inside each group of statistics."""

ATTRIBUTES_KEY: Final = "steptrace"
"""The key of the root group's attributes under which everything about the trace stands."""

DIGESTS: Final = "digests"
"""The array beside it with a digest of each tensor that the statistics describe."""

KEEP_BITS: Final = "keep_bits"
"""The attribute of an array whose numbers were rounded: bits of the mantissa that are kept."""

# Dimensions
STEP: Final = "step"
SAMPLE: Final = "sample"
BATCH: Final = "batch"
TENSOR: Final = "tensor"
STATISTIC: Final = "statistic"
OUT: Final = "out"
IN: Final = "in"

# scalars
LOSS: Final = "loss"
LEARNING_RATE: Final = "learning_rate"
EPOCH: Final = "epoch"
BATCH_INDEX: Final = "batch"
BATCH_SIZE: Final = "batch_size"
WALL_TIME: Final = "wall_time"
STEP_DURATION: Final = "step_duration"
REQUIRED_SCALARS: Final = (
    LOSS,
    LEARNING_RATE,
    EPOCH,
    BATCH_INDEX,
    BATCH_SIZE,
    WALL_TIME,
    STEP_DURATION,
)
"""Arrays that every trace has under ``scalars``."""
METRICS: Final = "metrics"
"""Group below ``scalars`` with one array per metric."""
LOSSES: Final = "losses"
"""Group below ``scalars`` with one array per loss, where a step differentiates several."""
LEARNING_RATES: Final = "learning_rates"
"""Group below ``scalars`` with one array per optimizer, where a step uses several."""
LOSS_SCALE: Final = "loss_scale"
"""The factor that mixed precision multiplies the loss by before it is differentiated."""

SKIPPED: Final = "skipped"
"""Whether the optimizer skipped the step, because a gradient times that factor was not finite."""

# inputs, activations, probe
X: Final = "x"
Y: Final = "y"
X_GRADIENT: Final = "x_gradient"
SAMPLE_DIGEST: Final = "sample_digest"
SAMPLE_REPLICA: Final = "sample_replica"
SAMPLE_ID: Final = "sample_id"
RECORDED_ID: Final = "recorded_id"
SAMPLE_LOSS: Final = "sample_loss"
SAMPLE_WEIGHT: Final = "sample_weight"
SAMPLE_STATISTICS: Final = "sample_statistics"
"""Sizes of every sample's inputs and targets; also the root attribute that names its columns."""
OUTPUT: Final = "output"
CARRIED: Final = "carried"
"""The state that a recurrent layer carries into the step, from the batch before."""
PREACTIVATION: Final = "preactivation"

# probe_gradients
SALIENCY: Final = "saliency"
SALIENCY_NORM: Final = "norm"
SALIENCY_UNIT: Final = "unit"

Status = Literal["recording", "complete", "incomplete"]
"""How far a trace is: still being written, closed by its run, or ended without being closed."""

StatisticName = Literal[
    "mean",
    "std",
    "min",
    "max",
    "l1",
    "l2",
    "zeros",
    "nan",
    "inf",
    "p01",
    "p05",
    "p25",
    "p50",
    "p75",
    "p95",
    "p99",
]
STATISTIC_NAMES: Final[tuple[StatisticName, ...]] = get_args(StatisticName)
"""The statistics of every recorded tensor, in the order of the ``statistic`` dimension."""

METADATA_FILE: Final = "zarr.json"
"""Name of the file with the metadata of a group or array."""
