"""What recording costs: the training loop with and without the tracer, side by side.

    python benchmarks/recording.py                       all workloads, five rounds
    python benchmarks/recording.py --workload mlp --rounds 3
    python benchmarks/recording.py --peers --rounds 3    the MLP, and other ways to record it
    python benchmarks/recording.py --memory              memory over 2,000 steps of the MLP
    python benchmarks/recording.py --gpu                 on a GPU, or says that there is none
    python benchmarks/recording.py --steps 12 --rounds 1 whether all of it works

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

WORKLOADS = {
    "mlp": 500,
    "cnn": 24,
    "two layers": 2016,
    "two layers, 32 at once": 2016,
    "lstm": 200,
    "residual": 200,
    "transformer": 200,
}
"""Steps of each workload."""
AT_ONCE = {"two layers, 32 at once": 32}
"""Steps of one execution, where it is not one."""
GPU_WORKLOADS = {"cnn": 200, "large": 60}
"""Those on a GPU, of 3.5 and of 100 million parameters."""
OWN = {
    "untraced": "nothing",
    "one step of all": "the first step; the others are not traced",
    "weights+gradients": "weights, gradients",
    "default": "everything of the default policy",
}
"""What is always compared, and what it records."""
RARELY = {
    "untraced": "nothing",
    "every step": "everything of the default policy",
    "every=10": "the same, at one step in ten",
    "statistics only": "statistics of all tensors, at every step",
    "auto": "everything, as often as costs a tenth",
}
"""What is compared with ``--gpu`` and ``--rarely``."""
WARM_UP = 5
"""Steps at the beginning that are not timed: compilation is paid once."""
MEMORY_EPOCHS = 4
"""Epochs of the MLP's steps over which memory is watched."""
_SAMPLING_SECONDS = 0.1
_QUARTERS = 4
_STEPS = "STEPTRACE_BENCHMARK_STEPS"
"""The variable that says how many steps, where not those of the workload."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Resident memory at one time, in MB; 0 where there is no recorder."""

    time: float
    trainer: float
    recorder: float


def steps_of(workload: str) -> int:
    """Return the steps of a workload."""
    whole = WORKLOADS.get(workload) or GPU_WORKLOADS[workload]
    return int(os.environ.get(_STEPS, whole))


def build(workload: str) -> tuple[Any, Any, Any, int]:
    """Return a compiled model, its data and the batch size."""
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    steps = steps_of(workload)
    if workload == "residual":
        return residual(steps)
    if workload in ("transformer", "large"):
        return transformer(steps, **LARGE if workload == "large" else SMALL)
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


def residual(steps: int) -> tuple[Any, Any, Any, int]:
    """Return a residual network with batch normalisation, and the digits of scikit-learn."""
    import keras
    import numpy as np
    from keras import layers
    from sklearn.datasets import load_digits

    digits, batch = load_digits(), 32
    pixels = keras.Input((8, 8, 1))
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(pixels)
    for _ in range(3):
        inner = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
        inner = layers.ReLU()(layers.BatchNormalization()(inner))
        inner = layers.Conv2D(32, 3, padding="same", use_bias=False)(inner)
        x = layers.ReLU()(x + layers.BatchNormalization()(inner))
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pixels, x)
    model.compile("adam", "sparse_categorical_crossentropy")
    rows = np.arange(batch * steps) % len(digits.target)
    images = (digits.images[rows, :, :, None] / 16).astype(np.float32)
    return model, images, digits.target[rows], batch


SMALL = {"width": 64, "depth": 2, "heads": 4, "length": 32, "words": 500, "batch": 16}
LARGE = {"width": 768, "depth": 12, "heads": 12, "length": 64, "words": 10_000, "batch": 8}


def transformer(
    steps: int, *, width: int, depth: int, heads: int, length: int, words: int, batch: int
) -> tuple[Any, Any, Any, int]:
    """Return a network that predicts words, of blocks that normalise first."""
    import keras
    import numpy as np
    from keras import layers

    tokens = keras.Input((length,), dtype="int32")
    x = layers.Embedding(words, width)(tokens)
    for _ in range(depth):
        normal = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(
            normal, normal, use_causal_mask=True
        )
        inner = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(inner)
    model = keras.Model(tokens, layers.Dense(words, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    data = rng.integers(0, words, (2, batch * steps, length))
    return model, data[0], data[1], batch


def run_variant(workload: str, variant: str, epochs: int, folder: str) -> dict[str, float]:
    """Train once; return seconds of the loop and of closing, CPU seconds, and bytes."""
    import keras

    model, x, y, batch_size = build(workload)
    steps = steps_of(workload)
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
            "every step": Policy(),
            "every=10": Policy(every=10),
            "statistics only": Policy(
                statistics_only=("weights", "gradients", "activations", "activation_gradients")
            ),
            "auto": Policy(max_slowdown=0.1),
        }[variant]
        tracer = Tracer(Path(folder) / "run.zarr", policy, on_error="raise", progress=False)
        callbacks.append(tracer)
    ends: list[float] = []
    cpu: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.time())
            cpu.append(time.process_time())

    model.fit(
        x[: steps * batch_size],
        y[: steps * batch_size],
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, Clock()],
    )
    # The trace is finished behind the last callback. Keras lets go of its data set there, too,
    # which takes up to as long as the training did, by chance.
    returned, spent = time.time(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    at_once = AT_ONCE.get(workload, 1)
    timed, done = (len(ends) - WARM_UP) * at_once, len(ends) * at_once
    stored = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return {
        "steps": done,
        "began": ends[WARM_UP - 1],
        "ended": ends[-1],
        "loop": (ends[-1] - ends[WARM_UP - 1]) / timed,
        "close": (returned - ends[-1]) / done,
        "cpu": (cpu[-1] - cpu[WARM_UP - 1]) / timed + (spent - cpu[-1]) / done,
        "recorder_cpu": (children.ru_utime + children.ru_stime) / done,
        "stored": stored / done,
    }


def run_watched(
    workload: str, variant: str, folder: str, epochs: int = 1
) -> tuple[dict[str, float], list[Sample]]:
    """Run one variant in a separate process, and watch the memory of its processes.

    It leaves its files in `folder`. For minutes after files were deleted, ext4 goes past each of
    their numbers whenever a file is made (`recently_deleted`), which took a fifth of the recorder's
    time in the runs that followed.
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    samples: list[Sample] = []
    own = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, __file__, "--one", workload, variant, str(epochs), own]
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
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for variant in variants:
                result, samples = run_watched(workload, variant, folder)
                result["trainer_mb"] = max(sample.trainer for sample in samples)
                result["recorder_mb"] = max(sample.recorder for sample in samples)
                results[variant].append(result)
    base = results["untraced"]
    print(f"\n{workload}, median of {rounds} rounds\n")
    print(
        "| variant | records | steps | loop, ms a step | loop ratio | closing, ms a step "
        "| loop + closing ratio | CPU ratio, all processes | recorder CPU, ms a step | trainer MB "
        "| recorder MB | on disk, MB a step |"
    )
    print("| --- " * 12 + "|")
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
        "" if variant in PEERS or variant == "untraced" else f"{median('recorder_mb'):.0f}",
        f"{median('stored') / 1e6:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def watch_memory() -> None:
    """Print the memory in each quarter of a long run, of which the compilation is no part."""
    steps = steps_of("mlp") * MEMORY_EPOCHS
    print(f"\nlargest resident memory in MB, mlp, {steps} steps, by quarters\n")
    print("| variant | process | first | second | third | fourth |")
    print("| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for variant in OWN:
            result, samples = run_watched("mlp", variant, folder, MEMORY_EPOCHS)
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


def accelerators() -> list[str]:
    """Return the GPUs that TensorFlow finds; in another process, which lets go of them."""
    gpus = "tensorflow.config.list_physical_devices('GPU')"
    code = f"import tensorflow; print(*(found.name for found in {gpus}))"
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return found.stdout.split()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what recording costs.")
    workloads = sorted({*WORKLOADS, *GPU_WORKLOADS})
    parser.add_argument("--workload", choices=workloads, action="append")
    parser.add_argument("--steps", type=int, help="steps, instead of those of each workload")
    parser.add_argument("--rarely", action="store_true", help="every=10, statistics only, auto")
    parser.add_argument("--gpu", action="store_true", help="the same, on a GPU")
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
    if arguments.steps is not None:
        os.environ[_STEPS] = str(arguments.steps)  # which the processes of the runs read
    gpus = accelerators() if arguments.gpu else []
    if arguments.gpu and not gpus:
        print("TensorFlow finds no GPU here, so nothing was measured on one")
        return
    if arguments.gpu or arguments.rarely:
        if gpus:
            os.environ["TF_DETERMINISTIC_OPS"] = "1"
            print(", ".join(gpus))
        for workload in arguments.workload or (GPU_WORKLOADS if gpus else WORKLOADS):
            measure(workload, arguments.rounds, RARELY)
        return
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
