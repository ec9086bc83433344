"""How fast the recorder is once the training is over: journals of real runs into their stores.

    python benchmarks/recorder.py                    both workloads, three times
    python benchmarks/recorder.py --folder /tmp/runs   keep the training runs there
    python benchmarks/recorder.py --workload mlp --rounds 1 --where    where the time goes

The training itself is not timed. Each move runs in a separate process, as the recorder does.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from traced_runs import WORKLOADS, journal_of

from steptrace_tracer.record.recorder_handle import ENVIRONMENT

STEPS = {"mlp": 500, "cnn": 24}


def move(store: Path, workers: int, *, where: bool) -> dict[str, float]:
    """Move the journal of `store`; return bytes, seconds, CPU seconds and peak memory."""
    from steptrace_schema.journal.reader import JournalReader
    from steptrace_schema.journal.where import journal_path
    from steptrace_schema.moving.journal_mover import JournalMover

    journal = journal_path(store)
    raw = JournalReader(journal).pending().nbytes
    profile = cProfile.Profile()
    cpu, began = time.process_time(), time.perf_counter()
    if where:
        profile.enable()
    JournalMover(journal, store, workers).finish("complete", None)
    if where:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    files = [path for path in store.rglob("*") if path.is_file()]
    return {
        "raw": raw,
        "seconds": seconds,
        "cpu": cpu,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stored": sum(path.stat().st_size for path in files),
        "files": len(files),
    }


def measure(
    workload: str, profile: str, workers: int, rounds: int, folder: Path, *, where: bool
) -> str:
    """Return one row of the table: medians."""
    runs = []
    for _ in range(rounds):
        store = journal_of(workload, STEPS[workload], profile, folder)
        command = [sys.executable, __file__, "--one", str(store), str(workers)]
        done = subprocess.run(
            [*command, *(["--where"] if where else [])],
            check=True,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        # Not deleted: for minutes, ext4 goes past the number of each deleted file for a new one.
        store.rename(tempfile.mkdtemp(dir=folder))
    speed = statistics.median(run["raw"] / run["seconds"] for run in runs) / 1e6
    per_core = statistics.median(run["raw"] / run["cpu"] for run in runs) / 1e6
    memory = max(run["mb"] for run in runs)
    last = runs[-1]
    cells = [workload, profile, workers, f"{last['raw'] / 1e6:.0f}", f"{speed:.0f}"]
    cells += [f"{per_core:.0f}", f"{memory:.0f}", f"{last['stored'] / last['raw']:.2f}"]
    return "| " + " | ".join(map(str, [*cells, last["files"]])) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how fast a journal becomes a store.")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--profile", action="append")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--where", action="store_true", help="print a profile of the time")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        store, workers = arguments.one
        print(json.dumps(move(Path(store), int(workers), where=arguments.where)))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        "| workload | profile | threads | raw MB | MB/s | MB/s for each core used | memory MB "
        "| stored / raw | files |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for workload in arguments.workload or WORKLOADS:
            for profile in arguments.profile or ["fast"]:
                for workers in arguments.workers or [1, os.cpu_count() or 1]:
                    row = measure(
                        workload,
                        profile,
                        workers,
                        arguments.rounds,
                        folder,
                        where=arguments.where,
                    )
                    print(row, flush=True)


if __name__ == "__main__":
    main()
