"""How often the diagnosis is right, on programs that its thresholds were set on and on others.

    PYTHONPATH=benchmarks python -m diagnosis.corpus FOLDER [PROGRAM ...]

Trains every program with every mutation, traced into FOLDER, where traces are kept, and prints one
table. Deterministic but for the threads of TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from diagnosis.mutations import AT, BATCH, MUTATIONS, STEPS, Mutation
from diagnosis.programs import SEEN, UNSEEN
from steptrace_analyzer import diagnose
from steptrace_tracer import Tracer

Row = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the diagnosis said of one run."""

    mutation: str
    errors: int
    warnings: int
    step: bool
    """Whether the first story begins at the right step."""
    cause: bool
    """Whether a finding at that step names the right kind of cause."""


def record(path: Path, make: Any, mutation: Mutation) -> None:
    """Train a program with a mutation, traced."""
    keras.utils.set_random_seed(12)
    program = make()
    if mutation.change is not None:
        mutation.change(program)
    rng = np.random.default_rng(0)
    count = STEPS * BATCH
    passes = -(-count // len(program.x))
    order = np.concatenate([rng.permutation(len(program.x)) for _ in range(passes)])[:count]
    x, y = program.x[order].copy(), program.y[order].copy()
    if mutation.batches is not None:
        mutation.batches(x, y, slice(AT * BATCH, (AT + 1) * BATCH))
    optimizer = mutation.optimizer() if mutation.optimizer else program.optimizer(mutation.rate)
    program.model.compile(optimizer, program.loss)

    class Between(keras.callbacks.Callback):  # type: ignore[misc]
        """Writes to the model right before a step."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            """Change the weights."""
            if batch == AT and mutation.between is not None:
                mutation.between(self.model)

    program.model.fit(
        x, y, BATCH, shuffle=False, verbose=0, callbacks=[Between(), Tracer(path, overwrite=True)]
    )


def judge(path: Path, name: str) -> Judged:
    """Diagnose a trace, and compare with what was done to it."""
    mutation = MUTATIONS[name]
    found = diagnose(str(path))
    serious = [story for story in found.stories if story.severity != "info"]
    steps = {story.step for story in serious}
    at = [f for f in found.findings if f.first_step == mutation.step]
    return Judged(
        mutation=name,
        errors=sum(story.severity == "error" for story in serious),
        warnings=len(serious),
        step=mutation.step in steps,
        cause=any(f.cause_kind == mutation.cause for f in at),
    )


def table(judged: list[Judged]) -> list[Row]:
    """Count by mutation."""
    rows: list[Row] = []
    for name, mutation in MUTATIONS.items():
        mine = [j for j in judged if j.mutation == name]
        if not mine:
            continue
        n = len(mine)
        if mutation.healthy:
            errors, any_at_all = (
                sum(getattr(j, field) > 0 for j in mine) for field in ("errors", "warnings")
            )
            text = f"any error {errors}, any warning or error {any_at_all}"
        elif mutation.step is not None:
            text = f"step {sum(j.step for j in mine)}, cause {sum(j.cause for j in mine)}"
        else:
            text = f"error {sum(j.errors > 0 for j in mine)}"
        rows.append((name, str(n), text))
    return rows


def main(arguments: list[str]) -> None:
    """Record what is missing, judge, and print."""
    folder, chosen = Path(arguments[0]), arguments[1:]
    folder.mkdir(parents=True, exist_ok=True)
    for title, programs in (("seen", SEEN), ("unseen", UNSEEN)):
        judged: list[Judged] = []
        for program, make in programs.items():
            if chosen and program not in chosen:
                continue
            for name, mutation in MUTATIONS.items():
                path = folder / f"{program}-{name}.zarr"
                done = path.with_suffix(".done")
                if not done.exists():
                    record(path, make, mutation)
                    done.touch()
                judged.append(judge(path, name))
                sys.stderr.write(f"{program} {judged[-1]}\n")
        sys.stdout.write(f"\n{title} programs\n")
        for row in table(judged):
            sys.stdout.write("| " + " | ".join(row) + " |\n")


if __name__ == "__main__":
    main(sys.argv[1:])
