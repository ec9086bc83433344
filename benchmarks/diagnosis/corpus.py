"""How often the diagnosis is right, on programs that its thresholds were set on and on others.

    PYTHONPATH=benchmarks python -m diagnosis.corpus FOLDER [PROGRAM ...] [MUTATION ...]

Trains every program with every mutation, or those that are named, traced into FOLDER, where traces
and what was said of them are kept, and prints the tables. With `--record` it trains only, with
`--judge` it trains nothing, with `--again` it judges traces again that were judged before, and with
`--tables` it prints what is there. Deterministic but for the threads of TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("STEPTRACE_QUIET", "1")

import keras
import numpy as np
import tensorflow as tf

from diagnosis.mutations import AT, BATCH, STEPS, Mutation, kernel
from diagnosis.mutations_all import MUTATIONS
from diagnosis.programs_all import SEEN, UNSEEN
from diagnosis.tables import Judged, tables
from steptrace_analyzer import diagnose, open_trace
from steptrace_analyzer.anomalies.outcome import task_losses
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from diagnosis.programs import Program

_EPOCH = 20  # steps, where epochs end with a small batch


def record(path: Path, make: Callable[[], Program], name: str) -> str | None:
    """Train a program with a mutation, traced; return the weight that was written to.

    The last two segments of its path, ``"dense/kernel"``; an empty string where none was, and None
    where the mutation cannot be done to the program.
    """
    mutation = MUTATIONS[name]
    keras.backend.clear_session()  # names of layers count from the start
    keras.utils.set_random_seed(12)
    keras.config.set_dtype_policy(mutation.policy)
    program = make()
    keras.config.set_dtype_policy("float32")
    if not mutation.allows(program, name):
        return None
    if mutation.change is not None:
        mutation.change(program)
    xs, ys, epochs, held = _data(program, mutation)
    with _scope(program):
        optimizer = mutation.optimizer() if mutation.optimizer else program.optimizer(mutation.rate)
        optimizer = _following(optimizer, mutation)
    usual = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    has_schedule = isinstance(optimizer.get_config().get("learning_rate"), dict)

    def between(number: int, model: Any, optimizer: Any) -> None:
        if mutation.rate_at is not None and not has_schedule:
            optimizer.learning_rate = usual * mutation.rate_at(number)
        if number == AT and mutation.between is not None:
            weight = kernel(model)
            weight.assign(mutation.between(weight.value.numpy().copy()))
        if number == 0 and mutation.on_replica is not None:
            copy = kernel(model).value.values[-1]
            copy.assign(mutation.on_replica(copy.numpy()))

    tracer = Tracer(path, overwrite=True, capture="inside", progress=False)
    if program.train is not None:
        ends = range(0, STEPS * BATCH, BATCH)
        batches = [tuple(a[i : i + BATCH] for a in (*xs, *ys)) for i in ends]
        program.train(program, optimizer, batches, between, tracer)
    else:
        with _scope(program):
            program.model.compile(optimizer, program.loss)

        class Between(keras.callbacks.Callback):  # type: ignore[misc]
            """Writes to the model or its optimizer right before a step."""

            steps = 0

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                """Change weights or rate."""
                between(self.steps, self.model, self.model.optimizer)
                self.steps += 1

        pairs = [
            tuple(
                arrays if isinstance(given, list) else arrays[0]
                for arrays, given in zip(pair, (program.x, program.y), strict=True)
            )
            for pair in ((xs, ys), held)
            if pair is not None
        ]
        how: dict[str, Any] = {"shuffle": False, "verbose": 0, "callbacks": [Between(), tracer]}
        if held is not None:
            how["validation_data"] = pairs[1]
        raised = (
            contextlib.suppress(tf.errors.InvalidArgumentError)
            if mutation.raises
            else contextlib.nullcontext()
        )
        with raised:
            program.model.fit(*pairs[0], BATCH, epochs, **how)
    written = kernel(program.model).path.split("/")[-2:] if mutation.between is not None else ()
    return "/".join(written)


@keras.saving.register_keras_serializable("diagnosis")
class Times(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A schedule times a factor of each step."""

    def __init__(self, schedule: Any, factors: list[float]) -> None:
        self.schedule, self.factors = schedule, factors

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step."""
        at = keras.ops.cast(step, "int32")
        return self.schedule(step) * keras.ops.take(np.array(self.factors, np.float32), at)

    def get_config(self) -> dict[str, Any]:
        """Return what it is made of."""
        return {"schedule": self.schedule, "factors": self.factors}


def _following(optimizer: Any, mutation: Mutation) -> Any:
    """Return an optimizer whose schedule, if it has one, is changed by the mutation."""
    config = optimizer.get_config()
    if mutation.rate_at is None or not isinstance(config.get("learning_rate"), dict):
        return optimizer
    usual = keras.optimizers.schedules.deserialize(config["learning_rate"])
    factors = [float(mutation.rate_at(step)) for step in range(STEPS + 1)]
    return type(optimizer).from_config(config | {"learning_rate": Times(usual, factors)})


def _scope(program: Program) -> Any:
    return contextlib.nullcontext() if program.strategy is None else program.strategy.scope()


def _data(program: Program, mutation: Mutation) -> tuple[list[Any], list[Any], int, Any]:
    """Return inputs and targets in the order of the steps, the epochs, and what is held out."""
    xs = program.x if isinstance(program.x, list) else [program.x]
    ys = program.y if isinstance(program.y, list) else [program.y]
    rng = np.random.default_rng(0)
    held, in_epochs = None, bool(mutation.tail)
    if mutation.validation is not None:
        order = np.random.default_rng(1).permutation(len(xs[0]))
        fifth = len(order) // 5
        held = tuple([array[order[:fifth]].copy() for array in arrays] for arrays in (xs, ys))
        mutation.validation(held[0])
        xs, ys = ([array[order[fifth:]] for array in arrays] for arrays in (xs, ys))
        in_epochs = True
    if mutation.rows is not None:
        chosen = mutation.rows(ys)
        xs, ys = ([array[chosen] for array in arrays] for arrays in (xs, ys))
    count = (_EPOCH if in_epochs else STEPS) * BATCH
    if mutation.tail:
        count += mutation.tail - BATCH
    passes = -(-count // len(xs[0]))
    order = np.concatenate([rng.permutation(len(xs[0])) for _ in range(passes)])[:count]
    xs, ys = ([array[order].copy() for array in arrays] for arrays in (xs, ys))
    if mutation.batches is not None:
        mutation.batches(xs, ys, slice(AT * BATCH, (AT + 1) * BATCH))
    return xs, ys, STEPS // _EPOCH if in_epochs else 1, held


def judge(path: Path, program: str, name: str, written: str) -> Judged:
    """Diagnose a trace."""
    trace = open_trace(str(path))
    found = diagnose(trace)
    _, loss = task_losses(Signals(trace))
    return Judged(
        program=program,
        mutation=name,
        written=written,
        stories=[(story.severity, story.step) for story in found.stories],
        findings=[
            (f.rule, f.severity, f.first_step, f.cause_kind, f.tensor or "") for f in found.findings
        ],
        first=float(loss[0]),
        last=float(np.median(loss[-20:])),
    )


def recorded(folder: Path, program: str, name: str) -> Path | None:
    """Return the path of the trace of one run, after it was trained unless that was done before.

    None where the mutation cannot be done to the program.
    """
    path = folder / f"{program}-{name}.zarr"
    done = path.with_suffix(".done")
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        written = record(path, {**SEEN, **UNSEEN}[program], name)
        done.write_text("not for it" if written is None else written)
    return None if done.read_text() == "not for it" else path


def _run(folder: Path, program: str, name: str, options: set[str]) -> Judged | None:
    """Record and judge one run, unless that was done before."""
    path = folder / f"{program}-{name}.zarr"
    done, said = path.with_suffix(".done"), path.with_suffix(".json")
    if not options & {"--tables", "--judge"}:
        recorded(folder, program, name)
    if not done.exists() or "--record" in options or (note := done.read_text()) == "not for it":
        return None
    if "--tables" not in options and ("--again" in options or not said.exists()):
        said.write_text(json.dumps(judge(path, program, name, note).__dict__))
    return Judged(**json.loads(said.read_text())) if said.exists() else None


def main(arguments: list[str]) -> None:
    """Record what is missing, judge, and print."""
    options = {argument for argument in arguments if argument.startswith("--")}
    folder, *chosen = (a for a in arguments if a not in options)
    Path(folder).mkdir(parents=True, exist_ok=True)
    wanted = [set(chosen) & set(names) for names in ({**SEEN, **UNSEEN}, MUTATIONS)]
    if unknown := sorted(set(chosen) - wanted[0] - wanted[1]):
        sys.exit(f"there is no program or mutation {', '.join(unknown)}")
    sets: dict[str, list[Judged]] = {}
    for title, programs in (("seen", SEEN), ("unseen", UNSEEN)):
        judged = [
            _run(Path(folder), program, name, options)
            for program in programs
            if not wanted[0] or program in wanted[0]
            for name in MUTATIONS
            if not wanted[1] or name in wanted[1]
        ]
        sets[title] = [one for one in judged if one is not None]
    sys.stdout.write(f"{tables(sets)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
