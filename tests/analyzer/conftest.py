"""A small training run computed by NumPy alone, written as a trace through the schema."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash

from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.attributes import Layer, Model, Optimizer, TraceAttributes
from steptrace_schema.format.layout import (
    ArraySpec,
    feature_dims,
    resolve_dims,
    split_key,
    variable_dims,
)
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr

Arrays = dict[str, Any]

FEATURES, HIDDEN, CLASSES, SAMPLES = 6, 5, 3, 4


@dataclasses.dataclass(frozen=True)
class SyntheticRun:
    """Dense 6 -> 5 relu -> 3 with softmax cross-entropy; every number follows from the seed.

    Parameters
    ----------
    steps, batch, seed
        How long, how many rows, which data.
    learning_rate
        Of the first steps.
    learning_rates
        Step -> learning rate from that step on.
    input_scale
        Step -> factor on that step's inputs.
    hidden_rate
        Step -> factor on the update of that step, which nothing recorded explains.
    poison
        Steps whose first input is NaN.
    momentum
        Of the optimizer; 0 is plain SGD: w[t+1] = w[t] - learning_rate * g[t].
    adam
        Use Adam instead.
    retain, disk_limit
        Of the policy: which steps keep their tensors.
    shard_steps, status, status_reason
        Root attributes.
    """

    steps: int = 60
    batch: int = 16
    seed: int = 0
    learning_rate: float = 0.05
    learning_rates: Mapping[int, float] = dataclasses.field(default_factory=dict)
    input_scale: Mapping[int, float] = dataclasses.field(default_factory=dict)
    hidden_rate: Mapping[int, float] = dataclasses.field(default_factory=dict)
    poison: tuple[int, ...] = ()
    momentum: float = 0.0
    adam: bool = False
    retain: Any = "all"
    disk_limit: int | None = None
    shard_steps: int = 128
    status: str = "complete"
    status_reason: str | None = None

    def records(self) -> Iterator[tuple[int, Arrays]]:
        """Yield every step's arrays by ``kind/path``, and the final weights at the end."""
        rng = np.random.default_rng(self.seed)
        centres = rng.normal(size=(CLASSES, FEATURES)).astype("float32")
        weights: Arrays = {
            "dense/kernel": rng.normal(0, 0.5, (FEATURES, HIDDEN)).astype("float32"),
            "dense/bias": np.zeros(HIDDEN, "float32"),
            "dense_1/kernel": rng.normal(0, 0.5, (HIDDEN, CLASSES)).astype("float32"),
            "dense_1/bias": np.zeros(CLASSES, "float32"),
        }
        first = {name: np.zeros_like(value) for name, value in weights.items()}
        second = {name: np.zeros_like(value) for name, value in weights.items()}
        probe: npt.NDArray[Any] | None = None
        rate = self.learning_rate
        for step in range(self.steps):
            rate = self.learning_rates.get(step, rate)
            y = rng.integers(0, CLASSES, self.batch)
            x = (centres[y] + rng.normal(0, 1.0, (self.batch, FEATURES))).astype("float32")
            x *= np.float32(self.input_scale.get(step, 1.0))
            if step in self.poison:
                x[0, 0] = np.nan
            before = probe
            probe = x[:SAMPLES] if probe is None else probe
            arrays, gradients = _pass(weights, x, y, rate)
            arrays |= _probe(weights, probe)
            if before is None:
                arrays["probe/x"] = probe
            arrays["scalars/epoch"] = np.array(step // 20)
            arrays["scalars/batch"] = np.array(step % 20)
            arrays["scalars/wall_time"] = np.array(1000.0 + step + self.seed)
            arrays["scalars/step_duration"] = np.array(0.5 + self.seed)
            yield step, arrays
            used = np.float32(self.hidden_rate.get(step, 1.0) * rate)
            for name, gradient in gradients.items():
                if self.adam:
                    first[name] = np.float32(0.9) * first[name] + np.float32(0.1) * gradient
                    second[name] = (
                        np.float32(0.999) * second[name] + np.float32(0.001) * gradient**2
                    )
                    scale = used * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
                    change = scale * first[name] / (np.sqrt(second[name]) + 1e-7)
                else:
                    first[name] = np.float32(self.momentum) * first[name] + gradient
                    change = used * first[name]
                weights[name] = (weights[name] - change).astype("float32")
        yield self.steps, {f"weights/sequential/{n}": w for n, w in weights.items()}

    def attributes(self) -> TraceAttributes:
        """Return the root attributes of the run's trace."""
        parameters = FEATURES * HIDDEN + HIDDEN, HIDDEN * CLASSES + CLASSES
        layers = tuple(
            Layer(
                path=f"sequential/{name}",
                name=name,
                class_name="Dense",
                activation=activation,
                output_shape=(None, units),
                parameters=count,
                variables=(f"sequential/{name}/kernel", f"sequential/{name}/bias"),
            )
            for name, activation, units, count in (
                ("dense", "relu", HIDDEN, parameters[0]),
                ("dense_1", None, CLASSES, parameters[1]),
            )
        )
        declared: dict[Any, tuple[str, ...]] = {}
        for key in next(self.records())[1]:
            kind, path = split_key(key)
            declared[kind] = (*declared.get(kind, ()), path)
        return TraceAttributes(
            run_id=f"synthetic-{self.seed}",
            created="2026-01-01T00:00:00+00:00",
            producer="tests",
            policy=Policy(samples=SAMPLES, retain=self.retain, disk_limit=self.disk_limit),
            declared=declared,
            model=Model(
                name="sequential",
                class_name="Sequential",
                parameters=sum(parameters),
                trainable_parameters=sum(parameters),
            ),
            layers=layers,
            optimizer=Optimizer(class_name="Adam" if self.adam else "SGD"),
            loss="sparse_categorical_crossentropy",
            environment={"python": "3.11", "numpy": np.__version__},
            shard_steps=self.shard_steps,
        )

    def write(self, path: Path) -> Path:
        """Write the run as a trace and return its path."""
        records = list(self.records())
        journal = self._create_journal(path, records)
        mover = JournalMover(journal_path(path), path)
        for step, arrays in records:
            journal.append(step, arrays)
            if self.retain != "all" or self.disk_limit is not None:
                mover.move_ready()  # beside the training, as thinning needs
        if self.status != "recording":  # no run ends with that
            journal.close(self.status, self.status_reason, self.attributes())  # type: ignore[arg-type]
        mover.finish(self.status, self.status_reason)  # type: ignore[arg-type]
        return path

    def write_journal(self, path: Path) -> None:
        """Write the run's journal only, as a killed run leaves it."""
        records = list(self.records())
        journal = self._create_journal(path, records)
        for step, arrays in records:
            journal.append(step, arrays)

    def _create_journal(self, path: Path, records: list[tuple[int, Arrays]]) -> JournalWriter:
        specs = resolve_dims([_spec(key, array) for key, array in records[0][1].items()])
        declaration = Declaration(self.attributes(), tuple(specs))
        return JournalWriter.create(journal_path(path), declaration)


def _pass(
    weights: Arrays, x: npt.NDArray[Any], y: npt.NDArray[Any], rate: float
) -> tuple[Arrays, Arrays]:
    """Forward and backward; return what a step records, and the gradients by variable."""
    with np.errstate(invalid="ignore", over="ignore"):
        z = x @ weights["dense/kernel"] + weights["dense/bias"]
        hidden = np.maximum(z, 0)
        logits = hidden @ weights["dense_1/kernel"] + weights["dense_1/bias"]
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax = exponent / exponent.sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        loss = -np.log(np.maximum(softmax[rows, y], 1e-30)).mean()
        d_logits = softmax.copy()
        d_logits[rows, y] -= 1
        d_logits = (d_logits / np.float32(len(y))).astype("float32")
        d_hidden = d_logits @ weights["dense_1/kernel"].T
        d_z = d_hidden * (z > 0)
        gradients = {
            "dense/kernel": x.T @ d_z,
            "dense/bias": d_z.sum(axis=0),
            "dense_1/kernel": hidden.T @ d_logits,
            "dense_1/bias": d_logits.sum(axis=0),
        }
        x_gradient = d_z @ weights["dense/kernel"].T
    digests = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in x]
    arrays: Arrays = {
        "scalars/loss": np.array(loss, "float32"),
        "scalars/learning_rate": np.array(rate, "float32"),
        "scalars/batch_size": np.array(len(x)),
        "scalars/metrics/accuracy": np.array((softmax.argmax(1) == y).mean(), "float32"),
        "inputs/x": x[:SAMPLES],
        "inputs/y": y[:SAMPLES],
        "inputs/x_gradient": x_gradient[:SAMPLES],
        "inputs/sample_digest": np.array(digests, "uint64").view("int64"),
        "activations/sequential/dense/output": hidden[:SAMPLES],
        "activations/sequential/dense_1/output": logits[:SAMPLES],
        "activation_gradients/sequential/dense/output": d_hidden[:SAMPLES],
        "activation_gradients/sequential/dense_1/output": d_logits[:SAMPLES],
    }
    arrays |= {f"weights/sequential/{name}": value.copy() for name, value in weights.items()}
    arrays |= {f"gradients/sequential/{name}": value for name, value in gradients.items()}
    return arrays, gradients


def _probe(weights: Arrays, x: npt.NDArray[Any]) -> Arrays:
    with np.errstate(invalid="ignore", over="ignore"):
        z = x @ weights["dense/kernel"] + weights["dense/bias"]
    return {
        "probe/sequential/dense/preactivation": z,
        "probe/sequential/dense/output": np.maximum(z, 0),
    }


def _spec(key: str, array: npt.NDArray[Any]) -> ArraySpec:
    kind, path = split_key(key)
    if kind in ("weights", "gradients"):
        dims = variable_dims(array.ndim)
    elif kind == "scalars":
        dims = ()
    elif path == "sample_digest":
        dims = ("batch",)
    else:
        dims = ("sample", *feature_dims(array.ndim - 1))
    return ArraySpec(kind, path, dims, array.shape, array.dtype.name, static=key == "probe/x")


@pytest.fixture(scope="session")
def write_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a :class:`SyntheticRun` with the given fields, once each."""
    written: dict[str, Path] = {}

    def write(**fields: Any) -> Path:
        run = SyntheticRun(**fields)
        if repr(run) not in written:
            written[repr(run)] = run.write(tmp_path_factory.mktemp("runs") / "run.zarr")
        return written[repr(run)]

    return write


@pytest.fixture(scope="session")
def make_run() -> Callable[..., SyntheticRun]:
    """Return the class itself, for tests that want the numbers or the journal."""
    return SyntheticRun


@pytest.fixture(scope="session")
def healthy_path(write_run: Callable[..., Path]) -> Path:
    """Return the path of a healthy run of 60 steps; do not write there."""
    return write_run()


@pytest.fixture
def healthy(healthy_path: Path) -> xr.DataTree:
    """Return the healthy run, opened."""
    return open_trace(healthy_path)
