"""Write the conformance cases: valid traces, and one invalid trace for every rule.

Run ``python schema/conformance/build.py`` after a change of the format: it adds the cases that are
not there, and leaves the others as the version that brought them wrote them. Every case is one
packed trace, small enough to read by hand after unzipping.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.array_table import definition
from steptrace_schema.format.attributes import (
    FinalWeights,
    Incident,
    Interval,
    Layer,
    Missing,
    Phase,
    PhaseOptimizer,
    Proof,
    TargetLoss,
    TraceAttributes,
    Worker,
)
from steptrace_schema.format.layout import ArraySpec, resolve_dims
from steptrace_schema.format.policy import Policy
from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import REQUIRED_SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from steptrace_schema.names import Kind

HERE = Path(__file__).parent
STEPS = 3
RATE = 0.5


def write_trace(path: Path, *, restores: bool = False) -> None:
    """Write a complete trace of a dense layer with two inputs and two units over three steps.

    At its end, the weights before step 1 may be put back; such a trace says how it was trained.
    """
    arrays = resolve_dims(
        [
            *(ArraySpec("scalars", n, (), (), _scalar_type(n)) for n in REQUIRED_SCALARS),
            ArraySpec("weights", "dense/kernel", ("in", "out"), (2, 2), "float32"),
            ArraySpec("gradients", "dense/kernel", ("in", "out"), (2, 2), "float32"),
            ArraySpec("activations", "dense/output", ("sample", "unit"), (2, 2), "float32"),
        ]
    )
    attributes = TraceAttributes(
        run_id="00000000000000000000000000000000",
        created="2026-01-01T00:00:00+00:00",
        producer="conformance",
        policy=Policy(samples=2),
        declared={
            "weights": ("dense/kernel",),
            "gradients": ("dense/kernel",),
            "activations": ("dense/output",),
            "activation_gradients": ("dense/output",),
        },
        missing=(
            Missing(
                kind="activation_gradients",
                path="dense/output",
                reason="the loss does not depend on this output",
            ),
        ),
        layers=(
            Layer(
                path="dense",
                name="dense",
                class_name="Dense",
                activation="linear",
                output_shape=(None, 2),
                parameters=4,
                variables=("dense/kernel",),
            ),
        ),
    )
    if restores:
        optimizer = PhaseOptimizer(name="sgd", class_name="SGD", learning_rate=RATE)
        phase = Phase(step=0, optimizers=(optimizer,), loss="mse", trainable=("dense/kernel",))
        attributes = attributes.model_copy(update={"phases": (phase,)})
    writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(arrays)))
    kernel = np.array([[1, 2], [3, 4]], dtype=np.float32)
    x = np.array([[1, 0], [0, 1]], dtype=np.float32)
    for step in range(STEPS):
        gradient = np.full((2, 2), step + 1, dtype=np.float32)
        record: dict[str, npt.NDArray[Any]] = {
            "weights/dense/kernel": kernel,
            "gradients/dense/kernel": gradient,
            "activations/dense/output": x @ kernel,
            "scalars/loss": np.array(1 / (step + 1), np.float32),
            "scalars/learning_rate": np.array(RATE, np.float32),
            "scalars/epoch": np.array(0, np.int64),
            "scalars/batch": np.array(step, np.int64),
            "scalars/batch_size": np.array(2, np.int64),
            "scalars/wall_time": np.array(1_767_225_600 + step, np.float64),
            "scalars/step_duration": np.array(0.25, np.float64),
        }
        writer.append(step, record)
        kernel = kernel - np.float32(RATE) * gradient
    writer.append(STEPS, {"weights/dense/kernel": kernel})
    if restores:
        writer.keep_final(
            FinalWeights(
                step=STEPS,
                time="2026-01-01T00:00:03+00:00",
                cause="other",
                reason="something else set them",
                compared=1,
                changed=1,
                arrays=("dense/kernel",),
                nbytes=16,
            ),
            {"dense/kernel": np.array([[0.5, 1.5], [2.5, 3.5]], np.float32)},
        )
    writer.close("complete", None, attributes)
    recover(path)


def write_incident_trace(path: Path) -> None:
    """Write a trace in float16 whose step 1 was skipped, and is kept as a whole.

    Its samples have statistics.
    """
    arrays = resolve_dims(
        [
            *(ArraySpec("scalars", n, (), (), _scalar_type(n)) for n in REQUIRED_SCALARS),
            ArraySpec("scalars", "loss_scale", (), (), "float32"),
            ArraySpec("scalars", "skipped", (), (), "int64"),
            ArraySpec("inputs", "sample_statistics", ("batch", "statistic"), (2, 6), "float64"),
        ]
    )
    attributes = TraceAttributes(
        run_id="00000000000000000000000000000001",
        created="2026-01-01T00:00:00+00:00",
        producer="conformance",
        policy=Policy(kinds=("scalars", "inputs")),
        sample_statistics=("x/rms", "x/mean", "x/largest", "x/nan", "x/inf", "y/category"),
    )
    writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(arrays)))
    x, y = np.array([[3, -4], [0, 2]], np.float32), np.array([1, 0])
    for step in range(STEPS):
        scale = 2.0 ** (16 - (step > 1))
        record: dict[str, npt.NDArray[Any]] = {
            "scalars/loss": np.array(1 / (step + 1), np.float32),
            "scalars/learning_rate": np.array(RATE, np.float32),
            "scalars/epoch": np.array(0, np.int64),
            "scalars/batch": np.array(step, np.int64),
            "scalars/batch_size": np.array(2, np.int64),
            "scalars/wall_time": np.array(1_767_225_600 + step, np.float64),
            "scalars/step_duration": np.array(0.25, np.float64),
            "scalars/loss_scale": np.array(scale, np.float32),
            "scalars/skipped": np.array(step == 1, np.int64),
            "inputs/sample_statistics": np.array(
                [[np.sqrt(12.5), -0.5, 4, 0, 0, 1], [np.sqrt(2), 1, 2, 0, 0, 0]]
            ),
        }
        writer.append(step, record)
    kept = {
        "inputs/x": x,
        "inputs/y": y,
        "weights/dense/kernel": np.array([[1, 2], [3, 4]], np.float32),
        "state/sgd/iteration": np.array(1),
    }
    incident = Incident(
        step=1,
        time="2026-01-01T00:00:01+00:00",
        cause="mark",
        reason="the training marked it",
        arrays=tuple(kept),
        arguments=("inputs/x", "inputs/y"),
        nbytes=sum(values.nbytes for values in kept.values()),
    )
    writer.keep(incident, kept)
    writer.close("complete", None, attributes)
    recover(path)


def write_described_trace(path: Path) -> None:
    """Write a trace of every second step that says what only version 1.3 can say.

    A model with two inputs, an operation, and a layer that carries a state and is not called at
    step 2. Its weights are rounded; of its gradients there are statistics alone.
    """
    arrays = resolve_dims(
        [
            *(_described("scalars", n, (), (), _scalar_type(n)) for n in REQUIRED_SCALARS),
            _described("weights", "cell/kernel", ("in", "out"), (2, 2), keep_bits=7),
            _described("updates", "cell/kernel", ("in", "out"), (2, 2), keep_bits=7),
            dataclasses.replace(
                _described("gradients", "cell/kernel", ("in", "out"), (2, 2)), statistics_only=True
            ),
            _described("inputs", "x_left", ("sample", "unit"), (2, 2)),
            _described("inputs", "x_right", ("sample", "unit"), (2, 1)),
            _described("inputs", "y", ("sample", "unit"), (2, 2)),
            _described("activations", "add/output", ("sample", "unit"), (2, 2)),
            dataclasses.replace(
                _described("activations", "cell/output", ("sample", "unit"), (2, 2)),
                absent="it was not called",
            ),
            _described("activations", "cell/carried_0", ("sample", "unit"), (2, 2)),
        ]
    )
    missing = Missing(
        kind="gradients", path="cell/kernel", reason="only its statistics are recorded"
    )
    optimizer = PhaseOptimizer(name="sgd", class_name="SGD", learning_rate=RATE)
    attributes = TraceAttributes(
        run_id="00000000000000000000000000000002",
        created="2026-01-01T00:00:00+00:00",
        producer="conformance",
        policy=Policy(
            kinds=("scalars", "weights", "gradients", "updates", "activations", "inputs"),
            max_slowdown=0.1,
            samples=2,
            precision={"weights": "bfloat16"},
            statistics_only=("gradients",),
        ),
        declared={
            kind: tuple(spec.path for spec in arrays if spec.kind == kind)
            for kind in ("scalars", "weights", "updates", "gradients", "inputs", "activations")
        },
        missing=(missing,),
        layers=(
            Layer(path="add", name="add", class_name="Add", inputs=(), data=("x_left", "x_right")),
            Layer(
                path="cell",
                name="cell",
                class_name="SimpleRNN",
                activation="linear",
                output_shape=(None, 2),
                parameters=4,
                variables=("cell/kernel",),
                inputs=("add",),
                data=(),
            ),
        ),
        loss="mine",
        losses=(
            TargetLoss(
                target="y", name="mine", function="huber", config={"delta": 0.5}, weight=2.0
            ),
        ),
        phases=(Phase(step=0, optimizers=(optimizer,), loss="mine", trainable=("cell/kernel",)),),
        intervals=(
            Interval(step=0, every=1, reason="the first step is measured"),
            Interval(
                step=1, every=2, reason="this keeps it", step_seconds=0.25, record_seconds=0.04
            ),
        ),
        worker=Worker(rank=0, count=2),
        capture=dict.fromkeys(("activations", "gradients", "inputs", "scalars"), "beside"),
        proofs=(
            Proof(
                step=0,
                time="2026-01-01T00:00:00+00:00",
                way="inside",
                identical=False,
                repeats=True,
                note="cell/kernel",
            ),
        ),
    )
    writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(arrays)))
    kernel = np.array([[1, 2], [3, 4]], dtype=np.float32)
    left, right = np.array([[1, 0], [0, 1]], np.float32), np.array([[1], [2]], np.float32)
    for step in range(STEPS):
        gradient = np.full((2, 2), step + 1, dtype=np.float32)
        update = -np.float32(RATE) * gradient
        if step % 2 == 0:
            record: dict[str, npt.NDArray[Any]] = {
                "scalars/loss": np.array(1 / (step + 1), np.float32),
                "scalars/learning_rate": np.array(RATE, np.float32),
                "scalars/epoch": np.array(0, np.int64),
                "scalars/batch": np.array(step, np.int64),
                "scalars/batch_size": np.array(2, np.int64),
                "scalars/wall_time": np.array(1_767_225_600 + step, np.float64),
                "scalars/step_duration": np.array(0.25, np.float64),
                "weights/cell/kernel": kernel,
                "updates/cell/kernel": update,
                "gradients/cell/kernel": gradient,
                "inputs/x_left": left,
                "inputs/x_right": right,
                "inputs/y": left,
                "activations/add/output": left + right,
                "activations/cell/carried_0": step * left,
            }
            if step == 0:
                record["activations/cell/output"] = (left + right) @ kernel
            writer.append(step, record)
        kernel = kernel + update
    writer.append(STEPS, {"weights/cell/kernel": kernel})
    writer.close("complete", None, attributes)
    recover(path)


def _described(
    kind: Kind,
    path: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str = "float32",
    **attributes: int,
) -> ArraySpec:
    """Return an array with the attributes that the specification recommends."""
    known = definition(kind, path)
    assert known is not None
    return ArraySpec(
        kind, path, dims, shape, dtype, attributes={**known.attributes(), **attributes}
    )


def _scalar_type(name: str) -> str:
    if name in {"epoch", "batch", "batch_size"}:
        return "int64"
    return "float64" if name in {"wall_time", "step_duration"} else "float32"


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a function that changes one zarr.json of a trace, and drops the copy in the root."""

    def apply(trace: Path) -> None:
        root = json.loads((trace / "zarr.json").read_text())
        root.pop("consolidated_metadata", None)
        (trace / "zarr.json").write_bytes(sealed(root))
        metadata = json.loads((trace / name).read_text())
        change(metadata)
        is_root = name == "zarr.json"
        (trace / name).write_bytes(sealed(metadata) if is_root else json.dumps(metadata).encode())

    return apply


def _flip_in(name: str, text: str, bit: int) -> Callable[[Path], None]:
    """Return a function that flips a bit of the last character of `text`, and changes no more."""

    def apply(trace: Path) -> None:
        content = bytearray((trace / name).read_bytes())
        content[content.index(text.encode()) + len(text) - 1] ^= 1 << bit
        (trace / name).write_bytes(bytes(content))

    return apply


def _edit_root(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return _edit("zarr.json", lambda metadata: change(metadata["attributes"]["steptrace"]))


def _bare_nan(trace: Path) -> None:
    _edit("weights/dense/kernel/zarr.json", lambda m: m["attributes"].update(bad=float("nan")))(
        trace
    )


def _flip_bit(trace: Path) -> None:
    chunk = trace / "gradients/dense/kernel/c.0.0.0"
    damaged = bytearray(chunk.read_bytes())
    damaged[3] ^= 1
    chunk.write_bytes(bytes(damaged))


def _rename(to: str) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        _edit("zarr.json", lambda _: None)(trace)
        (trace / "weights/dense").rename(trace / to)

    return apply


def _repeat_step(trace: Path) -> None:
    import zarr

    _edit("zarr.json", lambda _: None)(trace)
    zarr.open_array(trace / "gradients/step", mode="r+")[2] = 1


def _other_digest(trace: Path) -> None:
    import zarr

    _edit("zarr.json", lambda _: None)(trace)
    digests = zarr.open_array(trace / "statistics/gradients/digests", mode="r+")
    digests[1, 0] = 1


def _drop(name: str) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        _edit("zarr.json", lambda _: None)(trace)
        target = trace / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return apply


def _one_name_twice(metadata: dict[str, Any]) -> None:
    metadata["dimension_names"] = ["step", "unit", "unit"]
    metadata["shape"] = [STEPS, 2, 1]


def _earlier_weights(root: dict[str, Any]) -> None:
    root["steps_recorded"]["weights"] = STEPS


def _three_weight_rows(trace: Path) -> None:
    _edit_root(_earlier_weights)(trace)
    for name in ("weights/step", "weights/dense/kernel", "statistics/weights/step"):
        _edit(f"{name}/zarr.json", lambda m: m["shape"].__setitem__(0, STEPS))(trace)
    _edit("statistics/weights/values/zarr.json", lambda m: m["shape"].__setitem__(0, STEPS))(trace)


VALID = ("dense.zarr.zip", "dense-1.2.zarr.zip", "dense-1.3.zarr.zip")
"""The same trace, as versions 1.0, 1.2 (with a checksum in the root) and 1.3 wrote it."""

INCIDENT = "incident-1.3.zarr.zip"
"""A trace with a skipped step that is kept as a whole, and statistics of every sample."""

FINAL = "final-1.3.zarr.zip"
"""The trace with a dense layer, whose model ended with the weights before step 1."""

DESCRIBED = "described-1.3.zarr.zip"
"""A trace with every root attribute, group and field that version 1.3 has brought, but for those
of the two others."""

INVALID: dict[str, Callable[[Path], None]] = {
    "R1": _edit("zarr.json", lambda m: m.update(node_type="array")),
    "R2": _bare_nan,
    "R3": _edit_root(lambda root: root.update(version="2.0")),
    "R4": _edit_root(lambda root: root.pop("run_id")),
    "R5": _edit_root(lambda root: root.update(status="incomplete", status_reason=None)),
    "R6": _edit("weights/dense/kernel/zarr.json", lambda m: m.pop("dimension_names")),
    "R7": _rename("weights/den se"),
    "R8": _edit("gradients/step/zarr.json", lambda m: m.update(data_type="uint64", fill_value=0)),
    "R9": _edit("gradients/dense/kernel/zarr.json", lambda m: m["shape"].__setitem__(0, 2)),
    "R10": _edit("activations/dense/output/zarr.json", _one_name_twice),
    "R11": _drop("scalars/learning_rate"),
    "R12": _edit("scalars/loss/zarr.json", lambda m: m.update(fill_value=0.0)),
    "R13": _edit("statistics/weights/values/zarr.json", lambda m: m["attributes"].pop("tensors")),
    "R14": _edit_root(lambda root: root.update(missing=[])),
    "R15": _repeat_step,
    "R16": _three_weight_rows,
    "R17": _drop("gradients/dense/kernel/c.0.0.0"),
    "R18": _flip_bit,
    "R19": _flip_in("zarr.json", '"producer": "c', 1),
    "R20": _flip_in("weights/dense/kernel/zarr.json", '"clevel": 5', 1),
    "R21": _edit(
        "statistics/weights/digests/zarr.json",
        lambda m: m.update(dimension_names=["step", "digest"]),
    ),
    "R22": _other_digest,
    "R23": _drop("incidents/1/inputs/x"),
    "R24": _drop("final/dense/kernel"),
    "R25": _edit_root(lambda root: root.update(sample_statistics=["x/rms"])),
}
"""For each rule, how a valid trace is changed to violate it."""

ALSO_INVALID: dict[tuple[str, str], Callable[[Path], None]] = {
    ("R7", "device"): _rename("weights/con"),
    ("R7", "length"): _rename(f"weights/{'d' * 81}"),
    ("R23", "argument"): _edit_root(
        lambda root: root["incidents"][0].update(arguments=["inputs/x", "inputs/z"])
    ),
    ("R24", "shape"): _edit("final/dense/kernel/zarr.json", lambda m: m.update(shape=[1, 2])),
}
"""Rule and name of other cases, of what version 1.3 has brought."""


def pack(trace: Path, target: Path) -> None:
    """Write the trace as one file with fixed time stamps, unless there is one already."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in trace.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(trace).as_posix(), (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())


def build(target: Path) -> None:
    """Write the cases that are not yet below `target`."""
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder) / "valid.zarr"
        write_trace(valid)
        for name in VALID:
            pack(valid, target / "valid" / name)
        with_incident = Path(folder) / "incident.zarr"
        write_incident_trace(with_incident)
        pack(with_incident, target / "valid" / INCIDENT)
        with_final = Path(folder) / "final.zarr"
        write_trace(with_final, restores=True)
        pack(with_final, target / "valid" / FINAL)
        described = Path(folder) / "described.zarr"
        write_described_trace(described)
        pack(described, target / "valid" / DESCRIBED)
        cases = {(rule, "trace"): violate for rule, violate in INVALID.items()} | ALSO_INVALID
        for (rule, name), violate in cases.items():
            case = target / "invalid" / rule / f"{name}.zarr.zip"
            if case.exists():
                continue
            trace = Path(folder) / f"{rule}-{name}.zarr"
            whole = {"R23": with_incident, "R24": with_final, "R25": with_incident}.get(rule, valid)
            shutil.copytree(whole, trace)
            violate(trace)
            pack(trace, case)


if __name__ == "__main__":
    build(HERE)
