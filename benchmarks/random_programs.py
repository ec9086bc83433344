"""Draw training programs at random, and find out whether the tracer changes or misreads them.

``python benchmarks/random_programs.py [--first N] [--count N] [--seconds N]`` draws one program for
each seed: a network, perhaps with layers, a loss or a training step of its own, or a pair of
networks; an optimizer, data, a way of training, perhaps on two replicas, interrupted and resumed,
or in a loop; callbacks, and a policy. It trains
untraced and traced, each in a process of its own, and compares every variable before and after
each step, bit for bit, and the history; where these differ, untraced runs are repeated, and the
program is skipped where they differ too. Then the trace has to be valid, and is compared with the
untraced run: weights with its variables, metrics with its logs; loss, gradients and the output
with a second tape; each update with the optimizer, given the recorded gradients once more.

``--seed N`` runs one program again, ``--with NAME=CHOICE`` makes a choice for it by hand.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from random_checks import Trace
from random_loops import EPOCHS, LOOPS, PAIRS, Interrupted, Known, Notes, train_loop, train_pair
from random_networks import Draw, compiled, network
from random_settings import BATCH, callbacks_of, data_of, keeping, marking, policy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS, LIMIT = 22, 300
FIT: Final = (
    *("fit", "fit twice", "recompiled", "frozen", "frozen without compile", "two tracers"),
    *("resumed", "resumed"),
)


def trained(draw: Draw, folder: Path, trace: Path | None) -> tuple[Notes, Known]:
    """Train what was drawn; return its notes, and what the check needs."""
    import keras
    import tensorflow as tf

    from steptrace_tracer import Tracer

    way = draw("way", (*FIT, "fit", "fit", *LOOPS, *PAIRS))
    strategy: Any = None
    if draw("strategy", ["none"] * 7 + ["mirrored"]) == "mirrored" and way not in PAIRS:
        device = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(device, halves)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        # What Keras and XLA cannot do with it; a stateful layer's batches are not halved.
        cannot = {"accumulated": "{}", "jit": "False", "dtype": "float32", "form": "functional"}
        draw.forced = cannot | draw.forced
    keras.utils.set_random_seed(draw.seed % 1000)

    def tracer_at(path: Path | None, **more: Any) -> Any:
        policy = policy_of(draw) | more
        return path and Tracer(path, on_error="raise", progress=False, **policy)

    if way in PAIRS:
        return train_pair(way, draw, ROWS, BATCH, lambda: tracer_at(trace), list)

    def made() -> tuple[Any, list[Any]]:
        with strategy.scope() if strategy else contextlib.nullcontext():
            model, batches = network(draw, ROWS, BATCH)
            compiled(draw, model)
        return model, batches

    model, batches = made()
    known, notes = Known(way, batches, halves=strategy is not None), Notes(model)
    random = len(model.variables) > len(model.weights)  # each replica draws its own
    known.tape = strategy is None or not (random or way == "train_on_batch")
    if strategy is not None:  # an own loss that is not divided among the replicas counts twice
        known.tape &= not draw.chosen["compute_loss"]
    else:
        known.pairs = lambda _: [(notes.model.optimizer, notes.model.trainable_variables)]
    if way in LOOPS:
        passes = train_loop(way, model, batches, notes, tracer_at(trace), draw, strategy)
        known.tape &= passes == "one"
    else:
        _fits(draw, folder, trace, notes, known, tracer_at, made)
    own = draw.chosen["train_step"]
    if way not in LOOPS[1:] and own != "of Keras":
        known.tape &= own in ("plain", "accumulating", "clipped", "two optimizers")
        if own in ("accumulating", "clipped", "two optimizers"):
            known.pairs = None
    return notes, known


def _fits(
    draw: Draw,
    folder: Path,
    trace: Path | None,
    notes: Notes,
    known: Known,
    tracer_at: Callable[..., Any],
    made: Callable[[], tuple[Any, list[Any]]],
) -> None:
    """Train by ``fit``, once or twice, and note what is known of it."""
    from steptrace_tracer.keras_private import update_count

    model, way = notes.model, known.way
    given, known.ordered = data_of(draw, known.batches)
    known.class_weight = given.get("class_weight")
    if draw.chosen["data"] == "dataset shuffled" and draw.chosen["form"] != "stateful":
        known.per_epoch = 2
    if draw.chosen["data"] in ("dataset repeated", "generator"):
        known.per_epoch += -known.per_epoch % draw.chosen["executed"]  # takes all of its batches
    own = callbacks_of(draw, folder, "validation_data" in given or "validation_split" in given)
    tracers: list[Any] = [tracer_at(trace)] if trace else []
    place = draw("tracer", ["first", "last"])
    if draw("marked", [False, False, True]):
        own.append(marking(lambda: tracers))
    if way == "resumed":
        notes.stop_at = draw("interrupted", [(0, 1), (1, 0), (1, 1), (1, 2)])
    kept: dict[str, Any] = {}
    for number in range(1 if way == "fit" else 2):
        if number and way == "recompiled":
            compiled(draw, model)
            notes.phase += 1
        if number and way.startswith("frozen"):
            model.layers[1].trainable = not model.layers[1].trainable
            if way == "frozen":
                compiled(draw, model)
                notes.phase += 1
        if number and way == "two tracers" and trace:
            tracers = [tracer_at(trace.with_name("second.zarr"))]
        if number and way == "resumed":
            ended = notes.next_step(known.per_epoch)
            model = _put_back(draw, notes, kept, made)
            notes.start, notes.epoch = ended, -1
            if draw("by", ["a new tracer", "the same tracer"]) == "a new tracer":
                # Which counts as the optimizer does; the same one goes on.
                notes.start = update_count(model.optimizer)
                tracers = [tracer_at(trace, resume=True)] if trace else []
        others = [notes.callback(), *own, *([keeping(notes, kept)] if way == "resumed" else [])]
        order = [*tracers, *others] if place == "first" else [*others, *tracers]
        epochs = EPOCHS if way == "fit" else 2
        with contextlib.suppress(Interrupted):
            done = model.fit(**given, epochs=epochs, verbose=0, callbacks=order)
            notes.histories.append(done.history)
    if tracers and way != "two tracers":
        tracers[0].close()


def _put_back(draw: Draw, notes: Notes, kept: dict[str, Any], made: Callable[[], Any]) -> Any:
    """Return the model as it was at the checkpoint, or as it was interrupted."""
    model, values = notes.model, notes.values()
    if draw("from", ["the interruption", "the checkpoint"]) == "the checkpoint" and kept:
        values = kept["values"]
    if draw("rebuilt", [False, False, True]) and draw.chosen["form"] != "lazy":
        model, _ = made()
        notes.models = (model,)
    with model.distribute_strategy.scope():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    for kind, variables in (("model", notes.variables), ("optimizer", notes.slots)):
        for variable, value in zip(variables, values[kind], strict=True):
            variable.assign(value)
    return model


def run(draw: Draw, folder: Path, trace: Path | None) -> dict[str, Any]:
    """Train, and check the trace where there is one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes, known = trained(draw, folder, trace)
    result: dict[str, Any] = {
        "steps": notes.steps,
        "histories": notes.histories,
        "final": notes.values(),
        "drawn": str(draw),
        "wrong": [],
        "ways": "",
    }
    if trace:
        from steptrace_schema.validate import validate

        wrong = [f"warned: {w.message}" for w in caught if "steptrace" in w.filename]
        second = trace.with_name("second.zarr")
        paths = [(second, len(notes.steps) // 2)] if second.exists() else [(trace, 0)]
        for path, first in paths:
            wrong += [f"invalid: {found}" for found in validate(path)]
            check = Trace(path, notes, known, draw)
            wrong += check.check(first)
            result["ways"] = ",".join(sorted(set(check.attributes.capture.values())))
            result["compared"] = dict(check.compared)
            result["missing"] = sorted({m.reason for m in check.attributes.missing})
        result["wrong"] = wrong
    return result


def in_own_process(draw: Draw, folder: Path, trace: Path | None) -> dict[str, Any]:
    """Run in a process of its own, forked before TensorFlow does anything."""
    answer = folder / "answer.pickle"
    answer.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        signal.alarm(LIMIT)
        try:
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            if not os.environ.get("RANDOM_PROGRAMS_SHOW"):
                for number in (1, 2):
                    os.dup2(os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT), number)
            result = run(draw, folder, trace)
        except BaseException:
            result = {"error": traceback.format_exc()}
        answer.write_bytes(pickle.dumps(result))
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if not answer.exists():
        return {"error": f"ended by signal {status}"}
    found: dict[str, Any] = pickle.loads(answer.read_bytes())
    return found


def parts(value: Any, place: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield all values of a result that have to be equal, with where they are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from parts(inner, f"{place} {key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from parts(inner, f"{place} {number}")
    else:
        yield place, np.asarray(value).tobytes()


def bits(result: dict[str, Any]) -> dict[str, bytes]:
    return dict(parts({key: result[key] for key in ("steps", "histories", "final")}))


def _message(error: str) -> str:
    """Return the line of a traceback that says what is wrong."""
    lines = [line for line in error.strip().splitlines() if line[:5].strip()]
    return " / ".join(line[:300] for line in lines[-3:])


def judge(draw: Draw, keep: Path | None) -> tuple[str, list[str]]:
    """Return the verdict on one program, and what is wrong with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = keep or Path(temporary)
        plain = in_own_process(draw, folder, None)
        if "error" in plain:
            return "invalid", [_message(plain["error"])]
        draw.chosen["compared"] = ""
        traced = in_own_process(draw, folder, folder / "run.zarr")
        if "error" in traced:
            return "failed", [traced["error"]]
        draw.chosen = {"": f"{plain['drawn']}; {traced['ways']} {traced['compared']}"}
        if bits(plain) != bits(traced):
            for _ in range(3):
                other = in_own_process(draw, folder, None)
                if bits(plain) != bits(other):
                    return "skipped", ["untraced runs differ"]
            found = bits(traced)
            parted = [place for place, value in bits(plain).items() if found.get(place) != value]
            traced["wrong"].insert(0, f"changed: {', '.join(parted[:9])}")
        return "failed" if traced["wrong"] else "equal", traced["wrong"]


def main() -> None:
    """Run the programs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--with", dest="forced", action="append", default=[])
    parser.add_argument("--keep", type=Path, help="a folder for the trace and what is printed")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "STEPTRACE_QUIET": "1"}
    import keras  # noqa: F401

    import steptrace_tracer  # noqa: F401

    forced = dict(choice.split("=", 1) for choice in options.forced)
    seeds = range(options.first, options.first + options.count)
    counts: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    for seed in seeds if options.seed is None else (options.seed,):
        if time.monotonic() - began > options.seconds:
            break
        draw, started = Draw(seed, forced), time.monotonic()
        verdict, wrong = judge(draw, options.keep)
        counts[verdict] += 1
        took = time.monotonic() - started
        print(f"{verdict} seed {seed} ({took:.0f} s): {draw}", *wrong[:6], sep="\n    ", flush=True)
    print(f"{counts.total()} programs:", ", ".join(f"{n} {name}" for name, n in counts.items()))
    raise SystemExit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
