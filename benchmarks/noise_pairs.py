"""How often ``diff --noise`` and ``--noise-from-rounding`` are right: healthy pairs, and bugs.

    python benchmarks/noise_pairs.py [programs] [first]

Each of the programs is a small network of its own, trained by NumPy in float32: sizes, activation,
optimizer and rate are drawn. Its noise is that of threads and devices: the samples of a batch are
added up in an order by chance. Of each program three repeats show the noise, two healthy pairs are
judged, and two pairs of which one run has a bug. By default 20 programs: 40 healthy pairs, 40 bugs;
they may be done in parts, from the program `first` on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.differences import compare_with_noise, compare_with_rounding
from steptrace_schema.format.attributes import Layer, TraceAttributes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import REQUIRED_SCALARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]

STEPS: Final = 40
INTEGERS: Final = ("epoch", "batch", "batch_size")
BUGS: Final = (
    "rate 1 % higher from a step on",
    "update of one layer 0.1 % larger at one step",
    "update of one layer 1 % larger at one step",
    "inputs of one batch 1 % larger",
    "target of one sample exchanged",
    "weight decay of 1e-4 from a step on",
    "one weight changed by a hundredth",
    "momentum 0.85 in place of 0.9 from a step on",
    "gradient of one layer of half a batch",
    "one input feature shifted by 0.01 from a step on",
)


class Program:
    """A network and its training, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        hidden = [int(n) for n in rng.integers(5, 40, size=rng.integers(1, 3))]
        self.sizes = [int(rng.integers(4, 20)), *hidden, int(rng.integers(1, 5))]
        self.batch = int(rng.integers(8, 33))
        self.relu = bool(rng.integers(2))
        self.optimizer = ("sgd", "momentum", "adam")[seed % 3]
        self.rate = float(rng.uniform(0.02, 0.2)) * (0.1 if self.optimizer == "adam" else 1)
        self.weights = [
            (
                rng.normal(0, 1 / np.sqrt(a), (a, b)).astype("f4"),
                rng.normal(0, 0.05, b).astype("f4"),
            )
            for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]
        self.x = rng.normal(size=(STEPS, self.batch, self.sizes[0])).astype("f4")
        true = rng.normal(size=(self.sizes[0], self.sizes[-1])).astype("f4")
        self.y = np.tanh(self.x @ true)

    def records(
        self, order: int, bug: str | None, at: int, *, rounded: bool = False
    ) -> Iterator[Arrays]:
        """Train; the samples of each batch are in an order drawn from `order`.

        With `rounded`, every input is moved to the next number, as ``steptrace perturb`` does.
        """
        rng = np.random.default_rng(order)
        weights = [[kernel.copy(), bias.copy()] for kernel, bias in self.weights]
        first = [[np.zeros_like(part) for part in layer] for layer in weights]
        second = [[np.zeros_like(part) for part in layer] for layer in weights]
        for step in range(STEPS):
            since, here = step >= at, step == at
            x, y = self.x[step].copy(), self.y[step].copy()
            if rounded:
                x = (x.view("u4") ^ 1).view("f4")
            if bug == BUGS[3] and here:
                x *= np.float32(1.01)
            if bug == BUGS[4] and here:
                y[0] = -y[0]
            if bug == BUGS[9] and since:
                x[:, 0] += np.float32(0.01)
            if bug == BUGS[6] and here:
                largest = np.unravel_index(np.abs(weights[0][0]).argmax(), weights[0][0].shape)
                weights[0][0][largest] *= np.float32(1.01)
            shuffled = rng.permutation(len(x))
            loss, gradients = self._pass(weights, x[shuffled], y[shuffled])
            if bug == BUGS[8] and here:
                half = shuffled[: len(shuffled) // 2]
                gradients[0] = self._pass(weights, x[half], y[half])[1][0]
            rate = np.float32(self.rate * (1.01 if bug == BUGS[0] and since else 1))
            yield {"loss": np.array(loss), "rate": np.array(rate), **_named(weights, gradients)}
            for number, (layer, gradient) in enumerate(zip(weights, gradients, strict=True)):
                factor = np.float32(1)
                if number == 0 and here and bug in (BUGS[1], BUGS[2]):
                    factor = np.float32(1.001 if bug == BUGS[1] else 1.01)
                decay = np.float32(1e-4 if bug == BUGS[5] and since else 0)
                beta = np.float32(0.85 if bug == BUGS[7] and since else 0.9)
                for part in (0, 1):
                    slope = gradient[part] + decay * layer[part]
                    slots = first[number], second[number]
                    layer[part] -= factor * rate * self._move(slots, part, slope, step, beta)
        yield _named(weights, None)

    def _pass(self, weights: Any, x: Any, y: Any) -> tuple[Any, list[list[Any]]]:
        values = [x]
        for number, (kernel, bias) in enumerate(weights):
            z = values[-1] @ kernel + bias
            last = number == len(weights) - 1
            values.append(z if last else np.maximum(z, 0) if self.relu else np.tanh(z))
        error = values[-1] - y
        slope = (2 / error.size) * error
        gradients: list[list[Any]] = []
        for number in range(len(weights) - 1, -1, -1):
            gradients.insert(0, [values[number].T @ slope, slope.sum(axis=0)])
            if number:
                before = values[number]
                inner = (before > 0).astype("f4") if self.relu else 1 - before * before
                slope = (slope @ weights[number][0].T) * inner
        return np.float32(np.mean(error * error)), gradients

    def _move(self, slots: Any, part: int, slope: Any, step: int, beta: Any) -> Any:
        first, second = slots
        if self.optimizer == "sgd":
            return slope
        if self.optimizer == "momentum":
            first[part] = beta * first[part] + slope
            return first[part]
        first[part] = beta * first[part] + (1 - beta) * slope
        second[part] = np.float32(0.999) * second[part] + np.float32(0.001) * slope * slope
        scale = np.float32(np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1)))
        return scale * first[part] / (np.sqrt(second[part]) + np.float32(1e-7))


def _named(weights: Any, gradients: Any) -> Arrays:
    found: Arrays = {}
    for kind, layers in (("weights", weights), ("gradients", gradients)):
        for number, layer in enumerate(layers or ()):
            for name, part in zip(("kernel", "bias"), layer, strict=True):
                found[f"{kind}/dense_{number}/{name}"] = np.array(part, "f4")
    return found


def write(
    path: Path,
    program: Program,
    order: int,
    bug: str | None = None,
    at: int = 0,
    *,
    rounded: bool = False,
) -> Path:
    """Write a run as a trace."""
    records = list(program.records(order, bug, at, rounded=rounded))
    specs = [
        ArraySpec("scalars", n, (), (), "int64" if n in INTEGERS else "float32")
        for n in REQUIRED_SCALARS
    ]
    for key, value in records[0].items():
        kind, _, name = key.partition("/")
        if kind in ("weights", "gradients"):
            dims = ("in", "out") if value.ndim == 2 else ("out",)
            specs.append(ArraySpec(kind, name, dims, value.shape, "float32"))  # type: ignore[arg-type]
    layers = tuple(
        Layer(path=f"dense_{n}", name=f"dense_{n}", class_name="Dense")
        for n in range(len(program.weights))
    )
    attributes = TraceAttributes(
        run_id=path.name,
        created="2026-01-01T00:00:00+00:00",
        producer="benchmark",
        policy=Policy(),
        layers=layers,
    )
    writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(specs)))
    for step, record in enumerate(records[:-1]):
        scalars: Arrays = {f"scalars/{n}": np.array(step) for n in INTEGERS}
        rest = (n for n in REQUIRED_SCALARS if n not in INTEGERS)
        scalars |= {f"scalars/{n}": np.array(step, "f4") for n in rest}
        scalars["scalars/loss"] = np.array(record["loss"], "f4")
        scalars["scalars/learning_rate"] = np.array(record["rate"], "f4")
        tensors = {key: value for key, value in record.items() if "/" in key}
        writer.append(step, scalars | tensors)
    writer.append(len(records) - 1, records[-1])
    writer.close("complete", None, attributes)
    recover(path)
    return path


def main(programs: int, start: int) -> None:
    """Write the runs, judge the pairs, print what was wrong."""
    wrong: dict[str, list[str]] = {}
    for seed in range(start, start + programs):
        program = Program(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            repeats = [write(folder / f"r{n}.zarr", program, 100 + n) for n in range(3)]
            base, *others = (write(folder / f"h{n}.zarr", program, n) for n in range(3))
            moved = write(folder / "moved.zarr", program, 0, rounded=True)
            pairs = [("healthy", other) for other in others]
            for number in (0, 1):
                bug = BUGS[(2 * seed + number) % len(BUGS)]
                if bug == BUGS[7] and program.optimizer == "sgd":
                    bug = BUGS[0]  # which has no momentum
                at = 5 + (7 * seed + 11 * number) % 25
                path = folder / f"b{number}.zarr"
                pairs.append((bug, write(path, program, 50 + number, bug, at)))
            for what, other in pairs:
                expected = "within noise" if what == "healthy" else "differs"
                kind = "healthy" if what == "healthy" else "with a bug"
                for how, found in (
                    ("repeats", compare_with_noise(base, other, repeats)),
                    ("rounding", compare_with_rounding(base, other, moved)),
                ):
                    judged = wrong.setdefault(f"{kind}, by {how}", [])
                    if found.verdict != expected:
                        judged.append(f"program {seed} ({program.optimizer}), {what}: {found}")
    for what, judged in wrong.items():
        print(f"{what}: {len(judged)} of {2 * programs} wrong")
        print("\n".join(judged))


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [20, 0][len(given) :]))
