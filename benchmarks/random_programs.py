"""Draw training programs at random, and find out whether the tracer changes or misreads them.

``python benchmarks/random_programs.py [--first N] [--count N] [--seconds N]`` draws one program for
each seed: a network, an optimizer, data, a way of training, callbacks, and a policy. It trains
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
from random_networks import Draw, compiled, network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS, BATCH, EPOCHS, LIMIT = 22, 8, 3, 300
FIT: Final = ("fit", "fit twice", "recompiled", "frozen", "frozen without compile", "two tracers")
LOOPS: Final = ("train_on_batch", "loop", "loop compiled", "loop xla", "loop over an iterator")


def policy_of(draw: Draw) -> dict[str, Any]:
    from steptrace_schema.names import KINDS
    from steptrace_tracer import around, last

    policies: dict[str, dict[str, Any]] = {
        "default": {},
        "everything": {"kinds": KINDS, "probe_gradients_every": 1, "samples": BATCH},
        "every second": {"every": 2},
        "every third, all kinds": {"every": 3, "kinds": KINDS},
        "auto": {"every": "auto"},
        "weights": {"kinds": ("weights",)},
        "gradients": {"kinds": ("gradients", "optimizer")},
        "activations": {"kinds": ("activations", "activation_gradients"), "samples": 2},
        "inputs": {"kinds": ("inputs", "updates")},
        "probe": {"kinds": ("probe", "probe_gradients", "validation")},
        "statistics": {"statistics_only": ("weights", "gradients", "activations")},
        "one sample": {"samples": 1},
        "rounded": {"precision": {"activations": "bfloat16", "inputs": 10}},
        "no bias": {"exclude": ("*bias*",), "kinds": KINDS},
        "windows": {"windows": ((1, 3), (5, 7))},
        "epochs": {"epochs": (1,)},
        "last": {"retain": last(3)},
        "around": {"retain": around(before=2, after=1)},
        "compact": {"profile": "compact", "durability": "fsync"},
        "not compressed": {"profile": "none", "sample_statistics": False},
        "step_bytes": {"step_bytes": 20_000},
        "disk_limit": {"disk_limit": 3_000_000},
    }
    found = draw("policy", policies)
    ways = ["auto", "auto", "auto", "beside"]  # "inside" does not promise equal bits
    if draw.chosen["eager"] or draw.chosen["way"] == "loop":
        ways = ["auto"]  # what runs eagerly is refused beside
    found |= {"capture": draw("capture", ways)}
    watch: dict[str, Any] = draw(
        "watch", {"none": {}, "all": {"watch": ("non_finite", "loss_spike")}}
    )
    return {**found, **watch}


class Notes:
    """What a run leaves: its variables around each step, its logs, and what it returned."""

    def __init__(self, model: Any) -> None:
        self.model, self.phase, self.epoch = model, 0, -1
        self.steps: list[dict[str, Any]] = []
        self.histories: list[Any] = []

    def values(self) -> dict[str, list[Any]]:
        model, optimizer = self.model, self.model.optimizer
        own = model.variables if model.built else []
        kinds = {"model": own, "optimizer": optimizer.variables if optimizer.built else []}
        return {kind: [np.array(v) for v in found] for kind, found in kinds.items()}

    def begin(self, batch: int) -> None:
        self.epoch += batch == 0
        known = {"batch": batch, "epoch": self.epoch, "phase": self.phase}
        self.steps.append({**known, "before": self.values()})

    def end(self, batch: int, logs: Any) -> None:
        self.steps[-1]["end"] = batch
        self.steps[-1]["after"] = self.values()
        self.steps[-1]["logs"] = {k: float(np.asarray(v)) for k, v in (logs or {}).items()}

    def callback(self) -> Any:
        import keras

        return keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: self.begin(batch),
            on_train_batch_end=self.end,
        )


def callbacks_of(draw: Draw, folder: Path, validated: bool) -> list[Any]:
    from keras import callbacks

    watched = "val_loss" if validated else "loss"
    ema = draw.chosen["average"] != "none"
    makers: dict[str, Callable[[], Any]] = {
        "none": list,
        "rate by epoch": lambda: [callbacks.LearningRateScheduler(lambda e, r: r * 0.5**e)],
        "plateau": lambda: [callbacks.ReduceLROnPlateau(watched, patience=0, min_delta=9.0)],
        "restored": lambda: [
            callbacks.EarlyStopping(
                watched, patience=1, min_delta=9.0, restore_best_weights=True, start_from_epoch=0
            )
        ],
        "checkpoint": lambda: [callbacks.ModelCheckpoint(str(folder / "best.keras"), watched)],
        "backup": lambda: [callbacks.BackupAndRestore(str(folder / "backup"), save_freq=2)],
        "averages": lambda: [callbacks.SwapEMAWeights(swap_on_epoch=True)] if ema else [],
    }
    if draw.chosen["form"] in ("subclassed", "lazy"):
        del makers["backup"]  # which needs a model that is built
    if draw.chosen["rate"] != "fixed":  # a schedule cannot be set by a callback
        del makers["rate by epoch"], makers["plateau"]
    found: list[Any] = draw("callbacks", makers)()
    return found


def data_of(draw: Draw, batches: list[Any]) -> tuple[dict[str, Any], bool]:
    """Return what ``fit`` is given, and whether the order of the batches is known."""
    import keras
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    def generator() -> Any:
        while True:
            yield from batches

    whole = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    parts = dict(zip(("x", "y", "sample_weight"), whole, strict=False))
    sliced = tf.data.Dataset.from_tensor_slices(whole)
    found: dict[str, Any] = draw(
        "data",
        {
            "arrays": parts | {"batch_size": BATCH, "shuffle": False},
            "arrays shuffled": parts | {"batch_size": BATCH},
            "arrays split": parts | {"batch_size": 7, "validation_split": 0.2},
            "dataset": {"x": sliced.batch(BATCH)},
            "dataset prefetched": {"x": sliced.batch(BATCH).cache().prefetch(2)},
            "dataset repeated": {"x": sliced.batch(BATCH).repeat(), "steps_per_epoch": 3},
            "dataset shuffled": {"x": sliced.shuffle(9, seed=1).batch(BATCH, drop_remainder=True)},
            "generator": {"x": generator(), "steps_per_epoch": 3},
            "PyDataset": {"x": Batches(), "shuffle": False},
        },
    )
    if (
        draw("class_weight", [False, False, True])
        and draw.chosen["task"] == "classes"
        and len(batches[0]) == 2
    ):
        found["class_weight"] = {0: 0.5, 1: 2.0, 2: 1.0}
    if "validation_split" not in found and draw("validated", [False, True]):
        found |= {"validation_data": tuple(whole), "validation_batch_size": BATCH}
    unknown = ("arrays shuffled", "arrays split", "dataset shuffled", "generator")
    return found, draw.chosen["data"] not in unknown


def trained(draw: Draw, folder: Path, trace: Path | None) -> tuple[Notes, dict[str, Any]]:
    """Train what was drawn; return its notes, and what the check needs."""
    import keras

    from steptrace_tracer import Tracer

    keras.utils.set_random_seed(draw.seed % 1000)
    way = draw("way", (*FIT, "fit", "fit", *LOOPS))
    model, batches = network(draw, ROWS, BATCH)
    compiled(draw, model)
    notes, policy = Notes(model), policy_of(draw)

    def tracer_at(path: Path) -> Tracer:
        return Tracer(path, on_error="raise", progress=False, **policy)

    if way in LOOPS:
        _loop(way, model, batches, notes, trace and tracer_at(trace), draw)
        return notes, {"batches": batches, "known": True, "class_weight": None, "way": way}
    given, known = data_of(draw, batches)
    own = callbacks_of(draw, folder, "validation_data" in given or "validation_split" in given)
    tracer = trace and tracer_at(trace)
    tracers: list[Any] = [tracer] if tracer else []
    place = draw("tracer", ["first", "last"])
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
        others = [notes.callback(), *own]
        order = [*tracers, *others] if place == "first" else [*others, *tracers]
        epochs = EPOCHS if way == "fit" else 2
        done = model.fit(**given, epochs=epochs, verbose=0, callbacks=order)
        notes.histories.append(done.history)
    if tracer:
        tracer.close()
    weights = given.get("class_weight")
    return notes, {"batches": batches, "known": known, "class_weight": weights, "way": way}


def _loop(way: str, model: Any, batches: list[Any], notes: Notes, tracer: Any, draw: Draw) -> None:
    """Train in a loop of its own, which `tracer` records where there is one."""
    import tensorflow as tf

    def loss_of(batch: Any) -> Any:
        x, y, *weight = batch
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x, y, predicted, weight[0] if weight else None)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def from_iterator(iterator: Any) -> Any:
        return loss_of(next(iterator))

    step: Any = from_iterator if way == "loop over an iterator" else loss_of
    if way == "train_on_batch":
        step = model.train_on_batch
    elif way != "loop":
        step = tf.function(step, jit_compile=way == "loop xla")
    if tracer and draw("models", ["found", "given"]) == "given":
        step = tracer.wrap(step, models=[model], optimizers=[model.optimizer])
    elif tracer:
        step = tracer.wrap(step)
    if tracer is None:
        draw("models", ["found", "given"])
    tensors = tf.nest.map_structure(tf.constant, batches)
    stream: Any = None
    if way == "loop over an iterator":
        whole = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
        stream = iter(tf.data.Dataset.from_tensor_slices(whole).batch(BATCH).repeat())
    for epoch in range(EPOCHS):
        if tracer:
            tracer.epoch = epoch
        for number, batch in enumerate(tensors):
            notes.begin(number)
            if way == "train_on_batch":
                x, y, *weight = batches[number]
                found = step(x, y, weight[0] if weight else None, return_dict=True)
            else:
                found = {"loss": step(stream if way == "loop over an iterator" else batch)}
            notes.end(number, found)
    if tracer:
        tracer.close()


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


def judge(draw: Draw, keep: Path | None) -> tuple[str, list[str]]:
    """Return the verdict on one program, and what is wrong with it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        plain = in_own_process(draw, folder, None)
        if "error" in plain:
            return "invalid", [plain["error"].strip().splitlines()[-1][:200]]
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
