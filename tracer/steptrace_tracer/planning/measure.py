"""Measuring what a trace will cost, by training a few steps of the model."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import METADATA_FILE, STATISTICS, STEP
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.building import is_built
from steptrace_tracer.capture.optimizer_state import build_optimizer
from steptrace_tracer.keras_private import build, update_count
from steptrace_tracer.planning.document import PlannedTensors
from steptrace_tracer.planning.plan import Plan
from steptrace_tracer.private_names import MissingNameError
from steptrace_tracer.session.tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator

MEASURED_STEPS: Final = 8
"""How many traced steps are timed, with as many others between them."""
_WARM_UP: Final = 4
"""Steps before them: the first ones compile."""
_UNBUILT: Final = (
    "the model '{}' cannot be planned and be as before, since its optimizer {} is built by its "
    "first step alone: train on one batch before"
)


def plan(
    model: Any,
    batch: Any,
    policy: Policy | None = None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    budget: int | None = None,
    **fields: Any,
) -> Plan:
    """Measure what tracing `model` costs, by training a few steps on `batch`.

    All of the model's state is put back afterwards: weights, optimizer, metrics, seeds.

    Parameters
    ----------
    model
        A compiled Keras model.
    batch
        What one training step takes: ``(x, y)``, or ``(x, y, sample_weight)``.
    policy
        What to record; by default everything at every step.
    steps, steps_per_epoch
        Length of the run that is planned.
    budget
        The most bytes that the trace may take; needs `steps`. Bytes are counted before encoding,
        so that less is used.
    **fields
        Fields of :class:`Policy`, instead of `policy`: ``plan(model, batch, every=10)``.

    Returns
    -------
    Plan
        Bytes, times, and the policy that fits the budget.

    Raises
    ------
    TypeError
        If both `policy` and its fields are given.
    ValueError
        If there is a `budget` and no number of `steps`.
    TraceError
        If the model is not compiled, only a step builds its optimizer, or tracing fails.

    Examples
    --------
    >>> from steptrace_tracer import plan
    >>> plan(model, (x[:32], y[:32]), steps=10_000).run_bytes  # doctest: +SKIP
    61400000000
    """
    if policy is not None and fields:
        msg = f"pass either policy or its fields ({', '.join(fields)}), not both"
        raise TypeError(msg)
    policy = policy if policy is not None else Policy(**fields)
    return measure(
        model, batch, policy, steps=steps, steps_per_epoch=steps_per_epoch, budget=budget
    )


def measure(
    model: Any,
    batch: Any,
    policy: Policy,
    *,
    steps: int | None,
    steps_per_epoch: int | None,
    budget: int | None,
    is_last: bool = False,
) -> Plan:
    """Do what :func:`plan` does.

    Parameters
    ----------
    model, batch, policy, steps, steps_per_epoch, budget
        As :func:`plan` takes them.
    is_last
        Whether the model is not used any more, so that nothing need be as before.
    """
    if budget is not None and steps is None:
        msg = "a budget is for a whole run; pass its number of steps"
        raise ValueError(msg)
    if model.optimizer is None:
        msg = f"the model '{model.name}' is not compiled, so it has no training step to plan"
        raise TraceError(msg)
    with (
        _put_back(model, batch, is_last=is_last),
        tempfile.TemporaryDirectory(prefix="steptrace-plan-") as folder,
    ):
        path = Path(folder) / "run.zarr"
        untraced, traced = _train(model, batch, policy, path)
        tensors, once = _planned(path)
    updates = tuple(row for row in tensors if row.kind == "updates")
    found = Plan(
        policy,
        tuple(row for row in tensors if row.kind != "updates"),
        updates,
        steps,
        steps_per_epoch,
        untraced,
        traced,
        budget,
        once_bytes=once,
    )
    fitting = None if budget is None else _fitting(found, budget)
    return dataclasses.replace(found, fitting=fitting)


def _fitting(found: Plan, budget: int) -> Policy | None:
    """Return the policy that records as many whole steps as fit, by recording every n-th."""
    assert found.steps is not None
    guard = {"total_bytes": budget}
    for every in range(found.policy.every, max(found.steps, found.policy.every) + 1):
        candidate = found.policy.model_copy(update={"every": every})
        taken = found.bytes_of_a_run(candidate)
        if taken is not None and taken <= budget:
            return candidate.model_copy(update=guard)
    return None


class _Times(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes how long each step takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for value in (logs or {}).values():
            np.asarray(value)  # waits for an accelerator to be through
        self.seconds.append(time.perf_counter() - self._begin)


def _train(model: Any, batch: Any, policy: Policy, path: Path) -> tuple[float, float]:
    """Train, recording every second step; return the medians of the others and of those."""
    unlimited = {"windows": (), "epochs": None, "step_bytes": None, "total_bytes": None}
    times = _Times()
    tracer = Tracer(
        path,
        policy.model_copy(update={"every": 2, "max_slowdown": None, **unlimited}),
        on_error="raise",
        progress=False,
    )
    batches = tf.data.Dataset.from_tensors(batch).repeat(_WARM_UP + 2 * MEASURED_STEPS)
    steps_per_execution, model.steps_per_execution = model.steps_per_execution, 1
    # Even steps are recorded, whatever number the next one has.
    first = update_count(model.optimizer) % 2
    try:
        model.fit(batches, verbose=0, shuffle=False, callbacks=[tracer, times])
    finally:
        model.steps_per_execution = steps_per_execution
    seconds = times.seconds[_WARM_UP:]
    return statistics.median(seconds[1 - first :: 2]), statistics.median(seconds[first::2])


@contextmanager
def _put_back(model: Any, batch: Any, *, is_last: bool) -> Iterator[None]:
    """Build `model`, and give all of its state back afterwards; refuse where that cannot be."""
    if not all(map(is_built, (model, *model.layers))):
        try:
            build(model, batch)
        except MissingNameError as error:
            msg = f"the model '{model.name}' is not built, so call it before it is planned: {error}"
            raise TraceError(msg) from error
    if not model.optimizer.built:
        build_optimizer(model.optimizer, model, compiled=not model.run_eagerly)
    optimizers = list(_with_inner(model.optimizer))
    if not is_last and not any(optimizer.built for optimizer in optimizers):
        raise TraceError(_UNBUILT.format(model.name, type(model.optimizer).__name__))
    slots = [variable for optimizer in optimizers for variable in optimizer.variables]
    variables = [*model.variables, *model.metrics_variables, *slots]
    values = [np.array(variable.numpy()) for variable in variables]
    names = ("train_function", "history", "stop_training")
    attributes = {name: getattr(model, name, None) for name in names}
    model.train_function = None
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for name, attribute in attributes.items():
            setattr(model, name, attribute)


def _with_inner(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer, and those that it has: Keras does not know their variables."""
    yield optimizer
    for value in vars(optimizer).values():
        if isinstance(value, keras.optimizers.Optimizer):
            yield from _with_inner(value)


def _planned(path: Path) -> tuple[list[PlannedTensors], int]:
    """Read from a trace what a step of it takes, and how many bytes are there once."""
    attributes = read_attributes(path)
    layers = {layer.path for layer in attributes.layers}
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    stored: dict[tuple[str, str], float] = defaultdict(float)
    objects: Counter[str] = Counter()
    for name, size in file_sizes(path).items():
        key, _, file = name.rpartition("/")
        objects[key if file != METADATA_FILE else ""] += size
    for key, array in zarr.open_group(path, mode="r").members(max_depth=None):
        if not isinstance(array, zarr.Array) or key.rpartition("/")[2] == STEP:
            continue
        if (array.metadata.dimension_names or (None,))[0] != STEP:  # type: ignore[union-attr]
            continue
        kind, tensor = key.split("/", 1) if key.startswith(STATISTICS) else split_key(key)
        owner = tensor.rpartition("/")[0]
        layer = owner if owner in layers else ""
        sizes[kind, layer] += array.dtype.itemsize * math.prod(array.shape[1:])
        counts[kind, layer] += 1
        stored[kind, layer] += objects.pop(key, 0) / max(1, attributes.rows(key))
    tensors = [
        PlannedTensors(*place, counts[place], size, stored[place]) for place, size in sizes.items()
    ]
    return tensors, objects.total()
