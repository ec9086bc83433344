"""Changing what a custom training loop trains on by rounding: each input by one number."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.building import is_built
from steptrace_tracer.scripts.one_ulp import is_floating, one_ulp
from steptrace_tracer.scripts.perturb_fit import change_weights
from steptrace_tracer.session.step_batch import batch_finder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from steptrace_schema.storage.location import Location
    from steptrace_tracer.session.settings import Settings


class StepPerturber:
    """Changes the inputs of every step that ``Tracer.wrap`` wraps.

    Where no argument is an input of floating-point numbers, as with token ids, iterators and the
    values of replicas, the trainable weights are changed before the first step instead.

    Parameters
    ----------
    traces
        Where traces go that are not the script's own.
    next_path
        Returns where the next trace goes, which is the last of `traces` then.
    overwrite
        Whether traces may replace others.
    """

    def __init__(
        self, traces: Sequence[Path], next_path: Callable[[], Path], *, overwrite: bool
    ) -> None:
        self.overwrite = overwrite
        self._traces = traces
        self._next_path = next_path
        self._paths: dict[Location, Path] = {}
        self._changed: set[int] = set()

    def settings(self, settings: Settings, *, resume: bool) -> tuple[Settings, bool]:
        """Have the script's own trace written elsewhere; one that is resumed is the same again."""
        own = settings.path
        if own in self._traces:
            return settings, resume
        resume = resume and own in self._paths
        if not resume:
            folder = self._next_path()
            worker = settings.worker
            self._paths[own] = folder if worker is None else folder / f"worker-{worker.rank}.zarr"
        return dataclasses.replace(settings, path=self._paths[own]), resume

    def arguments(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        models: Callable[[], Sequence[Any]],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a step with changed inputs, or change the weights once."""
        trained = tuple(models())
        inputs = keras.tree.flatten(batch_finder(trained)(*args, **kwargs).x)
        floats = {id(leaf) for leaf in inputs if _is_float(leaf)}
        if not floats:
            self._change_weights(trained)
            return args, kwargs
        dtype = str(trained[0].compute_dtype)

        def change(leaf: Any) -> Any:
            if id(leaf) not in floats:
                return leaf
            moved = one_ulp(np.asarray(leaf), dtype)
            return tf.constant(moved) if isinstance(leaf, tf.Tensor) else moved

        changed_args, changed_kwargs = keras.tree.map_structure(change, (args, kwargs))
        return changed_args, changed_kwargs

    def _change_weights(self, models: Sequence[Any]) -> None:
        for model in models:
            if is_built(model) and id(model) not in self._changed:
                self._changed.add(id(model))
                change_weights(model)


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, tf.Tensor):
        return bool(leaf.dtype.is_floating)
    return isinstance(leaf, np.ndarray) and is_floating(leaf.dtype)
