"""Journals of real training runs, for the benchmarks that begin where the training ends."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

WORKLOADS = ("mlp", "cnn")
BATCH_SIZE = {"mlp": 64, "cnn": 32}


def journal_of(workload: str, steps: int, profile: str, folder: Path) -> Path:
    """Write the journal of a traced run and return the path of the store it belongs to.

    The run itself is traced once and kept in `folder`; its records are those that the tracer wrote.

    Parameters
    ----------
    workload
        ``mlp``: 784-256-128-10 with Adam on scikit-learn's digits, scaled up to 28 x 28.
        ``cnn``: the 150 x 150 x 3 network of `benchmarks/recording.py` on random images.
    steps
        Training steps.
    profile
        The profile that the journal declares.
    folder
        Where the runs are kept.
    """
    from steptrace_schema.encoding.chunk_shapes import shard_steps_for
    from steptrace_schema.journal.declaration import Declaration
    from steptrace_schema.journal.ring import RingSize
    from steptrace_schema.journal.where import journal_path
    from steptrace_schema.journal.writer import JournalWriter
    from steptrace_schema.store.opening import read_attributes

    run = folder / f"{workload}-{steps}.zarr"
    if not run.exists():
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, workload, str(steps), str(run)]
        subprocess.run(command, check=True, env=environment)
    store = folder / f"{workload}-{steps}-{profile}.zarr"
    for path in (store, journal_path(store)):
        shutil.rmtree(path, ignore_errors=True)
    attributes = read_attributes(run)
    update = {
        "policy": attributes.policy.model_copy(update={"profile": profile}),
        "status": "recording",
        "steps_recorded": {},
        "records": 0,
        "shard_steps": shard_steps_for(_step_bytes(run)),
    }
    attributes = attributes.model_copy(update=update)
    specs = tuple(_specs(run))
    writer = JournalWriter.create(journal_path(store), Declaration(attributes, specs))
    for number, (step, arrays) in enumerate(_records(run, specs)):
        if not number:  # as a recording does, but with a slot for each of its records
            size = JournalWriter.size(step, arrays)
            if (ring := RingSize.within(size, (steps + 4) * (size + 2**13))) is not None:
                writer.make_ring(ring)
        writer.append(step, arrays)
    writer.close("complete", None, attributes)
    return store


def _step_bytes(run: Path) -> int:
    from steptrace_schema.store.stored_array import read_arrays

    arrays = read_arrays(run).values()
    return sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays if a.ndim)


def _specs(run: Path) -> Iterator[Any]:
    from steptrace_schema.moving.resume import spec_of
    from steptrace_schema.store.stored_array import read_arrays

    for key, array in sorted(read_arrays(run).items()):
        if key.startswith("statistics/") or key.endswith("/step"):
            continue
        yield dataclasses.replace(spec_of(key, array), attributes={})


def _records(
    run: Path, specs: tuple[Any, ...]
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    from steptrace_schema.store.stored_array import read_arrays

    arrays = read_arrays(run)
    steps = {kind: arrays[f"{kind}/step"].read_rows().tolist() for kind in {s.kind for s in specs}}
    for step in steps["weights"]:
        record = {}
        for spec in specs:
            if spec.static:
                if step == steps["weights"][0]:
                    record[spec.key] = arrays[spec.key].read_rows()
            elif step in steps[spec.kind]:
                row = steps[spec.kind].index(step)
                rest = (slice(0, extent) for extent in arrays[spec.key].shape[1:])
                record[spec.key] = arrays[spec.key].read((slice(row, row + 1), *rest))[0]
        yield int(step), record


def _train(workload: str, steps: int, run: Path) -> None:
    import keras
    import numpy as np
    from recording import build
    from sklearn.datasets import load_digits

    from steptrace_tracer import Policy, Tracer

    model, x, y, batch_size = build(workload)
    if workload == "mlp":
        digits = load_digits()
        large = keras.ops.image.resize(digits.images[..., None] / 16, (28, 28))
        order = np.random.default_rng(0).permutation(
            np.arange(steps * batch_size) % len(digits.target)
        )
        x = np.asarray(large, dtype=np.float32).reshape(-1, 784)[order]
        y = digits.target[order]
    tracer = Tracer(run, Policy(profile="none"), on_error="raise", progress=False)
    count = steps * batch_size
    model.fit(
        x[:count], y[:count], batch_size=batch_size, shuffle=False, verbose=0, callbacks=[tracer]
    )


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
