"""What recording costs: the training loop with and without the tracer, side by side.

    python benchmarks/recording.py                       both workloads, five rounds
    python benchmarks/recording.py --workload mlp --rounds 3

Every round runs each variant once, in a process of its own, in turn, so that all see the same
machine. Prints one table for each workload: medians, and ratios to the untraced variant of the
same round.
"""

from __future__ import annotations

import argparse
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
from typing import Any

WORKLOADS = {"mlp": 500, "cnn": 24}
"""Steps of each workload."""
VARIANTS = ("untraced", "weights+gradients", "default")
WARM_UP = 5
"""Steps at the beginning that are not timed: compilation is paid once."""


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


def run_variant(workload: str, variant: str, folder: str) -> dict[str, float]:
    """Train once; return seconds of the loop and of closing, CPU seconds, and bytes."""
    import keras

    model, x, y, batch_size = build(workload)
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.perf_counter())

    callbacks: list[Any] = []
    path = Path(folder) / "run.zarr"
    if variant != "untraced":
        from steptrace_tracer import Policy, Tracer

        kinds = Policy(kinds=("weights", "gradients")) if variant != "default" else Policy()
        callbacks.append(Tracer(path, kinds, on_error="raise", progress=False))
    began = resource.getrusage(resource.RUSAGE_SELF)
    model.fit(
        x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[*callbacks, Clock()]
    )
    closed = time.perf_counter()
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    raw, stored = 0, 0
    if callbacks:
        import zarr

        members = zarr.open_group(path, mode="r").members(max_depth=None)
        raw = sum(a.nbytes for _, a in members if isinstance(a, zarr.Array))
        stored = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return {
        "loop": (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP) * len(ends),
        "close": closed - ends[-1],
        "cpu": own.ru_utime + own.ru_stime - began.ru_utime - began.ru_stime,
        "recorder_cpu": children.ru_utime + children.ru_stime,
        "trainer_mb": own.ru_maxrss / 1024,
        "recorder_mb": children.ru_maxrss / 1024,
        "raw": raw,
        "stored": stored,
    }


def measure(workload: str, rounds: int) -> None:
    """Run all variants in turn and print their table."""
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    for _ in range(rounds):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--one", workload, variant, folder]
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=environment
                )
            results[variant].append(json.loads(done.stdout.splitlines()[-1]))
    base = results["untraced"]
    print(f"\n{workload}, {WORKLOADS[workload]} steps, median of {rounds} rounds\n")
    print(
        "| variant | loop s | loop ratio | closing s | loop + closing ratio | CPU ratio, all "
        "processes | recorder CPU s | trainer MB | recorder MB | raw MB | stored / raw |"
    )
    print("| --- " * 11 + "|")
    for variant, runs in results.items():

        def median(key: str, runs: list[dict[str, float]] = runs) -> float:
            return statistics.median(run[key] for run in runs)

        pairs = list(zip(runs, base, strict=True))
        loop = statistics.median(r["loop"] / b["loop"] for r, b in pairs)
        whole = statistics.median(
            (r["loop"] + r["close"]) / (b["loop"] + b["close"]) for r, b in pairs
        )
        cpu = statistics.median((r["cpu"] + r["recorder_cpu"]) / b["cpu"] for r, b in pairs)
        raw = median("raw")
        packed = f"{median('stored') / raw:.2f}" if raw else ""
        cells = [
            variant,
            f"{median('loop'):.2f}",
            f"{loop:.2f}",
            f"{median('close'):.2f}",
            f"{whole:.2f}",
            f"{cpu:.2f}",
            f"{median('recorder_cpu'):.1f}",
            f"{median('trainer_mb'):.0f}",
            f"{median('recorder_mb'):.0f}",
            f"{raw / 1e6:.0f}",
            packed,
        ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what recording costs.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_variant(*arguments.one)))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for workload in arguments.workload or WORKLOADS:
        measure(workload, arguments.rounds)


if __name__ == "__main__":
    main()
