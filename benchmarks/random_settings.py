"""Policies, callbacks and ways to feed data, for `random_programs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from random_checks import ids_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from random_loops import Notes
    from random_networks import Draw

BATCH: Final = 8


def policy_of(draw: Draw) -> dict[str, Any]:
    from steptrace_schema.names import KINDS
    from steptrace_tracer import around, last

    policies: dict[str, dict[str, Any]] = {
        "default": {},
        "everything": {"kinds": KINDS, "probe_gradients_every": 1, "samples": BATCH},
        "every second": {"every": 2},
        "every third, all kinds": {"every": 3, "kinds": KINDS},
        "auto": {"every": "auto"},
        "weights": {"kinds": ("weights",)},
        "gradients": {"kinds": ("gradients", "optimizer")},
        "activations": {"kinds": ("activations", "activation_gradients"), "samples": 2},
        "inputs": {"kinds": ("inputs", "updates")},
        "probe": {"kinds": ("probe", "probe_gradients", "validation")},
        "statistics": {"statistics_only": ("weights", "gradients", "activations")},
        "one sample": {"samples": 1},
        "rounded": {"precision": {"activations": "bfloat16", "inputs": 10}},
        "no bias": {"exclude": ("*bias*",), "kinds": KINDS},
        "windows": {"windows": ((1, 3), (5, 7))},
        "epochs": {"epochs": (1,)},
        "last": {"retain": last(3)},
        "around": {"retain": around(before=2, after=1)},
        "compact": {"profile": "compact", "durability": "fsync"},
        "not compressed": {"profile": "none", "sample_statistics": False},
        "step_bytes": {"step_bytes": 20_000},
        "disk_limit": {"disk_limit": 3_000_000},
    }
    found = draw("policy", policies)
    if draw("sample_ids", [False, False, True]):
        found |= {"sample_ids": ids_of}
    ways = ["auto", "auto", "auto", "beside"]  # "inside" does not promise equal bits
    if draw.chosen["eager"] or draw.chosen["way"] == "loop" or draw.chosen["strategy"] != "none":
        ways = ["auto"]  # what runs eagerly is refused beside
    found |= {"capture": draw("capture", ways)}
    watch: dict[str, Any] = draw(
        "watch", {"none": {}, "all": {"watch": ("non_finite", "loss_spike")}}
    )
    return {**found, **watch}


def callbacks_of(draw: Draw, folder: Path, validated: bool) -> list[Any]:
    from keras import callbacks

    watched = "val_loss" if validated else "loss"
    ema = draw.chosen["average"] != "none"
    makers: dict[str, Callable[[], Any]] = {
        "none": list,
        "rate by epoch": lambda: [callbacks.LearningRateScheduler(lambda e, r: r * 0.5**e)],
        "plateau": lambda: [callbacks.ReduceLROnPlateau(watched, patience=0, min_delta=9.0)],
        "restored": lambda: [
            callbacks.EarlyStopping(
                watched, patience=1, min_delta=9.0, restore_best_weights=True, start_from_epoch=0
            )
        ],
        "checkpoint": lambda: [callbacks.ModelCheckpoint(str(folder / "best.keras"), watched)],
        "backup": lambda: [callbacks.BackupAndRestore(str(folder / "backup"), save_freq=2)],
        "averages": lambda: [callbacks.SwapEMAWeights(swap_on_epoch=True)] if ema else [],
    }
    if draw.chosen["form"] in ("subclassed", "lazy"):
        del makers["backup"]  # which needs a model that is built
    if draw.chosen["rate"] != "fixed":  # a schedule cannot be set by a callback
        del makers["rate by epoch"], makers["plateau"]
    found: list[Any] = draw("callbacks", makers)()
    return found


def data_of(draw: Draw, batches: list[Any]) -> tuple[dict[str, Any], bool]:
    """Return what ``fit`` is given, and whether the order of the batches is known."""
    import keras
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    def generator() -> Any:
        while True:
            yield from batches

    whole = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    parts = dict(zip(("x", "y", "sample_weight"), whole, strict=False))
    sliced = tf.data.Dataset.from_tensor_slices(whole)
    ways: dict[str, dict[str, Any]] = {
        "arrays": parts | {"batch_size": BATCH, "shuffle": False},
        "arrays shuffled": parts | {"batch_size": BATCH},
        "arrays split": parts | {"batch_size": 7, "validation_split": 0.2},
        "dataset": {"x": sliced.batch(BATCH)},
        "dataset prefetched": {"x": sliced.batch(BATCH).cache().prefetch(2)},
        "dataset repeated": {"x": sliced.batch(BATCH).repeat(), "steps_per_epoch": 3},
        "dataset shuffled": {"x": sliced.shuffle(9, seed=1).batch(BATCH, drop_remainder=True)},
        "generator": {"x": generator(), "steps_per_epoch": 3},
        "PyDataset": {"x": Batches(), "shuffle": False},
        "PyDataset by threads": {"x": Batches(workers=2, max_queue_size=3), "shuffle": False},
    }
    if draw.chosen["form"] == "stateful":
        del ways["arrays split"]  # whose batches are of other sizes
    found = draw("data", ways)
    if (
        draw("class_weight", [False, False, True])
        and draw.chosen["task"] == "classes"
        and len(batches[0]) == 2
    ):
        found["class_weight"] = {0: 0.5, 1: 2.0, 2: 1.0}
    if "validation_split" not in found and draw("validated", [False, True]):
        found |= {"validation_data": tuple(whole), "validation_batch_size": BATCH}
    unknown = ("arrays shuffled", "arrays split", "dataset shuffled", "generator")
    return found, draw.chosen["data"] not in unknown


def marking(tracers: Callable[[], list[Any]]) -> Any:
    import keras

    def mark(batch: int, logs: Any) -> None:
        for tracer in tracers() if batch == 1 else ():
            tracer.mark()

    return keras.callbacks.LambdaCallback(on_train_batch_begin=mark, on_epoch_end=mark)


def keeping(notes: Notes, kept: dict[str, Any]) -> Any:
    """Return a callback that keeps a checkpoint of the first epoch's end."""
    import keras

    def keep(epoch: int, logs: Any) -> None:
        kept.setdefault("values", notes.values())

    return keras.callbacks.LambdaCallback(on_epoch_end=keep)
