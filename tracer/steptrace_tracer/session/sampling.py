"""How many samples of a batch are kept, where the policy leaves that open."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.format.policy import MOST_SAMPLES
from steptrace_tracer.capture.names import walk_operations
from steptrace_tracer.capture.probe import activation_name
from steptrace_tracer.session.provenance import output_shape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_schema.format.policy import Policy

SMALL: Final = 4 * 2**20
"""Bytes that the samples of a step may take, however few weights there are."""
_ITEM_BYTES: Final = 4


def with_sample_count(
    policy: Policy, models: Iterable[Any], earlier: Policy | None = None
) -> Policy:
    """Return `policy` with a number of samples.

    As many of the first four as take no more than the weights and their gradients do, and at least
    one. The outputs of a convolutional network are often larger than its weights, for one sample
    already; all samples of the batch keep their digest and their loss in any case.

    Parameters
    ----------
    policy
        What is to be recorded; one that says which samples is returned as it is.
    models
        The built models. Layers whose output shape Keras does not know are not counted, unknown
        extents count as 1.
    earlier
        The policy of the trace that is resumed, whose number of samples stays.

    Examples
    --------
    >>> with_sample_count(Policy(), [vgg16]).samples  # doctest: +SKIP
    4
    """
    if policy.samples == "auto" and earlier is not None:
        policy = policy.model_copy(update={"samples": earlier.samples})
    if policy.samples != "auto":
        return policy
    weights = sample = 0
    for model in models:
        weights += sum(math.prod(v.shape) for v in model.weights) * _ITEM_BYTES
        for layer, _ in walk_operations(model):
            outputs = sum(kind in policy.kinds for kind in ("activations", "activation_gradients"))
            probed = 2 * ("probe" in policy.kinds and activation_name(layer) is not None)
            extents = (output_shape(layer) or (None, 0))[1:]
            sample += (outputs + probed) * math.prod(n or 1 for n in extents) * _ITEM_BYTES
    room = max(SMALL, 2 * weights)
    return policy.model_copy(update={"samples": max(1, min(MOST_SAMPLES, room // max(1, sample)))})
