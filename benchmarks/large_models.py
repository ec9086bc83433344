"""What recording large models takes: memory of the trainer, bytes on disk, and what was planned.

    python benchmarks/large_models.py                            all models, each in three ways
    python benchmarks/large_models.py --model MobileNetV2 --variant default --steps 3

Each run is a separate process, one at a time. Prints a table: the largest memory of the training
process, also as a part of a recorded step's tensors more than untraced; the time until the first
step is done; what `steptrace plan` expects on disk, and what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import LARGE, transformer

MODELS = ("MobileNetV2", "ResNet50", "transformer")
VARIANTS: dict[str, dict[str, Any]] = {
    "untraced": {},
    "default": {},
    "every=10": {"every": 10},
    "statistics only": {
        "statistics_only": ("weights", "gradients", "activations", "activation_gradients")
    },
}
"""Fields of the policy."""
BATCH = 8
PIXELS = 64


def build(name: str) -> tuple[Any, Any, Any]:
    """Return a compiled model, and a batch."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    if name == "transformer":
        return transformer(1, **LARGE | {"batch": BATCH})[:3]
    rng = np.random.default_rng(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(PIXELS, PIXELS, 3), classes=10
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x = rng.random((BATCH, PIXELS, PIXELS, 3), dtype=np.float32)
    return model, x, rng.integers(0, 10, BATCH)


def run(name: str, variant: str, steps: int, folder: str) -> dict[str, float]:
    """Train, and return what that took."""
    import keras
    import numpy as np

    model, x, y = build(name)
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.perf_counter())

    callbacks: list[Any] = [Clock()]
    path = Path(folder) / "run.zarr"
    if variant != "untraced":
        from steptrace_tracer import Tracer

        callbacks.insert(0, Tracer(path, on_error="raise", progress=False, **VARIANTS[variant]))
    begin = time.perf_counter()
    many = (steps, *(1 for _ in x.shape[1:]))
    model.fit(
        np.tile(x, many),
        np.tile(y, (steps, *(1 for _ in y.shape[1:]))),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    found = {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first": ends[0] - begin,
        "last": ends[-1] - ends[-2],
        "stored": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        "parameters": model.count_params(),
    }
    return found


def planned(name: str, variant: str, steps: int, _folder: str) -> dict[str, float]:
    """Return what the plan expects."""
    from steptrace_tracer import plan

    model, x, y = build(name)
    found = plan(model, (x, y), steps=steps, **VARIANTS[variant])
    return {
        "step_bytes": found.step_bytes,
        "run_bytes": found.run_bytes or 0,
        "stored_bytes": found.stored_bytes or 0,
    }


def separately(what: str, name: str, variant: str, steps: int) -> dict[str, float]:
    """Do one run in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", what, name, variant, str(steps), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        msg = f"{name}, {variant}: ended with code {done.returncode}"
        raise SystemExit(msg)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what recording large models takes.")
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, name, variant, steps, folder = arguments.one
        function = {"run": run, "plan": planned}[what]
        print(json.dumps(function(name, variant, int(steps), folder)))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, {arguments.steps} steps\n")
    print(
        "| model | variant | trainer, peak MB | more than untraced, steps' tensors "
        "| first step, s | last step, s | a step, MB | planned on disk, MB | on disk, MB "
        "| planned / found |"
    )
    print("| --- " * 10 + "|")
    for name in arguments.model or MODELS:
        untraced = separately("run", name, "untraced", arguments.steps)
        print(_row(name, "untraced", untraced, untraced, {}), flush=True)
        for variant in arguments.variant or list(VARIANTS)[1:]:
            found = separately("run", name, variant, arguments.steps)
            expected = separately("plan", name, variant, arguments.steps)
            print(_row(name, variant, found, untraced, expected), flush=True)


def _row(
    name: str,
    variant: str,
    found: dict[str, float],
    untraced: dict[str, float],
    expected: dict[str, float],
) -> str:
    cells = [f"{name}, {found['parameters'] / 1e6:.1f} M", variant, f"{found['peak'] / 1e6:.0f}"]
    times = [f"{found['first']:.1f}", f"{found['last']:.2f}"]
    if not expected:
        return "| " + " | ".join([*cells, "", *times, "", "", "", ""]) + " |"
    more = (found["peak"] - untraced["peak"]) / expected["step_bytes"]
    cells += [f"{more:.2f}", *times]
    cells += [
        f"{expected['step_bytes'] / 1e6:.1f}",
        f"{expected['stored_bytes'] / 1e6:.1f}",
        f"{found['stored'] / 1e6:.1f}",
        f"{expected['stored_bytes'] / found['stored']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
