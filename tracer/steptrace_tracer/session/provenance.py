"""What a trace says about its run: the model, the optimizer and the machine."""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import Layer, Model, Optimizer, TraceAttributes
from steptrace_schema.version import PACKAGE_VERSION
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.json_safe import json_safe
from steptrace_tracer.capture.names import Names, walk_operations
from steptrace_tracer.capture.probe import activation_name
from steptrace_tracer.keras_private import own_variables
from steptrace_tracer.session.layer_graph import taken_by_layers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_schema.format.attributes import Worker
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.moving.resume import Continuation
    from steptrace_tracer.capture.program import Program


def describe_run(
    program: Program,
    names: Names,
    policy: Policy,
    worker: Worker | None,
    before: Continuation | None = None,
) -> TraceAttributes:
    """Return the root attributes that a trace of `program` begins with, or is resumed with.

    Parameters
    ----------
    program
        The step, with built models.
    names
        The paths of their layers and weights.
    policy
        What is recorded.
    worker
        Which process of a distributed job this is, if it is one.
    before
        The trace that is resumed, None for a new one.
    """
    now = TraceAttributes(
        run_id=uuid.uuid4().hex,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        producer=f"steptrace {PACKAGE_VERSION}",
        policy=policy,
        model=describe_models(program.models),
        layers=describe_layers(program.models, names),
        loss=describe_loss(program.models[0]),
        worker=worker,
        environment=describe_environment(),
    )
    if before is None:
        return now
    latest = ("producer", "policy", "model", "layers", "loss", "environment")
    return before.attributes.model_copy(update={name: getattr(now, name) for name in latest})


def describe_models(models: tuple[Any, ...]) -> Model:
    """Describe the model as a whole; several are described as one, with all their names."""
    return Model(
        name=", ".join(model.name for model in models),
        class_name=", ".join(dict.fromkeys(type(model).__name__ for model in models)),
        parameters=_count(_distinct(v for model in models for v in model.weights)),
        trainable_parameters=_count(
            _distinct(v for model in models for v in model.trainable_weights)
        ),
    )


def describe_layers(models: tuple[Any, ...], names: Names) -> tuple[Layer, ...]:
    """Describe every layer, in the order of the models."""
    taken = taken_by_layers(models, names)
    return tuple(
        Layer(
            path=names.layers[id(layer)],
            name=layer.name,
            class_name=type(layer).__name__,
            activation=activation_name(layer),
            output_shape=output_shape(layer),
            parameters=_count(getattr(layer, "weights", ())),
            trainable=bool(getattr(layer, "trainable", True)),
            variables=tuple(
                names.weights[id(v)] for v in own_variables(layer) if id(v) in names.weights
            ),
            inputs=taken[id(layer)].layers if id(layer) in taken else None,
            data=taken[id(layer)].data if id(layer) in taken else None,
        )
        for layer in _distinct(layer for model in models for layer, _ in walk_operations(model))
    )


def describe_optimizer(optimizer: Any) -> Optimizer:
    """Describe the optimizer with its configuration."""
    return Optimizer(class_name=type(optimizer).__name__, config=json_safe(optimizer.get_config()))


def describe_loss(model: Any) -> str | None:
    """Return the name of the loss that the model was compiled with, of several their names."""
    loss = getattr(model, "loss", None)
    return None if loss is None else str(_names_of_losses(loss))


def _names_of_losses(loss: Any) -> Any:
    if isinstance(loss, dict):
        return {str(output): _names_of_losses(own) for output, own in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [_names_of_losses(own) for own in loss]
    if loss is None or isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))


def describe_environment() -> dict[str, Any]:
    """Return versions and the machine."""
    return {
        "steptrace": PACKAGE_VERSION,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "script": os.path.basename(sys.argv[0]) if sys.argv else "",  # noqa: PTH119
    }


def _distinct(objects: Iterable[Any]) -> list[Any]:
    return list({id(found): found for found in objects}.values())


def _count(variables: Any) -> int:
    return int(sum(math.prod(variable.shape) for variable in variables))


def output_shape(layer: Any) -> tuple[int | None, ...] | None:
    """Return the shape of the layer's output, None for the batch; None where there is not one."""
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError):  # called never, more than once, or with several outputs
        return None
    return tuple(shape)
