"""What a trace will cost: bytes by kind and layer, time of a step, and the policy that fits."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import STATISTICS, STEP
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer.scripts.every_fit import every_fit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_tracer.scripts.script import Script

MEASURED_STEPS: Final = 8
"""How many traced steps are timed, with as many others between them."""
_WARM_UP: Final = 4
"""Steps before them: the first ones compile."""


@dataclasses.dataclass(frozen=True)
class PlannedTensors:
    """What one layer takes in one kind.

    Attributes
    ----------
    kind, layer
        The kind, and the path of the layer; ``""`` for what belongs to no layer.
    tensors
        How many arrays.
    step_bytes
        Bytes that a recorded step takes, before encoding.
    """

    kind: str
    layer: str
    tensors: int
    step_bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a trace will cost.

    Attributes
    ----------
    policy
        What would be recorded.
    tensors
        Bytes of a recorded step by kind and layer.
    unless_consecutive
        The same for what is recorded in addition where not every step is: the updates.
    steps, steps_per_epoch
        Length of the run; None where it is not known.
    untraced_seconds, traced_seconds
        Median time of a step. What the recorder does beside the training is not in it.
    budget
        Bytes that the whole trace may take; None for any number.
    fitting
        The policy that takes no more than `budget` bytes; None without a budget, and where no
        whole step fits.
    """

    policy: Policy
    tensors: tuple[PlannedTensors, ...]
    unless_consecutive: tuple[PlannedTensors, ...]
    steps: int | None
    steps_per_epoch: int | None
    untraced_seconds: float
    traced_seconds: float
    budget: int | None = None
    fitting: Policy | None = None

    @property
    def step_bytes(self) -> int:
        """Bytes of a recorded step, before encoding."""
        return self.bytes_of_a_step(self.policy)

    @property
    def run_bytes(self) -> int | None:
        """Bytes of the whole trace, before encoding; None where the run's length is not known."""
        return self.bytes_of_a_run(self.policy)

    @property
    def slow_down(self) -> float:
        """Time of a traced step over that of another one."""
        return self.traced_seconds / self.untraced_seconds

    def rows(self, policy: Policy) -> tuple[PlannedTensors, ...]:
        """Return what a step takes by kind and layer, as `policy` says how often."""
        more = () if policy.derives_updates else self.unless_consecutive
        return (*self.tensors, *more)

    def bytes_of_a_step(self, policy: Policy) -> int:
        """Return the bytes of a recorded step, before encoding."""
        return sum(row.step_bytes for row in self.rows(policy))

    def bytes_of_a_run(self, policy: Policy) -> int | None:
        """Return the bytes of the whole trace: the recorded steps, and the last weights."""
        if self.steps is None:
            return None
        length = self.steps_per_epoch or self.steps
        recorded = sum(policy.records_step(step, step // length) for step in range(self.steps))
        last = sum(row.step_bytes for row in self.tensors if row.kind == "weights")
        return recorded * self.bytes_of_a_step(policy) + last

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fitting = None if self.fitting is None else tracer_line(self.fitting)
        return {
            "policy": self.policy.model_dump(mode="json"),
            "tensors": [dataclasses.asdict(row) for row in self.rows(self.policy)],
            "step_bytes": self.step_bytes,
            "steps": self.steps,
            "run_bytes": self.run_bytes,
            "untraced_seconds": self.untraced_seconds,
            "traced_seconds": self.traced_seconds,
            "slow_down": self.slow_down,
            "budget": self.budget,
            "fitting": fitting,
        }


class FirstBatch(BaseException):
    """Ends a program at the first step of its ``fit``; no ``except Exception`` keeps it.

    Parameters
    ----------
    model
        The model, untrained.
    batch
        What its first step would have been trained on.
    epochs, steps_per_epoch
        What the ``fit`` was to do; None where it does not say.
    """

    def __init__(
        self, model: Any, batch: Any, epochs: int | None, steps_per_epoch: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.batch = batch
        self.steps_per_epoch = steps_per_epoch
        known = epochs is not None and steps_per_epoch is not None
        self.steps = epochs * steps_per_epoch if known else None  # type: ignore[operator]


def plan(
    model: Any,
    batch: Any,
    policy: Policy | None = None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    budget: int | None = None,
) -> Plan:
    """Find out what tracing `model` costs, by training a few steps on `batch`.

    All of the model's state is put back afterwards: weights, optimizer, metrics, seeds.

    Parameters
    ----------
    model
        A compiled Keras model.
    batch
        What one training step takes: ``(x, y)``, or ``(x, y, sample_weight)``.
    policy
        What to record; the default records everything at every step.
    steps, steps_per_epoch
        Length of the run that is planned.
    budget
        The most bytes that the trace may take; needs `steps`. Bytes are counted before encoding,
        so that less is used.

    Returns
    -------
    Plan
        Bytes, times, and the policy that fits the budget.

    Raises
    ------
    TraceError
        If the model is not compiled, or tracing fails.

    Examples
    --------
    >>> plan(model, (x[:32], y[:32]), steps=10_000).run_bytes  # doctest: +SKIP
    61400000000
    """
    policy = policy or Policy()
    if budget is not None and steps is None:
        msg = "a budget is for a whole run; say with steps how long it is"
        raise ValueError(msg)
    if model.optimizer is None:
        msg = f"the model '{model.name}' is not compiled, so it has no training step to plan"
        raise TraceError(msg)
    with _put_back(model, batch), tempfile.TemporaryDirectory(prefix="steptrace-plan-") as folder:
        path = Path(folder) / "run.zarr"
        untraced, traced = _train(model, batch, policy, path)
        tensors = tuple(_planned(path))
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
    )
    fitting = None if budget is None else _fitting(found, budget)
    return dataclasses.replace(found, fitting=fitting)


def plan_script(
    script: Script,
    policy: Policy,
    *,
    steps: int | None = None,
    budget: int | None = None,
) -> Plan:
    """Run a script up to the first step of its first ``fit``, and plan that one.

    Parameters
    ----------
    script
        The program; it is not gone on with.
    policy
        What to record.
    steps
        Length of the run; by default as many as the ``fit`` says.
    budget
        The most bytes that the trace may take.

    Raises
    ------
    TraceError
        If it calls no ``fit``, ends before, or does not say how long it trains.
    """

    def added(present: list[Any]) -> list[Any]:
        from steptrace_tracer.planning.first_batch import StopAtFirstBatch

        return [StopAtFirstBatch()]

    try:
        with every_fit(added):
            status = script.run()
    except FirstBatch as found:
        whole = found.steps if steps is None else steps
        if whole is None and budget is not None:
            msg = f"{script.name} does not say how many steps it trains; give --steps"
            raise TraceError(msg) from None
        return plan(
            found.model,
            found.batch,
            policy,
            steps=whole,
            steps_per_epoch=found.steps_per_epoch,
            budget=budget,
        )
    msg = f"{script.name} ended with exit status {status} before a fit of a Keras model"
    raise TraceError(msg)


def tracer_line(policy: Policy, path: str = "run.zarr") -> str:
    """Return the Python expression that makes a tracer with `policy`.

    Examples
    --------
    >>> tracer_line(Policy(every=4, kinds=("weights",)))
    "Tracer('run.zarr', kinds=('weights',), every=4)"
    """
    fields = {name: getattr(policy, name) for name in policy.model_dump(exclude_defaults=True)}
    return f"Tracer({', '.join([repr(path), *(f'{k}={v!r}' for k, v in fields.items())])})"


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


def _train(model: Any, batch: Any, policy: Policy, path: Path) -> tuple[float, float]:
    """Train, recording every second step; return the medians of the others and of those."""
    from steptrace_tracer._tensorflow import keras, tf
    from steptrace_tracer.capture.program import update_count
    from steptrace_tracer.session.tracer import Tracer

    class Times(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._begin = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            for value in (logs or {}).values():
                np.asarray(value)  # waits for an accelerator to be through
            self.seconds.append(time.perf_counter() - self._begin)

    unlimited = {"windows": (), "epochs": None, "step_bytes": None, "total_bytes": None}
    times = Times()
    tracer = Tracer(
        path,
        policy.model_copy(update={"every": 2, **unlimited}),
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
def _put_back(model: Any, batch: Any) -> Iterator[None]:
    """Build `model`, and give all of its state back afterwards."""
    if not (model.built and all(layer.built for layer in model.layers)):
        model._symbolic_build(data_batch=batch)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
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


def _planned(path: Path) -> Iterable[PlannedTensors]:
    """Read from a trace what a step of it takes."""
    layers = {layer.path for layer in read_attributes(path).layers}
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
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
    return [PlannedTensors(*place, counts[place], size) for place, size in sizes.items()]
