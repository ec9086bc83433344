"""What recording costs: the training loop with and without the tracer, side by side.

    python benchmarks/recording.py                       both workloads, five rounds
    python benchmarks/recording.py --workload mlp --rounds 3 --peers

Every round runs each variant once, in a process of its own, in turn, so that all see the same
machine. Prints one table for each workload: medians, and ratios to the untraced variant of the
same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WORKLOADS = {"mlp": 500, "cnn": 24}
"""Steps of each workload."""
VARIANTS = ("untraced", "one step of all", "weights+gradients", "default")
PEERS = ("np.savez", "h5py", "zarr", "save_weights", "histograms", "tfdbg")
"""Other ways to write down each step's weights: one file or one row a step; TensorBoard's
histograms; every tensor of the graph by TensorFlow's debugger. Only the debugger has gradients."""
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


def peer(name: str, folder: Path) -> Any:
    """Return a callback that writes the weights after every step in a peer's way."""
    import h5py
    import keras
    import numpy as np
    import tensorflow as tf
    import zarr

    class Peer(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.step = 0
            self.names = [str(index) for index in range(len(self.model.weights))]
            if name == "h5py":
                self.file = h5py.File(folder / "run.h5", "w")
            elif name == "zarr":
                self.group: Any = zarr.create_group(folder / "run.zarr")
                for key, value in zip(self.names, self.model.get_weights(), strict=True):
                    self.group.create_array(
                        key,
                        shape=(self.params["steps"], *value.shape),
                        chunks=(1, *value.shape),
                        dtype=value.dtype,
                    )
            elif name == "histograms":
                self.writer = tf.summary.create_file_writer(str(folder))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if name == "save_weights":
                self.model.save_weights(folder / f"{self.step}.weights.h5")
            elif name == "histograms":
                with self.writer.as_default(step=self.step):
                    for key, variable in zip(self.names, self.model.weights, strict=True):
                        tf.summary.histogram(key, variable.value)
            elif name != "tfdbg":
                weights = dict(zip(self.names, self.model.get_weights(), strict=True))
                if name == "np.savez":
                    np.savez(folder / f"{self.step}.npz", **weights)
                for key, value in weights.items():
                    if name == "h5py":
                        self.file[f"{self.step}/{key}"] = value
                    elif name == "zarr":
                        self.group[key][self.step] = value
            self.step += 1

        def on_train_end(self, logs: Any = None) -> None:
            if name == "h5py":
                self.file.close()
            elif name == "histograms":
                self.writer.close()

    return Peer()


class PeakMemory:
    """The most memory that a child process has had, sampled while this process trains."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        import psutil

        own = psutil.Process()
        while not self._ended.wait(0.05):
            for child in own.children():
                with contextlib.suppress(psutil.Error):
                    self.peak = max(self.peak, child.memory_info().rss)

    def end(self) -> float:
        """Return the peak in MB."""
        self._ended.set()
        self._thread.join()
        return self.peak / 1e6


def run_variant(workload: str, variant: str, folder: str) -> dict[str, float]:
    """Train once; return seconds of the loop and of closing, CPU seconds, and bytes."""
    import keras

    if variant == "tfdbg":
        import tensorflow as tf

        tf.debugging.experimental.enable_dump_debug_info(
            folder, tensor_debug_mode="FULL_TENSOR", circular_buffer_size=-1
        )
    model, x, y, batch_size = build(workload)
    if variant in ("tfdbg", "save_weights"):
        x, y = x[: batch_size * 60], y[: batch_size * 60]  # they take seconds for a few steps
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.perf_counter())

    callbacks: list[Any] = []
    path = Path(folder) / "run.zarr"
    memory = PeakMemory()
    if variant in PEERS:
        callbacks.append(peer(variant, Path(folder)))
    elif variant != "untraced":
        from steptrace_tracer import Policy, Tracer

        kinds = {
            "one step of all": Policy(every=10**6),
            "weights+gradients": Policy(kinds=("weights", "gradients")),
            "default": Policy(),
        }[variant]
        callbacks.append(Tracer(path, kinds, on_error="raise", progress=False))
    began = resource.getrusage(resource.RUSAGE_SELF)
    model.fit(
        x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[*callbacks, Clock()]
    )
    closed = time.perf_counter()
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    raw, stored = 0, 0
    if variant in PEERS:
        stored = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    elif callbacks:
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
        "recorder_mb": memory.end(),
        "per_step": (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP),
        "raw": raw,
        "stored": stored,
    }


def measure(workload: str, rounds: int, variants: tuple[str, ...]) -> None:
    """Run all variants in turn and print their table."""
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    for _ in range(rounds):
        for variant in variants:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--one", workload, variant, folder]
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=environment
                )
            results[variant].append(json.loads(done.stdout.splitlines()[-1]))
    base = results["untraced"]
    print(f"\n{workload}, {WORKLOADS[workload]} steps, median of {rounds} rounds\n")
    print(
        "| variant | ms a step | ratio | closing s | loop + closing ratio | CPU ratio, all "
        "processes | recorder CPU s | trainer MB | recorder MB | raw MB | stored / raw |"
    )
    print("| --- " * 11 + "|")
    for variant, runs in results.items():

        def median(key: str, runs: list[dict[str, float]] = runs) -> float:
            return statistics.median(run[key] for run in runs)

        pairs = list(zip(runs, base, strict=True))
        loop = statistics.median(r["per_step"] / b["per_step"] for r, b in pairs)
        whole = statistics.median(
            (r["loop"] + r["close"]) / (b["loop"] + b["close"]) for r, b in pairs
        )
        cpu = statistics.median((r["cpu"] + r["recorder_cpu"]) / b["cpu"] for r, b in pairs)
        raw = median("raw")
        packed = f"{median('stored') / raw:.2f}" if raw else ""
        cells = [
            variant,
            f"{median('per_step') * 1e3:.2f}",
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
    parser.add_argument("--peers", action="store_true", help="other tools beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_variant(*arguments.one)))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for workload in arguments.workload or WORKLOADS:
        variants = (*VARIANTS, *PEERS) if arguments.peers else VARIANTS
        measure(workload, arguments.rounds, variants)


if __name__ == "__main__":
    main()
