"""What statistics of samples, and keeping steps that break, cost a training that is recorded.

    python benchmarks/incidents.py --rounds 5

Every round trains each workload of ``recording.py`` untraced, recorded without both, and recorded
with the default policy, each in a separate process. Prints processor time of all processes for each
step, and by how much of an untraced step, and of a recorded one, both raise it: medians of the
rounds.
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

from recording import WARM_UP, WORKLOADS, build

VARIANTS: dict[str, dict[str, Any] | None] = {
    "untraced": None,
    "without": {"sample_statistics": False, "incidents": 0},
    "statistics": {"incidents": 0},
    "both": {},
}


def run_variant(workload: str, variant: str, folder: str) -> dict[str, float]:
    """Train once; return seconds of processor and clock for each step."""
    import keras

    from steptrace_tracer import Tracer

    model, x, y, batch_size = build(workload)
    fields = VARIANTS[variant]
    clock: list[tuple[float, float]] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            clock.append((time.process_time(), time.perf_counter()))

    callbacks: list[Any] = [Clock()]
    if fields is not None:
        path = Path(folder) / "run.zarr"
        callbacks.insert(0, Tracer(path, on_error="raise", progress=False, **fields))
    model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=callbacks)
    steps = len(clock) - WARM_UP
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu": (clock[-1][0] - clock[WARM_UP - 1][0]) / steps
        + (children.ru_utime + children.ru_stime) / len(clock),
        "loop": (clock[-1][1] - clock[WARM_UP - 1][1]) / steps,
    }


def measure(workload: str, rounds: int) -> None:
    """Run all variants one after the other, and print their table."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--one", workload, variant, folder]
                environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
                said = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=environment
                ).stdout
            found[variant].append(json.loads(said.splitlines()[-1]))
    print(f"\n{workload}, {WORKLOADS[workload]} steps, median of {rounds} rounds\n")
    print(
        "| variant | processor, ms a step | loop, ms a step | more than without, ms of processor "
        "| of an untraced step | of a recorded step |"
    )
    print("| --- " * 6 + "|")
    for variant, runs in found.items():
        cpu, loop = (statistics.median(run[key] for run in runs) * 1e3 for key in ("cpu", "loop"))
        cells = [variant, f"{cpu:.2f}", f"{loop:.2f}", "", "", ""]
        if variant in ("statistics", "both"):
            rows = list(zip(runs, found["without"], found["untraced"], strict=True))
            more = [run["cpu"] - without["cpu"] for run, without, _ in rows]
            cells[3] = f"{statistics.median(more) * 1e3:.2f}"
            for place, base in ((4, 2), (5, 1)):
                parts = [(row[0]["cpu"] - row[1]["cpu"]) / row[base]["cpu"] for row in rows]
                cells[place] = f"{statistics.median(parts):.1%}"
        print("| " + " | ".join(cells) + " |")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what keeping steps that break costs.")
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
