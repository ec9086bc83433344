"""Changing what a ``fit`` trains on by rounding: each input by one representable number."""

from __future__ import annotations

import itertools
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.scripts.one_ulp import is_floating, one_ulp

if TYPE_CHECKING:
    from inspect import BoundArguments


def perturb_fit(arguments: BoundArguments) -> list[Any]:
    """Change the inputs in the arguments of a ``fit``; targets and weights of samples stay.

    Where no input is a floating-point number, as with token ids or pixels of whole numbers, the
    trainable weights are changed at the beginning instead.

    Parameters
    ----------
    arguments
        Of ``keras.Model.fit``; ``x`` is replaced.

    Returns
    -------
    list
        Callbacks that the ``fit`` needs.

    Raises
    ------
    TraceError
        If the data are of a kind whose batches cannot be changed.
    """
    model = arguments.args[0]
    changed = _Changed(str(model.compute_dtype))
    arguments.arguments["x"] = changed.data(arguments.arguments.get("x"))
    if changed.has_floats:
        return []
    return [_ChangedWeights()]


def change_weights(model: Any) -> None:
    """Change the trainable weights of a model by one representable number, and say so."""
    sys.stderr.write(
        f"steptrace: no input of '{model.name}' is a floating-point number that can be changed, so "
        "its initial weights are changed\n"
    )
    for weight in model.trainable_weights:
        weight.assign(one_ulp(weight.numpy(), str(weight.dtype)))


class _ChangedWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Changes the trainable weights by one representable number before the first step."""

    def on_train_begin(self, logs: Any = None) -> None:
        change_weights(self.model)


class _Changed:
    """Data with changed inputs, in the form that they came in."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.has_floats = False

    def data(self, x: Any) -> Any:
        """Return what stands for the argument ``x`` of a ``fit``."""
        if isinstance(x, tf.data.Dataset):
            return self._data_set(x)
        if isinstance(x, keras.utils.PyDataset):
            self._note(x[0])
            return _ChangedPyDataset(x, self.batch)
        if isinstance(x, types.GeneratorType):
            first = next(x, None)
            if first is None:
                return x
            self._note(first)
            return (self.batch(batch) for batch in itertools.chain([first], x))
        if x is None or type(x).__module__.startswith("torch"):
            msg = (
                f"the data of fit are {type(x).__name__}, whose inputs cannot be changed; pass "
                "arrays, a tf.data.Dataset, a PyDataset or a generator"
            )
            raise TraceError(msg)
        self.has_floats = any(map(self._is_float, keras.tree.flatten(x)))
        return keras.tree.map_structure(self._leaf, x)

    def batch(self, batch: Any) -> Any:
        """Return a batch, ``x``, ``(x, y)`` or ``(x, y, weights)``, with changed inputs."""
        if isinstance(batch, tuple | list):
            return (keras.tree.map_structure(self._leaf, batch[0]), *batch[1:])
        return keras.tree.map_structure(self._leaf, batch)

    def _note(self, batch: Any) -> None:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        self.has_floats = any(map(self._is_float, keras.tree.flatten(inputs)))

    def _is_float(self, leaf: Any) -> bool:
        if isinstance(leaf, tf.Tensor):
            return bool(leaf.dtype.is_floating)
        return is_floating(np.asarray(leaf).dtype)

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, tf.Tensor):
            return tf.constant(one_ulp(leaf.numpy(), self.dtype)) if self._is_float(leaf) else leaf
        return one_ulp(np.asarray(leaf), self.dtype)

    def _data_set(self, data: Any) -> Any:
        spec = data.element_spec
        inputs = spec[0] if isinstance(spec, tuple) else spec
        self.has_floats = any(s.dtype.is_floating for s in tf.nest.flatten(inputs))

        def change(tensor: Any) -> Any:
            if not isinstance(tensor, tf.Tensor) or not tensor.dtype.is_floating:
                return tensor
            return _one_ulp_of_tensor(tensor, self.dtype)

        def of_batch(*parts: Any) -> Any:
            first = tf.nest.map_structure(change, parts[0])
            return (first, *parts[1:]) if isinstance(spec, tuple) else first

        return data.map(of_batch)


def _one_ulp_of_tensor(tensor: Any, dtype: str) -> Any:
    """Return what :func:`one_ulp` returns, inside a graph."""
    narrow = tf.as_dtype(dtype)
    rounded = tensor if tensor.dtype.size <= narrow.size else tf.cast(tensor, narrow)
    whole = {2: tf.uint16, 4: tf.uint32, 8: tf.uint64}[rounded.dtype.size]
    bits = tf.bitcast(rounded, whole)
    moved = tf.bitcast(tf.bitwise.bitwise_xor(bits, tf.ones_like(bits)), rounded.dtype)
    keeps = ~tf.math.is_finite(rounded) | (rounded == 0) | ~tf.math.is_finite(moved)
    return tf.cast(tf.where(keeps, rounded, moved), tensor.dtype)


class _ChangedPyDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """A data set of a program, batch by batch changed."""

    def __init__(self, own: Any, change: Any) -> None:
        super().__init__(
            workers=own.workers,
            use_multiprocessing=own.use_multiprocessing,
            max_queue_size=own.max_queue_size,
        )
        self._own = own
        self._change = change

    def __getitem__(self, index: int) -> Any:
        return self._change(self._own[index])

    @property
    def num_batches(self) -> int | None:
        """Batches of one epoch."""
        count: int | None = self._own.num_batches
        return count

    def on_epoch_begin(self) -> None:
        """Tell the program's own."""
        self._own.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the program's own."""
        self._own.on_epoch_end()
