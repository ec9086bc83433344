"""Find out whether networks are trained to the same bits with and without the tracer.

``python benchmarks/unchanged.py [ROW ...]`` trains each network for six steps, untraced, untraced
again, and traced by default, each in a process of its own from the same seed. It compares a digest
of all variables of model and optimizer, and writes docs/unchanged.md: what came out, in which way
steps were captured, and what a step took. Where two untraced runs differ already, nothing can be
said of the tracer. Where rows are named, only these are measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any, Final

from steptrace_tracer.verification import networks
from steptrace_tracer.verification.networks import Row

_BUSY: Final = 1.75
"""Processes that wait for each core, on average, from which on times say nothing."""
_REPEATS: Final = 4
"""Untraced runs, beside the two, before a difference is laid to the tracer."""
PAGE: Final = Path(__file__).parents[1] / "docs" / "unchanged.md"


def train(row: Row, trace: str) -> dict[str, Any]:
    """Train one network, traced where `trace` names a path; return a digest and times."""
    import keras

    times: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            times.append(-time.perf_counter())

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            times[-1] += time.perf_counter()

    callbacks: list[Any] = [Clock()]
    way, note = "", ""
    if trace:
        from steptrace_tracer import Tracer

        callbacks.insert(0, Tracer(trace, row.policy, progress=False, on_error="raise"))
    model = networks.train(row, networks.STEPS, callbacks)
    if trace:
        from steptrace_schema.store.opening import read_attributes

        found = read_attributes(Path(trace))
        way = found.capture["gradients"]
        note = next((proof.note or "" for proof in found.proofs if not proof.identical), "")
    variables = (*model.variables, *model.optimizer.variables)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()
    step = statistics.median(times[2:])
    return {"digest": digest, "first": times[0], "step": step, "way": way, "note": note}


def in_own_process(row: Row, trace: str, cache: str) -> dict[str, Any]:
    """Train in a process of its own, so that nothing is left of another network."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "XDG_CACHE_HOME": cache}
    command = [sys.executable, __file__, "--one", str(row), "--trace", trace]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(row: Row) -> str:
    """Return the line of the table for one network."""
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        one, two = (in_own_process(row, "", cache) for _ in range(2))
        traced = in_own_process(row, str(Path(folder) / "run.zarr"), cache)
        again = in_own_process(row, str(Path(folder) / "again.zarr"), cache)
        failed = next((r["error"] for r in (one, two, traced, again) if "error" in r), None)
        if failed is not None:
            return f"| {row} | failed | {failed} | | | | |"
        verdict, digest = "identical", one["digest"]
        if digest != two["digest"]:
            verdict = "untraced runs differ"
        elif {digest} != {traced["digest"], again["digest"]}:
            more = (in_own_process(row, "", cache).get("digest") for _ in range(_REPEATS))
            verdict = "untraced runs differ" if any(d != digest for d in more) else "**changed**"
    step = min(one["step"], two["step"])
    first = min(one["first"], two["first"])
    figures = (again["step"] / step, traced["first"] / first, again["first"] / first)
    shown = [f"{step * 1000:.0f}", *(f"{figure:.2f}" for figure in figures)]
    if os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1):
        shown = ["–"] * len(shown)
    return f"| {row} | {verdict} | {traced['way']} | {' | '.join(shown)} |"


def write(lines: dict[str, str]) -> None:
    """Write the page."""
    head = f"""# Networks that are trained to the same bits

Written by `python benchmarks/unchanged.py` on {date.today()}, {os.cpu_count()} cores,
{platform.machine()}, Python {platform.python_version()}. Each network is trained from a seed for
{networks.STEPS} steps of batch 8 (Adam, `fit` as compiled by default, default policy), twice
untraced and twice traced; *identical* says that all variables of model and optimizer have the same
bits. Where they have not, up to {_REPEATS} more are trained untraced: where these differ, too,
nothing can be said of the tracer. A row *serial* has TensorFlow run one operation at a time, which
makes such a network repeat itself. *Way* is what `capture="auto"` found to be harmless. *Step* is
the median of an untraced run; *traced* is the ratio of a traced step to it. *First step* is that
ratio for the first step, which compiles, and with the tracer makes the proof; *remembered* is that
of the second traced run, which remembers it. Where the machine was busy with something else, no
times are given.

| network, pixels | verdict | way | step, ms | traced | first step | remembered |
| --- | --- | --- | --- | --- | --- | --- |
"""
    order = [str(row) for row in networks.rows() if str(row) in lines]
    PAGE.write_text(head + "\n".join(lines[row] for row in order) + "\n", encoding="utf-8")


def known() -> dict[str, str]:
    """Return the lines that the page has."""
    if not PAGE.exists():
        return {}
    text = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split("|")[1].strip(): line for line in text if line.count("|") == 8}


def main() -> None:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--one")
    parser.add_argument("--trace", default="")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(train(Row.of(options.one), options.trace)))
        return
    lines = known()
    for row in list(map(Row.of, options.rows)) or networks.rows():
        lines[str(row)] = measure(row)
        print(lines[str(row)], flush=True)
        write(lines)


if __name__ == "__main__":
    main()
