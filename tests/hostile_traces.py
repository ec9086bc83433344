"""Traces and golden files that a stranger could make, with right checksums throughout."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from hostile import edit_metadata
from steptrace_schema.format.root_checksum import mismatch, sealed
from steptrace_schema.names import METADATA_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Make = Callable[[Path], object]

TEXTS: Final = (
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "$\\frac{$",
    "a\nb\r\tc",
    "../../../x",
    "x" * 5000,
    "%s%n{0}",
    "'\"><img src=x onerror=1>",
    "\x00",
    "con",
)
"""What a terminal, a page, a figure, a path or an encoder may take for more than text."""
KERNEL: Final = "weights/sequential/dense/kernel"


def attributes(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the root attributes."""
    edit_metadata(store, "", lambda fields: change(fields["attributes"]["steptrace"]))


def replace(store: Path, key: str, values: npt.NDArray[Any], dims: list[str] | None = None) -> None:
    """Write an array of any type and shape in the place of one."""
    before = json.loads((store / key / "zarr.json").read_text())
    shutil.rmtree(store / key)
    zarr.create_array(
        store / key,
        data=values,
        chunks=tuple(max(1, extent) for extent in values.shape),
        dimension_names=dims or before["dimension_names"],
        compressors=None,
        attributes=before.get("attributes") or {},
    )
    root = json.loads((store / "zarr.json").read_bytes())
    entries = root.get("consolidated_metadata", {}).get("metadata", {})
    if key in entries:
        entries[key] = json.loads((store / key / "zarr.json").read_text())
        (store / "zarr.json").write_bytes(sealed(root))


def shape(store: Path, key: str) -> list[int]:
    """Return the shape of an array."""
    found: list[int] = json.loads((store / key / "zarr.json").read_text())["shape"]
    return found


def steps(values: Callable[[int], npt.NDArray[Any]], *kinds: str) -> Make:
    """Return what gives every row of some kinds another number of its step."""

    def make(store: Path) -> None:
        found = kinds or tuple(p.parent.name for p in sorted(store.glob("*/step")))
        for kind in found:
            (rows,) = shape(store, f"{kind}/step")
            replace(store, f"{kind}/step", values(rows), ["step"])

    return make


def texts_of_layers(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        layer = fields["layers"][0]
        fields["layers"] += [
            {**layer, "path": t, "name": t, "class_name": t, "inputs": [t], "variables": [t]}
            for t in TEXTS
        ]
        for number, each in enumerate(fields["layers"]):
            each.update(name=TEXTS[number % len(TEXTS)], activation=TEXTS[0], data=[TEXTS[2]])

    attributes(store, change)


def texts_of_the_run(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        one, *_ = TEXTS
        fields.update(producer=one, run_id=one, created=TEXTS[4], finished=TEXTS[3], loss=TEXTS[10])
        fields["environment"] = {text: text for text in TEXTS}
        fields["optimizer"] = {"class_name": TEXTS[2], "config": {t: [t] for t in TEXTS}}
        fields["model"].update(name=TEXTS[2], class_name=one)
        fields["events"] = [{"time": t, "message": t, "step": 3} for t in TEXTS]
        fields["missing"] = [{"kind": "weights", "path": t, "reason": t} for t in TEXTS]

    attributes(store, change)


def half_a_character(store: Path) -> None:
    """Name the loss by what no writer can: half of a pair of UTF-16, with the right checksum."""
    attributes(store, lambda fields: fields.update(loss="half"))
    path = store / METADATA_FILE
    content = path.read_bytes().replace(b'"half"', b'"\\ud800"')
    wrong = mismatch(content, json.loads(content))
    assert wrong is not None
    path.write_bytes(content.replace(wrong[1].encode(), wrong[0].encode(), 1))


def huge_numbers(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["model"].update(parameters=10**400, trainable_parameters=-(10**30))
        fields["layers"][0].update(parameters=10**4000, output_shape=[None, 10**4000, -1, 0])
        config = {"learning_rate": 10**400, "momentum": 1e308, "nesterov": 10**30}
        fields["optimizer"] = {"class_name": "SGD", "config": config}
        fields["events"] = [{"time": "x", "message": "m", "step": 10**400}]

    attributes(store, change)


def settings_of_no_optimizer(store: Path) -> None:
    config: dict[str, Any] = {"learning_rate": "0.1", "momentum": [1], "beta_1": 1.0}
    config |= {"beta_2": None, "epsilon": {}, "amsgrad": "no", "clipnorm": -1, "ema_momentum": []}
    change = {"class_name": "Adam", "config": config}
    attributes(store, lambda fields: fields.update(optimizer=change))


def layers_in_a_circle(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        paths = [layer["path"] for layer in fields["layers"]]
        for layer in fields["layers"]:
            layer.update(inputs=[*paths, "nowhere"], data=["x", "nothing"])

    attributes(store, change)


def a_loss_with_two_numbers(store: Path) -> None:
    rows = shape(store, "scalars/loss")
    replace(store, "scalars/loss", np.ones((*rows, 2), np.float32), ["step", "k"])


def one_dim_twice(store: Path) -> None:
    for kind in ("weights", "gradients"):
        key = f"{kind}/sequential/dense/kernel"
        edit_metadata(store, key, lambda m: m.update(dimension_names=["step", "a", "a"]))


def dims_that_are_markup(store: Path) -> None:
    names = ["step", TEXTS[0], TEXTS[2]]
    for kind in ("weights", "gradients"):
        key = f"{kind}/sequential/dense/kernel"
        edit_metadata(store, key, lambda m: m.update(dimension_names=names))


def _values(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], *keys: str) -> Make:
    """Return what writes other values into tensors."""

    def make(store: Path) -> None:
        for key in keys or (KERNEL, "gradients/sequential/dense/kernel", "scalars/loss"):
            before = np.asarray(zarr.open_array(store / key, mode="r"))
            replace(store, key, change(before))

    return make


def no_units(store: Path) -> None:
    for kind in ("weights", "gradients"):
        key = f"{kind}/sequential/dense/kernel"
        rows, inputs, _ = shape(store, key)
        replace(store, key, np.ones((rows, inputs, 0), np.float32))


def many_dims(store: Path) -> None:
    names = ["step", *(f"d{n}" for n in range(31))]
    for kind in ("weights", "gradients"):
        key = f"{kind}/sequential/dense/kernel"
        rows = shape(store, key)[0]
        replace(store, key, np.ones((rows, *(1,) * 31), np.float32), names)


def one_row_of_steps(store: Path) -> None:
    for kind in sorted(p.parent.name for p in store.glob("*/step")):
        replace(store, f"{kind}/step", np.array([3]), ["step"])


def a_chain_of_layers(store: Path) -> None:
    """Give the graph a path of 5,000 layers, and an end that joins all of them."""

    def change(fields: dict[str, Any]) -> None:
        layer = fields["layers"][0]
        paths = [f"net/l{n}" for n in range(5000)]
        chain = [
            {**layer, "path": path, "name": path, "inputs": [before], "variables": []}
            for before, path in itertools.pairwise(["net/l4999", *paths])
        ]
        chain[0]["inputs"] = []
        fields["layers"] += [*chain, {**layer, "path": "end", "inputs": paths, "variables": []}]

    attributes(store, change)


def layers_in_layers(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        layer = fields["layers"][0]
        paths = ["/".join(["a"] * depth) for depth in range(1, 1500, 50)]
        fields["layers"] += [{**layer, "path": path, "name": "a", "inputs": []} for path in paths]

    attributes(store, change)


def shapes_of_no_layer(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        for layer in fields["layers"]:
            layer.update(output_shape=[1] * 100_000, parameters=-1)
        fields["model"].update(parameters=-1)

    attributes(store, change)


def many_events(store: Path) -> None:
    event = {"time": "2026-01-01T00:00:00Z", "message": "x" * 300, "step": 3}
    attributes(store, lambda fields: fields.update(events=[event] * 20_000))


def nothing_recorded(store: Path) -> None:
    for path in sorted(store.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
    root = json.loads((store / "zarr.json").read_bytes())
    root["consolidated_metadata"]["metadata"] = {}
    (store / "zarr.json").write_bytes(sealed(root))


HIGHEST: Final = 2**63 - 1
TRACES: Final[dict[str, Make]] = {
    **{
        make.__name__: make
        for make in (
            texts_of_layers,
            texts_of_the_run,
            half_a_character,
            huge_numbers,
            settings_of_no_optimizer,
            layers_in_a_circle,
            a_loss_with_two_numbers,
            one_dim_twice,
            dims_that_are_markup,
            no_units,
            many_dims,
            one_row_of_steps,
            a_chain_of_layers,
            layers_in_layers,
            shapes_of_no_layer,
            many_events,
            nothing_recorded,
        )
    },
    "values_nan": _values(lambda values: np.full_like(values, np.nan)),
    "values_infinite": _values(lambda values: np.where(values > 0, np.inf, -np.inf)),
    "values_at_both_ends": _values(
        lambda values: np.where(values > 0, 3e38, -3e38).astype(np.float32)
    ),
    "values_double_at_both_ends": _values(lambda values: np.where(values > 0, 1.7e308, -1.7e308)),
    "values_not_of_the_type": _values(lambda values: values > 0),
    "values_whole": _values(lambda values: np.where(values > 0, HIGHEST, -HIGHEST)),
    "steps_nan": steps(lambda n: np.full(n, np.nan)),
    "one_step_nan": steps(lambda n: np.where(np.arange(n) == 3, np.nan, np.arange(n)), "scalars"),
    "steps_downwards": steps(lambda n: np.arange(n)[::-1].copy()),
    "steps_equal": steps(lambda n: np.zeros(n, np.int64)),
    "steps_far_apart": steps(lambda n: np.linspace(0, 2**62, n).astype(np.int64)),
    "steps_at_both_ends": steps(lambda n: np.where(np.arange(n) == 0, -HIGHEST, HIGHEST)),
    "steps_true": steps(lambda n: np.ones(n, bool), "scalars"),
}
"""Name to what changes a sound trace of the synthetic run."""


def _digests(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields["kinds"]["weights"].update(changes)


def _nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


GOLDEN: Final[dict[str, Callable[[dict[str, Any]], object]]] = {
    "texts": lambda f: f["kinds"]["weights"].update(
        tensors=[TEXTS[n % 5] for n, _ in enumerate(f["kinds"]["weights"]["tensors"])]
    ),
    "name": lambda f: f.update(name=TEXTS[0]),
    "one name": lambda f: f["kinds"]["weights"].update(
        tensors=["a"] * len(f["kinds"]["weights"]["tensors"])
    ),
    "steps downwards": lambda f: f["kinds"]["weights"]["steps"].reverse(),
    "steps equal": lambda f: f["kinds"]["weights"].update(
        steps=[0] * len(f["kinds"]["weights"]["steps"])
    ),
    "steps negative": lambda f: f["kinds"]["weights"].update(
        steps=[-n for n in f["kinds"]["weights"]["steps"]]
    ),
    "a step of thirty digits": lambda f: f["kinds"]["weights"]["steps"].__setitem__(0, 10**30),
    "steps at both ends": lambda f: f["kinds"]["weights"].update(
        steps=[-HIGHEST, *f["kinds"]["weights"]["steps"][1:-1], HIGHEST]
    ),
    "a step that is no integer": lambda f: f["kinds"]["weights"]["steps"].__setitem__(0, 1e300),
    "a step that is NaN": lambda f: f["kinds"]["weights"]["steps"].__setitem__(0, float("nan")),
    "no base64": _digests(digests="\u202e" * 50),
    "digests of fewer": _digests(digests="AAAAAAAAAAA="),
    "nothing": lambda f: f.update(kinds={}),
    "a kind of nothing": _digests(steps=[], tensors=[], digests=""),
    "a derived kind": lambda f: f["kinds"].update(updates=f["kinds"]["weights"]),
    "nested": lambda f: f["attributes"].update(environment=_nested(900)),
    "steps of nothing": _digests(steps=list(range(200_000)), tensors=[], digests=""),
    "names of nothing": _digests(steps=[], tensors=[str(n) for n in range(200_000)], digests=""),
}
"""Name to what changes the fields of a golden file."""
