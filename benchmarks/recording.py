"""What recording costs: the training loop with and without the tracer, side by side.

    python benchmarks/recording.py                       all workloads, five rounds
    python benchmarks/recording.py --workload mlp --rounds 3
    python benchmarks/recording.py --peers --rounds 3    the MLP, and other ways to record it
    python benchmarks/recording.py --memory              memory over 2,000 steps of the MLP

Every round runs each variant once, one after the other, each in a separate process, so that all see
the same machine. Prints one table for each workload: medians, and ratios to the untraced variant of
the same round, for each step. TensorBoard needs the package tensorboard (extra `benchmarks`).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOADS = {"mlp": 500, "cnn": 24, "two layers": 2016, "two layers, 32 at once": 2016, "lstm": 200}
"""Steps of each workload."""
AT_ONCE = {"two layers, 32 at once": 32}
"""Steps of one execution, where it is not one."""
OWN = {
    "untraced": "nothing",
    "one step of all": "the first step; the others are not traced",
    "weights+gradients": "weights, gradients",
    "default": "everything of the default policy",
}
"""What is always compared, and what it records."""
WARM_UP = 5
"""Steps at the beginning that are not timed: compilation is paid once."""
MEMORY_EPOCHS = 4
"""Epochs of the MLP's steps over which memory is watched."""
_SAMPLING_SECONDS = 0.1
_QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class Sample:
    """Resident memory at one time, in MB; 0 where there is no recorder."""

    time: float
    trainer: float
    recorder: float


def build(workload: str) -> tuple[Any, Any, Any, int]:
    """Return a compiled model, its data and the batch size."""
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    steps = WORKLOADS[workload]
    if workload == "mlp":
        model = keras.Sequential(
            [
                keras.Input((784,)),
                layers.Dense(256, activation="relu"),
                layers.Dense(128, activation="relu"),
                layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        x = rng.random((64 * steps, 784), dtype=np.float32)
        return model, x, rng.integers(0, 10, 64 * steps), 64
    if workload.startswith("two layers"):
        model = keras.Sequential(
            [
                keras.Input((20,)),
                layers.Dense(32, activation="relu"),
                layers.Dense(4, activation="softmax"),
            ]
        )
        at_once = AT_ONCE.get(workload, 1)
        model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=at_once)
        x = rng.random((32 * steps, 20), dtype=np.float32)
        return model, x, rng.integers(0, 4, 32 * steps), 32
    if workload == "lstm":
        model = keras.Sequential(
            [keras.Input((32, 8)), layers.LSTM(32), layers.Dense(4, activation="softmax")]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        x = rng.random((32 * steps, 32, 8), dtype=np.float32)
        return model, x, rng.integers(0, 4, 32 * steps), 32
    model = keras.Sequential([keras.Input((150, 150, 3))])
    for filters in (32, 64, 128, 128):
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("rmsprop", "binary_crossentropy")
    x = rng.random((32 * steps, 150, 150, 3), dtype=np.float32)
    return model, x, rng.integers(0, 2, (32 * steps, 1)), 32


def run_variant(workload: str, variant: str, epochs: int, folder: str) -> dict[str, float]:
    """Train once; return seconds of the loop and of closing, CPU seconds, and bytes."""
    import keras

    model, x, y, batch_size = build(workload)
    steps = WORKLOADS[workload]
    callbacks: list[Any] = []
    if variant in PEERS:
        steps = min(steps, PEERS[variant].steps)
        model, callbacks = PEERS[variant].attach(lambda: build(workload)[0], Path(folder))
    elif variant != "untraced":
        from steptrace_tracer import Policy, Tracer

        policy = {
            "one step of all": Policy(every=10**9),
            "weights+gradients": Policy(kinds=("weights", "gradients")),
            "default": Policy(),
        }[variant]
        tracer = Tracer(Path(folder) / "run.zarr", policy, on_error="raise", progress=False)
        callbacks.append(tracer)
    ends: list[float] = []
    cpu: list[float] = []
    closed: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.time())
            cpu.append(time.process_time())

        def on_train_end(self, logs: Any = None) -> None:
            # Behind the tracer's own. How long Keras then takes to let go of its data set is
            # another matter, and a column of its own.
            closed[:] = [time.time(), time.process_time()]

    model.fit(
        x[: steps * batch_size],
        y[: steps * batch_size],
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, Clock()],
    )
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    returned = time.time()
    at_once = AT_ONCE.get(workload, 1)
    timed, done = (len(ends) - WARM_UP) * at_once, len(ends) * at_once
    stored = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return {
        "steps": done,
        "began": ends[WARM_UP - 1],
        "ended": ends[-1],
        "loop": (ends[-1] - ends[WARM_UP - 1]) / timed,
        "close": (closed[0] - ends[-1]) / done,
        "cpu": (cpu[-1] - cpu[WARM_UP - 1]) / timed + (closed[1] - cpu[-1]) / done,
        "recorder_cpu": (children.ru_utime + children.ru_stime) / done,
        "late": returned - closed[0],
        "stored": stored / done,
    }


def run_watched(
    workload: str, variant: str, epochs: int = 1
) -> tuple[dict[str, float], list[Sample]]:
    """Run one variant in a separate process, and watch the memory of its processes."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", workload, variant, str(epochs), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
            trainer = psutil.Process(run.pid)
            while True:
                try:
                    said, _ = run.communicate(timeout=_SAMPLING_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    samples.extend(_memory(trainer))
        if run.returncode:
            msg = f"{variant}: the training ended with code {run.returncode}"
            raise SystemExit(msg)
    return json.loads(said.splitlines()[-1]), samples


def _memory(trainer: Any) -> Iterator[Sample]:
    try:
        own = trainer.memory_info().rss / 2**20
        recorders = [
            child.memory_info().rss / 2**20
            for child in trainer.children()
            if any("recorder_process" in word for word in child.cmdline())
        ]
    except psutil.NoSuchProcess:  # it ended between the two looks
        return
    yield Sample(time.time(), own, max(recorders, default=0.0))


def measure(workload: str, rounds: int, variants: dict[str, str]) -> None:
    """Run all variants one after the other, and print their table."""
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            result, samples = run_watched(workload, variant)
            result["trainer_mb"] = max(sample.trainer for sample in samples)
            result["recorder_mb"] = max(sample.recorder for sample in samples)
            results[variant].append(result)
    base = results["untraced"]
    print(f"\n{workload}, median of {rounds} rounds\n")
    print(
        "| variant | records | steps | loop, ms a step | loop ratio | closing, ms a step "
        "| loop + closing ratio | CPU ratio, all processes | recorder CPU, ms a step | trainer MB "
        "| recorder MB | on disk, MB a step | fit returns later, s |"
    )
    print("| --- " * 13 + "|")
    for variant, runs in results.items():
        print(_row(variant, variants[variant], runs, base))
    sys.stdout.flush()


def _row(
    variant: str, records: str, runs: list[dict[str, float]], base: list[dict[str, float]]
) -> str:
    def median(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    def ratio(*keys: str) -> float:
        return statistics.median(
            sum(run[key] for key in keys) / sum(untraced[key] for key in keys)
            for run, untraced in zip(runs, base, strict=True)
        )

    cells = [
        variant,
        records,
        f"{median('steps'):.0f}",
        f"{median('loop') * 1e3:.2f}",
        f"{ratio('loop'):.2f}",
        f"{median('close') * 1e3:.2f}",
        f"{ratio('loop', 'close'):.2f}",
        f"{ratio('cpu', 'recorder_cpu'):.2f}",
        f"{median('recorder_cpu') * 1e3:.2f}",
        f"{median('trainer_mb'):.0f}",
        f"{median('recorder_mb'):.0f}" if variant in OWN and variant != "untraced" else "",
        f"{median('stored') / 1e6:.3f}",
        f"{median('late'):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def watch_memory() -> None:
    """Print the memory in each quarter of a long run, of which the compilation is no part."""
    steps = WORKLOADS["mlp"] * MEMORY_EPOCHS
    print(f"\nlargest resident memory in MB, mlp, {steps} steps, by quarters\n")
    print("| variant | process | first | second | third | fourth |")
    print("| --- " * 6 + "|")
    for variant in OWN:
        result, samples = run_watched("mlp", variant, MEMORY_EPOCHS)
        looping = [s for s in samples if result["began"] <= s.time <= result["ended"]]
        _print_quarters(variant, "trainer", [sample.trainer for sample in looping])
        # The recorder's work goes on when the training has ended.
        if recorder := [sample.recorder for sample in samples if sample.recorder]:
            _print_quarters(variant, "recorder", recorder)


def _print_quarters(variant: str, process: str, values: list[float]) -> None:
    bounds = [len(values) * quarter // _QUARTERS for quarter in range(_QUARTERS + 1)]
    parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
    cells = [f"{max(part, default=0.0):.0f}" for part in parts]
    print("| " + " | ".join([variant, process, *cells]) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what recording costs.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="other ways to record the MLP")
    parser.add_argument("--memory", action="store_true", help="memory over many steps of the MLP")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        workload, variant, epochs, folder = arguments.one
        print(json.dumps(run_variant(workload, variant, int(epochs), folder)))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if arguments.memory:
        watch_memory()
        return
    if arguments.peers:
        measure("mlp", arguments.rounds, OWN | {name: p.records for name, p in PEERS.items()})
        return
    for workload in arguments.workload or WORKLOADS:
        measure(workload, arguments.rounds, OWN)


if __name__ == "__main__":
    main()
