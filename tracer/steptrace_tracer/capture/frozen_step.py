"""What Keras freezes, and for how long: the step of ``fit``, from one ``compile`` to the next.

``fit`` builds its train function once, and TensorFlow compiles it once for each kind of batch. What
is changed afterwards without another ``compile``, such as ``trainable`` or a number that
``train_step`` reads, does not change the training. What the tracer compiles is kept beside that
function, for as long, so that it is frozen at the same moment.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.model_view import ModelView
from steptrace_tracer.keras_private import built_step, function_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

_KEPT = "_steptrace_frozen_step"


@dataclasses.dataclass
class FrozenStep:
    """The step of one train function of Keras.

    Attributes
    ----------
    body
        The ``train_step`` that the function was built with.
    compiled
        The ``tf.function`` of one step; None where the function runs eagerly.
    jit_compile
        Whether XLA compiles it.
    captures
        What the tracer has made of the step, by what it records.
    views
        How the model looked when a step was compiled for batches of a kind, by that kind.
    """

    body: Callable[..., Any]
    compiled: Any
    jit_compile: bool | None
    captures: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    views: dict[Hashable, ModelView] = dataclasses.field(default_factory=dict)
    _untraced: Callable[[Any], Any] | None = None
    _own: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, model: Any, train_function: Any) -> FrozenStep:
        """Return what belongs to the train function of `model`, the same one at each call."""
        kept = getattr(train_function, _KEPT, None)
        if isinstance(kept, cls):
            return kept
        built = built_step(train_function)
        if built is None:  # such as a train function of the user's own
            compiled = None if model.run_eagerly else _UNKNOWN
            found = cls(model.train_step, compiled, model.jit_compile)
        else:
            body, compiled = built
            xla = model.jit_compile if compiled is None else function_settings(compiled).jit_compile
            found = cls(body, compiled, xla)
        with suppress(AttributeError):  # what has no room for it is built again in each fit
            setattr(train_function, _KEPT, found)
        return found

    @property
    def eager(self) -> bool:
        """Whether the function runs operation by operation."""
        return self.compiled is None

    def is_compiled(self) -> bool:
        """Whether TensorFlow has compiled Keras' own function already."""
        count = getattr(self.compiled, "experimental_get_tracing_count", None)
        return count is None or count() > 0

    @contextmanager
    def as_compiled(
        self, kind: Hashable, models: Sequence[Any], optimizers: Sequence[Any]
    ) -> Iterator[None]:
        """Make the model look as it did when the step was compiled for batches of this kind.

        Parameters
        ----------
        kind
            What TensorFlow compiles a function again for.
        models, optimizers
            What the step trains.
        """
        view = self.views.get(kind)
        with nullcontext() if view is None else view.restored():
            yield
        if view is None:
            # What was built meanwhile, such as an optimizer, is not to be built once more.
            self.views[kind] = ModelView.of(models, optimizers)

    def untraced(self, train_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return Keras' own function, to be compiled as if that had happened with the first step.

        Keras continues with it when the tracer is gone.
        """
        if self._untraced is not None:
            return self._untraced  # which `train_function` is, in a later fit

        def run(iterator: Any) -> Any:
            if self.is_compiled() or not self.views:
                return train_function(iterator)
            with next(iter(self.views.values())).restored():
                return train_function(iterator)

        setattr(run, _KEPT, self)
        self._untraced, self._own = run, train_function
        return run

    def left(self, train_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what the model continues with: Keras' own function, once that is compiled."""
        if self._own is not None and self.is_compiled():
            return self._own
        return train_function


_UNKNOWN = object()
"""Stands for a compiled function that cannot be looked into."""


def batch_kind(structure: Any) -> Hashable:
    """Return what decides for which batches TensorFlow compiles a function again."""
    return tuple(
        (leaf.dtype.name, tuple(leaf.shape)) if isinstance(leaf, tf.Tensor) else repr(leaf)
        for leaf in tf.nest.flatten(structure, expand_composites=True)
    )
