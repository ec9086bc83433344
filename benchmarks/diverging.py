"""What it costs to find where two runs part, and what digests cost while recording.

``python benchmarks/diverging.py [steps] [width]`` writes two runs of random walks that are equal up
to nine tenths, and compares them: by digests, without digests, by reading both whole, and by
loading a checkpoint of the weights for each step. Bytes are what the process reads from files
(``/proc/self/io``), so it runs on Linux only.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from safetensors.numpy import load, save_file

from steptrace_analyzer import diff, first_divergence, open_trace
from steptrace_schema.format.attributes import Layer, TraceAttributes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving import array_move
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import REQUIRED_SCALARS
from steptrace_schema.statistics.digests import RowHasher

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

LAYERS = 3
SAMPLES = 4


def write(path: Path, steps: int, width: int, parts_at: int) -> None:
    """Write the journal of a run whose weights differ from `parts_at` on."""
    names = [f"layer_{i}" for i in range(LAYERS)]
    integers = ("epoch", "batch", "batch_size")
    arrays = [
        *(
            ArraySpec("scalars", name, (), (), "int64" if name in integers else "float64")
            for name in REQUIRED_SCALARS
        ),
        *(ArraySpec("weights", f"{n}/kernel", ("in", "out"), (width, width), "f4") for n in names),
        *(
            ArraySpec("gradients", f"{n}/kernel", ("in", "out"), (width, width), "f4")
            for n in names
        ),
        *(
            ArraySpec("activations", f"{n}/output", ("sample", "unit"), (SAMPLES, width), "f4")
            for n in names
        ),
    ]
    arrays = [ArraySpec(**{**vars(a), "dtype": np.dtype(a.dtype).name}) for a in arrays]
    attributes = TraceAttributes(
        run_id=path.name,
        created="2026-01-01T00:00:00+00:00",
        producer="benchmark",
        policy=Policy(samples=SAMPLES),
        layers=tuple(
            Layer(path=n, name=n, class_name="Dense", variables=(f"{n}/kernel",)) for n in names
        ),
    )
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    kernels = [rng.normal(size=(width, width)).astype("f4") for _ in names]
    writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(arrays)))
    for step in range(steps):
        record: dict[str, Any] = {f"scalars/{name}": np.array(step) for name in integers}
        record |= {
            f"scalars/{name}": np.array(float(step))
            for name in REQUIRED_SCALARS
            if name not in integers
        }
        for name, kernel in zip(names, kernels, strict=True):
            gradient = rng.normal(size=kernel.shape).astype("f4")
            record[f"weights/{name}/kernel"] = kernel.copy()
            record[f"gradients/{name}/kernel"] = gradient
            record[f"activations/{name}/output"] = kernel[:SAMPLES] + gradient[:SAMPLES]
            kernel -= np.float32(1e-3) * gradient
            if step == parts_at - 1:
                kernel += np.float32(1e-6) * other.normal(size=kernel.shape).astype("f4")
        writer.append(step, record)
    writer.append(steps, {f"weights/{n}/kernel": k for n, k in zip(names, kernels, strict=True)})
    writer.close("complete", None, attributes)


def move(path: Path) -> tuple[float, float]:
    """Move the journal into the store; return processor seconds of it, and of its digests.

    The digests are timed by themselves: they take less than two moves differ by. It is the time
    that passes, as processor time takes longer to ask for than a small digest; a quiet machine is
    taken for granted.
    """
    spent = 0.0

    class Timed(RowHasher):
        def digest(self, row: npt.NDArray[Any]) -> int:
            nonlocal spent
            begin = time.perf_counter()
            found = super().digest(row)
            spent += time.perf_counter() - begin
            return found

    begin = time.process_time()
    with mock.patch.object(array_move, "RowHasher", Timed):
        recover(path)
    return time.process_time() - begin, spent


def measured(label: str, total: int, run: Callable[[], object]) -> None:
    """Run, and print time and bytes."""
    before, begin = _bytes_read(), time.perf_counter()
    found = run()
    seconds, count = time.perf_counter() - begin, _bytes_read() - before
    print(
        f"{label:32} {seconds:8.2f} s {count / 1e6:10.1f} MB {100 * count / total:7.2f} %  {found}"
    )


def _bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def _size(path: Path, pattern: str = "**/*") -> int:
    return sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())


def save_checkpoints(path: Path, suffix: str) -> None:
    """Save the weights of every step in a file of its own, as trainings do that have no trace."""
    weights = open_trace(path)["weights"]
    folder = path.with_suffix(suffix)
    folder.mkdir()
    kernels = {f"layer_{i}": np.asarray(weights[f"layer_{i}/kernel"]) for i in range(LAYERS)}
    for index, step in enumerate(np.asarray(weights["step"])):
        named = {name: values[index] for name, values in kernels.items()}
        if suffix == ".npz":
            np.savez(folder / f"{step}.npz", **named)
        else:
            save_file(named, folder / f"{step}.safetensors")


def by_checkpoints(a: Path, b: Path, steps: int, suffix: str) -> object:
    """Load the checkpoints of both runs, step by step, until one differs; as a script would."""
    read: Any = np.load if suffix == ".npz" else lambda file: load(file.read_bytes())
    for step in range(steps + 1):
        ours, theirs = (read(p.with_suffix(suffix) / f"{step}{suffix}") for p in (a, b))
        for name in ours:
            if not np.array_equal(ours[name], theirs[name]):
                return step, name
    return None


def without_digests(path: Path) -> None:
    """Make of a trace one as an earlier format has it."""
    for folder in (path / "statistics").glob("*/digests"):
        shutil.rmtree(folder)
    root = json.loads((path / "zarr.json").read_text())
    root.pop("consolidated_metadata", None)
    root["attributes"]["steptrace"]["version"] = "1.1"
    (path / "zarr.json").write_text(json.dumps(root))


def main(steps: int, width: int) -> None:
    """Write, move, compare."""
    parts_at = steps * 9 // 10
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a.zarr", Path(folder) / "b.zarr"
        write(a, steps, width, steps + 1)
        moves = [move(a)]
        write(b, steps, width, parts_at)
        moves.append(move(b))
        stored = _size(a, "statistics/*/digests/*")
        print(f"{steps} steps, {_size(a) / 1e6:.0f} MB each, parting at step {parts_at}")
        for all_of_it, digests in moves:
            share = 100 * digests / all_of_it
            print(f"moving: {all_of_it:.2f} s of processor time, digests {share:.2f} %")
        print(f"digests in the store: {100 * stored / _size(a):.3f} %")
        total = _size(a) + _size(b)

        def first() -> object:
            found = first_divergence(a, b)
            return found.verdict, found.place and (found.place.step, found.place.name)

        measured("by digests", total, first)
        measured("all tensors (diff)", total, lambda: str(diff(a, b).first_difference))
        for suffix in (".npz", ".safetensors"):
            for path in (a, b):
                save_checkpoints(path, suffix)
            how = "numpy" if suffix == ".npz" else "state dicts"
            label = f"{how}, a checkpoint a step"
            measured(label, total, lambda suffix=suffix: by_checkpoints(a, b, steps, suffix))  # type: ignore[misc]
        for path in (a, b):
            without_digests(path)
        measured("by statistics, no digests", total, first)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ("1000", "96")))
