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

PAGE: Final = Path(__file__).parents[1] / "docs" / "unchanged.md"
STEPS: Final = 6
NETWORKS: Final = (
    "MobileNetV2",
    "MobileNetV3Small",
    "ResNet50",
    "ResNet50V2",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "Xception",
    "InceptionV3",
    "NASNetMobile",
    "ConvNeXtTiny",
    "VGG16",
)
SMALLEST: Final = {"Xception": 71, "InceptionV3": 75}
"""The smallest images that a network takes, where 64 pixels are too few."""


def rows() -> list[str]:
    """Return the names of all rows: network, pixels and what else differs from the default."""
    found = [f"{name} {max(64, SMALLEST.get(name, 0))}" for name in NETWORKS]
    found += [f"{name} 96" for name in NETWORKS]
    found += ["unet 64", "lstm", "vit 64"]
    for name in ("MobileNetV2 64", "ResNet50 64", "unet 64", "vit 64"):
        found += [f"{name} {how}" for how in ("xla", "bfloat16", "batch32", "everything")]
    return found


def network(name: str, size: int) -> Any:
    """Return an uncompiled network with two classes."""
    import keras
    from keras import layers

    if name in NETWORKS:
        make = getattr(keras.applications, name)
        return make(input_shape=(size, size, 3), weights=None, classes=2)
    if name == "lstm":
        x = inputs = keras.Input((12, 8))
        x = layers.LSTM(16, return_sequences=True)(x)
        x = layers.Bidirectional(layers.GRU(16))(x)
        return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    inputs = keras.Input((size, size, 3))
    if name == "unet":
        down, x = [], inputs
        for filters in (8, 16, 32):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
            down.append(x)
            x = layers.MaxPooling2D()(x)
        for filters, skip in zip((32, 16, 8), reversed(down), strict=True):
            x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
            x = layers.Concatenate()([x, skip])
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.GlobalAveragePooling2D()(x)
    else:
        x = layers.Reshape((-1, 32))(layers.Conv2D(32, 8, strides=8)(inputs))
        for _ in range(2):
            y = layers.LayerNormalization()(x)
            x = layers.Add()([x, layers.MultiHeadAttention(2, 16, dropout=0.1)(y, y)])
            y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
            x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(32)(y))])
        x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", dtype="float32")(x))


def train(row: str, trace: str) -> dict[str, Any]:
    """Train one network, traced where `trace` names a path; return a digest and times."""
    import keras
    import numpy as np

    name, *how = row.split()
    size = next((int(part) for part in how if part.isdigit()), 0)
    batch = 32 if "batch32" in how else 8
    if "bfloat16" in how:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shape = (12, 8) if name == "lstm" else (size, size, 3)
    x = rng.normal(size=(batch * STEPS, *shape)).astype("f4")
    y = rng.integers(0, 2, batch * STEPS)
    model = network(name, size)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile="xla" in how)
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

        computed = ("weights", "gradients", "activations", "activation_gradients", "inputs")
        fields: dict[str, Any] = (
            {"kinds": (*computed, "optimizer", "probe")} if "everything" in how else {}
        )
        tracer = Tracer(trace, progress=False, on_error="raise", **fields)
        callbacks.insert(0, tracer)
    model.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=callbacks)
    if trace:
        from steptrace_schema.store.opening import read_attributes

        found = read_attributes(Path(trace))
        way = found.capture["gradients"]
        note = next((proof.note or "" for proof in found.proofs if not proof.identical), "")
    variables = (*model.variables, *model.optimizer.variables)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()
    step = statistics.median(times[2:])
    return {"digest": digest, "first": times[0], "step": step, "way": way, "note": note}


def in_own_process(row: str, trace: str, cache: str) -> dict[str, Any]:
    """Train in a process of its own, so that nothing is left of another network."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "XDG_CACHE_HOME": cache}
    command = [sys.executable, __file__, "--one", row, "--trace", trace]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(row: str) -> str:
    """Return the line of the table for one network."""
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        one, two = (in_own_process(row, "", cache) for _ in range(2))
        traced = in_own_process(row, str(Path(folder) / "run.zarr"), cache)
        again = in_own_process(row, str(Path(folder) / "again.zarr"), cache)
    failed = next((r["error"] for r in (one, two, traced, again) if "error" in r), None)
    if failed is not None:
        return f"| {row} | failed | {failed} | | | | |"
    verdict = "identical"
    if one["digest"] != two["digest"]:
        verdict = "untraced runs differ"
    elif {one["digest"]} != {traced["digest"], again["digest"]}:
        verdict = "**changed**"
    step = min(one["step"], two["step"])
    first = min(one["first"], two["first"])
    figures = (again["step"] / step, traced["first"] / first, again["first"] / first)
    ratios = " | ".join(f"{figure:.2f}" for figure in figures)
    return f"| {row} | {verdict} | {traced['way']} | {step * 1000:.0f} | {ratios} |"


def write(lines: dict[str, str]) -> None:
    """Write the page."""
    head = f"""# Networks that are trained to the same bits

Written by `python benchmarks/unchanged.py` on {date.today()}, {os.cpu_count()} cores,
{platform.machine()}, Python {platform.python_version()}. Each network is trained from a seed for
{STEPS} steps of batch 8 (Adam, `fit` as compiled by default, default policy), twice untraced and
twice traced; *identical* says that all variables of model and optimizer have the same bits. *Way*
is what `capture="auto"` found to be harmless. A step's time is the median of an untraced run;
*traced* is the ratio of a traced step to it. *First step* is that ratio for the first step, which
compiles, and with the tracer makes the proof; *remembered* is that of the second traced run, which
remembers it.

| network, pixels | verdict | way | step, ms | traced | first step | remembered |
| --- | --- | --- | --- | --- | --- | --- |
"""
    order = [row for row in rows() if row in lines]
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
        print(json.dumps(train(options.one, options.trace)))
        return
    lines = known()
    for row in options.rows or rows():
        lines[row] = measure(row)
        print(lines[row], flush=True)
        write(lines)


if __name__ == "__main__":
    main()
