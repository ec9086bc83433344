"""How long a user waits: for the help of the command line, and for the demo.

    python benchmarks/startup.py

Prints one table. The commands are run in turn, so that all see the same machine; medians.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 9
HELP_LIMIT = 0.4
DEMO_LIMIT = 90.0


def seconds(command: list[str]) -> float:
    """Run a command that has to succeed, and return the seconds it took."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    steptrace = str(Path(sys.executable).with_name("steptrace"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "steptrace --help": [steptrace, "--help"],
        "steptrace anomalies --help": [steptrace, "anomalies", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in times.items()}
    bare = median["python -c pass"]
    with tempfile.TemporaryDirectory() as folder:
        demo = seconds([steptrace, "demo", "-o", folder])
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| command | seconds | more than `python -c pass` | limit |")
    print("| --- | --- | --- | --- |")
    for name, value in median.items():
        limit = "" if name == "python -c pass" else f"{HELP_LIMIT} more"
        print(f"| `{name}` | {value:.3f} | {value - bare:+.3f} | {limit} |")
    print(f"| `steptrace demo` | {demo:.1f} | | {DEMO_LIMIT:.0f} |")


if __name__ == "__main__":
    main()
