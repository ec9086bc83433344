"""The statistics of a tensor, computed where the tensor is: in the graph, on its accelerator.

A processor takes them in fewer passes, without TensorFlow: `steptrace_schema.statistics.describe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.statistics.describe import QUANTILE_SAMPLE
from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy

_FRACTIONS: Final = (0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99)


def describes_in_graph() -> bool:
    """Whether tensors are described in the graph: where they would have to leave an accelerator."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def gives_update(policy: Policy, path: str) -> bool:
    """Whether a step returns the update of a weight, which the recorder cannot derive."""
    if policy.only_describes("weights") and describes_in_graph():
        return policy.covers("weights", path)
    return policy.covers("updates", path)


def described_in_graph(tensors: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """Return tensors, statistics in the place of those that are not to leave an accelerator."""
    if not describes_in_graph():
        return tensors
    return {
        key: tensor_statistics(t) if policy.only_describes(key.partition("/")[0]) else t
        for key, t in tensors.items()
    }


def tensor_statistics(tensor: Any) -> Any:
    """Return the statistics of a tensor that has at least one element.

    Parameters
    ----------
    tensor
        Any shape; boolean, integer or floating point.

    Returns
    -------
    tf.Tensor
        Dims (statistic,), float64, as `steptrace_schema.statistics.describe` defines them.

    Examples
    --------
    >>> tensor_statistics(tf.constant([3.0, 0.0, -4.0]))[5]  # l2  # doctest: +SKIP
    <tf.Tensor: shape=(), dtype=float64, numpy=5.0>
    """
    flat = tf.cast(tf.reshape(tensor, [-1]), tf.float64)
    size = tf.size(flat)
    nans = tf.math.count_nonzero(tf.math.is_nan(flat))
    infs = tf.math.count_nonzero(tf.math.is_inf(flat))
    poison = tf.where(nans > 0, tf.constant(float("nan"), tf.float64), 0.0)
    mean = tf.reduce_mean(flat)
    values = [
        mean,
        tf.sqrt(tf.reduce_mean(tf.square(flat - mean))),
        tf.reduce_min(flat) + poison,
        tf.reduce_max(flat) + poison,
        tf.reduce_sum(tf.abs(flat)),
        tf.sqrt(tf.reduce_sum(tf.square(flat))),
        tf.cast(tf.math.count_nonzero(tf.equal(flat, 0.0)), tf.float64),
        tf.cast(nans, tf.float64),
        tf.cast(infs, tf.float64),
    ]
    return tf.concat([tf.stack(values), _percentiles(flat, size)], 0)


def _percentiles(flat: Any, size: Any) -> Any:
    """Return linear interpolations over every ceil(n / `QUANTILE_SAMPLE`)-th element."""
    stride = (size + QUANTILE_SAMPLE - 1) // QUANTILE_SAMPLE
    sample = tf.sort(flat[::stride])
    last = tf.cast(tf.size(sample) - 1, tf.float64)
    position = tf.constant(_FRACTIONS, tf.float64) * last
    below = tf.floor(position)
    low = tf.gather(sample, tf.cast(below, tf.int32))
    high = tf.gather(sample, tf.cast(tf.math.ceil(position), tf.int32))
    poison = tf.reduce_sum(tf.where(tf.math.is_nan(sample), sample, tf.zeros_like(sample)))
    between = tf.where(tf.equal(low, high), tf.zeros_like(low), (high - low) * (position - below))
    return low + between + poison
