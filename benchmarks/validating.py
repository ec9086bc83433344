"""How long ``steptrace validate`` takes at each level, on one run in each profile.

    python benchmarks/validating.py                      256 steps
    python benchmarks/validating.py --steps 1000 --folder /tmp/runs

The run is that of ``benchmarks/reading.py``: an MLP 784-256-128-10 with Adam. Levels are timed in
turn; medians of three, with the files in the page cache. The last column is the level ``data``
without rule R22, which computes the digest of every tensor again.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

from traced_runs import journal_of

from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.validate import LEVELS, validate
from steptrace_schema.validate.data import DATA_CHECKS

PROFILES = ("none", "fast", "compact")
REPEATS = 3
WITHOUT = "data without R22"


def main() -> None:
    """Write the traces, measure and print."""
    parser = argparse.ArgumentParser(description="Time the validation of a run.")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to keep the training run")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Numcodecs codecs are not")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print("\n| profile | MB | " + " | ".join([*LEVELS, WITHOUT]) + " |\n" + "| --- " * 6 + "|")
        for profile in PROFILES:
            store = journal_of("mlp", arguments.steps, profile, folder)
            recover(store)
            print(f"| {profile} | " + " | ".join(_cells(store)) + " |", flush=True)


def _cells(store: Path) -> list[str]:
    seconds: dict[str, list[float]] = {level: [] for level in (*LEVELS, WITHOUT)}
    others = tuple(check for check in DATA_CHECKS if check.__name__ != "_digests_match")
    assert len(others) == len(DATA_CHECKS) - 1
    for _ in range(REPEATS):
        for level in seconds:
            began = time.perf_counter()
            if level == WITHOUT:
                with mock.patch("steptrace_schema.validate.DATA_CHECKS", others):
                    problems = validate(store, "data")
            else:
                problems = validate(store, level)  # type: ignore[arg-type]
            seconds[level].append(time.perf_counter() - began)
            if problems:
                msg = f"{store} is not valid: {problems[0]}"
                raise SystemExit(msg)
    size = sum(file_sizes(store).values()) / 1e6
    return [f"{size:.0f}", *(f"{statistics.median(found):.2f}" for found in seconds.values())]


if __name__ == "__main__":
    main()
