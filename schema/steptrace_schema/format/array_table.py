"""The arrays of a trace: what each holds, its dims, dtype and unit. Section 7 of SPEC.md."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from steptrace_schema.names import Kind


@dataclasses.dataclass(frozen=True)
class ArrayDefinition:
    """What one array, or every array of one kind, holds.

    Attributes
    ----------
    kind
        The kind.
    name
        Path below the kind's group; ``<layer>`` is a layer's path, ``<variable>`` and ``<metric>``
        are placeholders for a name.
    dims, dtype, unit
        Dimensions, element type, and unit (empty where it depends on the data).
    required
        When the array has to be there.
    meaning
        What row t holds.
    """

    kind: Kind
    name: str
    dims: str
    dtype: str
    unit: str
    required: str
    meaning: str

    def attributes(self) -> dict[str, Any]:
        """Return the attributes to store with an array of this definition."""
        return {"long_name": self.meaning, **({"units": self.unit} if self.unit else {})}


_RECORDED = "if the policy covers it"

ARRAYS: Final[tuple[ArrayDefinition, ...]] = (
    ArrayDefinition(
        "scalars", "loss", "step", "float32", "", "always", "loss of the step's batch, as minimised"
    ),
    ArrayDefinition(
        "scalars",
        "learning_rate",
        "step",
        "float32",
        "1",
        "always",
        "learning rate that the step's update used",
    ),
    ArrayDefinition("scalars", "epoch", "step", "int64", "1", "always", "epoch, counted from 0"),
    ArrayDefinition(
        "scalars",
        "batch",
        "step",
        "int64",
        "1",
        "always",
        "number of the batch within its epoch, counted from 0",
    ),
    ArrayDefinition(
        "scalars", "batch_size", "step", "int64", "1", "always", "samples in the batch"
    ),
    ArrayDefinition(
        "scalars",
        "wall_time",
        "step",
        "float64",
        "seconds since 1970-01-01T00:00:00Z",
        "always",
        "when the step began",
    ),
    ArrayDefinition(
        "scalars", "step_duration", "step", "float64", "s", "always", "how long the step took"
    ),
    ArrayDefinition(
        "scalars",
        "metrics/<metric>",
        "step",
        "float32",
        "",
        "if the model has it",
        "metric as the framework reports it at the step: a mean over the epoch so far",
    ),
    ArrayDefinition(
        "scalars",
        "losses/<model>",
        "step",
        "float32",
        "",
        "if a step differentiates several losses",
        "loss that the model's weights were differentiated for; scalars/loss is their sum",
    ),
    ArrayDefinition(
        "scalars",
        "learning_rates/<optimizer>",
        "step",
        "float32",
        "1",
        "if a step uses several optimizers",
        "learning rate of the optimizer",
    ),
    ArrayDefinition(
        "scalars",
        "loss_scale",
        "step",
        "float32",
        "1",
        "if the optimizer scales the loss",
        "factor that the loss was multiplied by before it was differentiated",
    ),
    ArrayDefinition(
        "scalars",
        "skipped",
        "step",
        "int64",
        "1",
        "if the optimizer scales the loss",
        "1 where the optimizer left the weights as they were, because a gradient times the loss "
        "scale was not finite; 0 elsewhere",
    ),
    ArrayDefinition(
        "weights",
        "<layer>/<variable>",
        "step, ...",
        "as in the model",
        "",
        _RECORDED,
        "weight that the step's forward pass used; one more row holds the weights after the last "
        "step",
    ),
    ArrayDefinition(
        "gradients",
        "<layer>/<variable>",
        "step, ...",
        "as in the model",
        "",
        _RECORDED,
        "gradient of the loss with respect to the trainable weight, before the optimizer changes "
        "it, without loss scale",
    ),
    ArrayDefinition(
        "updates",
        "<layer>/<variable>",
        "step, ...",
        "as in the model",
        "",
        "if weights are recorded, but not at every step",
        "weight after the step minus weight before it",
    ),
    ArrayDefinition(
        "activations",
        "<layer>/output",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "output of the layer in the training step, for the first samples of the batch",
    ),
    ArrayDefinition(
        "activation_gradients",
        "<layer>/output",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "gradient of the loss with respect to the layer's output",
    ),
    ArrayDefinition(
        "activations",
        "<layer>/call<n>_output",
        "step, sample, ...",
        "as in the model",
        "",
        "if a layer is called more than once in a step",
        "output of the layer's call number n, counted from 0",
    ),
    ArrayDefinition(
        "activations",
        "<layer>/carried_<n>",
        "step, sample, ...",
        "as in the model",
        "",
        "if a recurrent layer is stateful",
        "state number n that the layer carries into the step, from the batch before",
    ),
    ArrayDefinition(
        "activation_gradients",
        "<layer>/logits",
        "step, sample, ...",
        "as in the model",
        "",
        "if the loss is computed from logits",
        "gradient of the loss with respect to the logits, where that of the output is not computed",
    ),
    ArrayDefinition(
        "inputs",
        "x",
        "step, sample, ...",
        "as in the data",
        "",
        _RECORDED,
        "first samples of the batch, as they enter the model",
    ),
    ArrayDefinition(
        "inputs",
        "y",
        "step, sample, ...",
        "as in the data",
        "",
        _RECORDED,
        "targets of the first samples of the batch",
    ),
    ArrayDefinition(
        "inputs",
        "x_gradient",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "gradient of the loss with respect to x",
    ),
    ArrayDefinition(
        "inputs",
        "sample_digest",
        "step, batch",
        "int64",
        "",
        _RECORDED,
        "xxh3-64 of the bytes of each sample of the whole batch, read as a signed integer",
    ),
    ArrayDefinition(
        "inputs",
        "sample_loss",
        "step, batch",
        "float32",
        "",
        _RECORDED,
        "loss of each sample of the whole batch, before weights and before the mean over the batch",
    ),
    ArrayDefinition(
        "inputs",
        "sample_weight",
        "step, batch",
        "as in the data",
        "1",
        "if the samples are weighted",
        "weight of each sample in the loss",
    ),
    ArrayDefinition(
        "inputs",
        "sample_statistics",
        "step, batch, statistic",
        "float64",
        "",
        _RECORDED,
        "how large each input and target of each sample of the whole batch is, or which category",
    ),
    ArrayDefinition(
        "inputs",
        "sample_id",
        "step, batch",
        "int64",
        "",
        "if the training gives ids",
        "id of each sample of the whole batch, as the data set names it",
    ),
    ArrayDefinition(
        "inputs",
        "recorded_id",
        "step, sample",
        "int64",
        "",
        "if the policy names samples by id",
        "id of each recorded sample; -1 is padding",
    ),
    ArrayDefinition(
        "inputs",
        "sample_replica",
        "step, sample",
        "int64",
        "1",
        "if several replicas train",
        "number of the replica that each recorded sample was trained on",
    ),
    ArrayDefinition(
        "probe",
        "x",
        "sample, ...",
        "as in the data",
        "",
        _RECORDED,
        "the probe's inputs, the same at every step",
    ),
    ArrayDefinition(
        "probe",
        "<layer>/preactivation",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "input of the layer's activation function, in inference mode, with the step's weights",
    ),
    ArrayDefinition(
        "probe",
        "<layer>/output",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "output of the layer's activation function, in inference mode, with the step's weights",
    ),
    ArrayDefinition(
        "optimizer",
        "<layer>/<variable>/<slot>",
        "step, ...",
        "as in the model",
        "",
        _RECORDED,
        "what the optimizer remembers of the weight, such as its momentum, before the update",
    ),
    ArrayDefinition(
        "validation",
        "<metric>",
        "step",
        "float64",
        "",
        "if the training validates",
        "loss or metric on the validation data, of the weights of the step",
    ),
    ArrayDefinition(
        "logged",
        "<name>",
        "step, ...",
        "as logged",
        "",
        "if the training logs",
        "what the training logged under the name at the step; NaN where it logged nothing",
    ),
    ArrayDefinition(
        "probe_gradients",
        "<layer>/saliency",
        "step, sample, ...",
        "as in the model",
        "",
        _RECORDED,
        "gradient, with respect to the probe's input, of one unit of the layer's activation",
    ),
    ArrayDefinition(
        "probe_gradients",
        "<layer>/norm",
        "step, sample",
        "float32",
        "",
        _RECORDED,
        "L2 norm of the saliency of each sample",
    ),
    ArrayDefinition(
        "probe_gradients",
        "<layer>/unit",
        "step, sample",
        "int64",
        "1",
        _RECORDED,
        "unit that the saliency is of: that of the largest mean activation, or the policy's",
    ),
)
"""Every array that format 1.3 defines, but for `step` and the statistics."""


def definition(kind: Kind, path: str) -> ArrayDefinition | None:
    """Return the definition of the array at `path` of `kind`, None where there is none.

    Arrays of a later call of a layer, and those of one part of a structure, are as the others.

    Examples
    --------
    >>> definition("activations", "sequential/dense/output").dims
    'step, sample, ...'
    >>> definition("inputs", "x_gradient_left").name, definition("probe", "d/call1_output").name
    ('x_gradient', '<layer>/output')
    """
    known = [found for found in ARRAYS if found.kind == kind]
    first_call = _LATER_CALL.sub("", path)
    for name, suffix in ((path, ""), (first_call, ""), (first_call, "_<part>")):
        fit = [e for e in known if _pattern(e.name + suffix).fullmatch(name)]
        if fit:
            return max(fit, key=lambda e: len(e.name))
    return None


_LATER_CALL: Final = re.compile(r"call\d+_(?=[^/]+$)")


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return what the paths of an array called `name` look like; a layer's may have parts."""
    parts = (_PLACEHOLDERS.get(part, re.escape(part)) for part in re.split(r"(<\w+>)", name))
    return re.compile("".join(parts))


_PLACEHOLDERS: Final = {
    "<layer>": ".+",
    "<name>": ".+",
    "<n>": r"\d+",
    **dict.fromkeys(
        ("<variable>", "<slot>", "<metric>", "<model>", "<optimizer>", "<part>"), "[^/]+"
    ),
}
