"""What one training step is asked for beside its result, and why the rest is missing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import Missing, TargetLoss
from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from steptrace_schema.format.policy import Policy
    from steptrace_schema.names import Kind

NO_GRADIENT = "the loss does not depend on this tensor"
NOT_NUMBERS = "it is not a dense tensor of numbers"
NOT_SAMPLES = "its first dimension does not count the samples of the batch"
OUTPUT_KINDS: tuple[Kind, ...] = ("activations", "activation_gradients")


@dataclasses.dataclass
class Taps:
    """The tensors of one step, ``kind/path`` to tensor, and what is missing with its reason."""

    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)
    missing: dict[tuple[Kind, str], str] = dataclasses.field(default_factory=dict)
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Path of each output, and of what a model was called with where that is `x_gradient`, to its
    extent along the first dimension, over the whole batch."""
    losses: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Name of a model to the loss that its weights were differentiated for, unscaled float32."""
    later_losses: set[str] = dataclasses.field(default_factory=set)
    """Those of a pass that follows on another one's gradient, at weights of its own."""
    target_losses: tuple[TargetLoss, ...] = ()
    """The losses of the targets, empty where it is not known which belongs to which."""
    appliers: list[Any] = dataclasses.field(default_factory=list)
    """The optimizers that were given gradients."""
    scale: Any = None
    """What an optimizer multiplied the loss by, float32; None where it did not."""
    error: Exception | None = None
    """The first failure of a tap. The step itself continues, so that it need not be done again."""

    def add(self, kind: Kind, path: str, tensor: Any) -> None:
        """Keep one tensor."""
        self.tensors[f"{kind}/{path}"] = tensor

    def explain_missing(self, kind: Kind, path: str, reason: str) -> None:
        """Say why a tensor cannot be kept."""
        self.missing[kind, path] = reason

    def count_rows(self) -> Any:
        """Return the values of :attr:`rows` as one tensor."""
        return tf.stack([tf.cast(n, tf.int64) for n in self.rows.values()] or [tf.int64.max])

    def explain_other_rows(
        self, counts: Iterable[int], samples: int
    ) -> dict[tuple[Kind, str], str]:
        """Return what has other rows than the `samples` of the batch, with the reason.

        Only running the step shows it: while it is traced, the size of a batch is unknown.
        """
        return {
            (kind, path): NOT_SAMPLES
            for path, count in zip(self.rows, counts, strict=False)
            if count != samples
            for kind in (*OUTPUT_KINDS, "inputs")
            if f"{kind}/{path}" in self.tensors
        }

    def missing_entries(self) -> tuple[Missing, ...]:
        """Return what is missing, as the trace lists it."""
        return as_missing(self.missing)


def as_missing(reasons: Mapping[tuple[Kind, str], str]) -> tuple[Missing, ...]:
    """Return reasons by kind and path in the form in which a trace lists them."""
    return tuple(
        Missing(kind=kind, path=path, reason=reason) for (kind, path), reason in reasons.items()
    )


def to_array(tensor: Any) -> npt.NDArray[Any]:
    """Return an eager tensor as an array of NumPy, which has no bfloat16: that is a float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    return np.asarray(tf.cast(tensor, tf.float32) if tensor.dtype is tf.bfloat16 else tensor)


def output_kinds(policy: Policy, place: str) -> list[Kind]:
    """Return the kinds in which the layer output at `place` is recorded."""
    return [kind for kind in OUTPUT_KINDS if policy.covers(kind, place)]


def storable(tensor: Any) -> bool:
    """Whether `tensor` is dense and holds real numbers or booleans."""
    if not isinstance(tensor, tf.Tensor):
        return False
    return bool(tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool)


def current_graph() -> Any:
    """Return the graph that is being built, None when running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
