"""Compare a trace with the run that it was recorded from, for `random_programs`."""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from random_steps import halved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from random_loops import Known, Notes
    from random_networks import Draw


class Trace:
    """A finished trace, with what does not agree with the run that left `notes`."""

    def __init__(self, path: Path, notes: Notes, known: Known, draw: Draw) -> None:
        import zarr

        from steptrace_schema.store.opening import read_attributes
        from steptrace_tracer.capture.names import Names

        self.group: Any = zarr.open_group(path, mode="r")
        self.attributes = read_attributes(path)
        self.notes, self.known, self.draw = notes, known, draw
        self.names = Names.of(*notes.first_models)
        if notes.models is not notes.first_models:
            self.names = _renamed(self.names, notes.first_models[0], notes.models[0])
        self.model, self.variables = notes.model, notes.variables
        self.missing = {f"{m.kind}/{m.path}" for m in self.attributes.missing}
        self.wrong: list[str] = []
        self.compared: collections.Counter[str] = collections.Counter()
        self._read: dict[str, Any] = {}

    def row(self, key: str, step: int) -> Any:
        """Return a row, None where it is not there."""
        kind = key.partition("/")[0]
        if key not in self.group or key in self.missing:
            return None
        for name in (f"{kind}/step", key):
            if name not in self._read:
                self._read[name] = np.asarray(self.group[name])
        found = np.flatnonzero(self._read[f"{kind}/step"] == step)
        return self._read[key][found[0]] if len(found) else None

    def same(self, key: str, step: int, expected: Any, close: float = 0.0, size: float = 0) -> None:
        """Note whether a row is what was expected: exactly, or close, of a largest size."""
        found = self.row(key, step)
        if found is None:
            return
        self.compared[key.partition("/")[0]] += 1
        wanted = np.asarray(expected)
        found = found[tuple(slice(0, n) for n in wanted.shape)]
        wanted = wanted[: len(found)] if wanted.ndim else wanted
        if close:
            found, wanted = found.astype(float), wanted.astype(float)
            scale = max(float(np.abs(wanted).max(initial=0)), size, 1e-6)
            good = np.allclose(found, wanted, close, close * scale, equal_nan=True)
        else:
            good = found.tobytes() == wanted.astype(found.dtype).tobytes()
        if not good:
            self.wrong.append(
                f"{key} at step {step}: {found.ravel()[:4]}, not {wanted.ravel()[:4]}"
            )

    def check(self, first: int) -> list[str]:
        """Compare the steps of `notes` from number `first` on."""
        if self.attributes.status != "complete":
            self.wrong.append(f"status {self.attributes.status}: {self.attributes.status_reason}")
        self.wrong += [f"event: {e.message}" for e in self.attributes.events if "fail" in e.message]
        final = self.attributes.final
        for variable in self.variables:
            if final is None or final.not_kept:
                break
            if id(variable) not in self.names.weights:
                continue
            path = self.names.weights[id(variable)]
            listed = path in final.arrays
            key = f"{'final' if listed else 'weights'}/{path}"
            if key in self.group and key not in self.missing:
                self.compared["final"] += 1
                values = np.asarray(self.group[key])
                values = values if listed else values[-1]
                if values.tobytes() != np.array(variable).tobytes():
                    self.wrong.append(f"{key} is not what the model ended with")
        per_epoch = self.known.per_epoch
        known = {
            one["start"] + one["epoch"] * per_epoch + one["batch"]: one
            for one in self.notes.steps[first:]
        }
        steps = list(known.values())
        for step, noted in known.items():
            self._weights(step, noted["before"]["model"])
            if noted is steps[-1]:
                self._weights(
                    step - noted["batch"] + min(noted["end"] + 1, per_epoch),
                    noted["after"]["model"],
                )
            if noted["end"] == noted["batch"]:
                for name, value in noted["logs"].items():
                    if name != "loss":
                        self.same(f"scalars/metrics/{name}", step, np.float32(value))
                again = any(noted is one for one in (*steps[:2], *steps[-2:]))
                slots = noted["before"]["optimizer"]
                built = slots and len(slots) == len(self.notes.slots)
                if again and noted["phase"] == self.notes.phase and built:
                    self._again(step, noted)
        return self.wrong

    def _weights(self, step: int, values: list[Any]) -> None:
        for variable, value in zip(self.variables, values, strict=False):
            if id(variable) in self.names.weights:
                self.same(f"weights/{self.names.weights[id(variable)]}", step, value)

    def _put_back(self, noted: dict[str, Any]) -> None:
        for kind, variables in (("model", self.variables), ("optimizer", self.notes.slots)):
            for variable, value in zip(variables, noted["before"][kind], strict=True):
                variable.assign(value)

    def _again(self, step: int, noted: dict[str, Any]) -> None:
        """Do the step again: with a second tape, and with the optimizer and what is recorded."""
        self._put_back(noted)
        optimizer, chosen = self.notes.optimizers[0], self.draw.chosen
        if len(self.notes.optimizers) == 1:
            rate = getattr(optimizer, "inner_optimizer", optimizer).learning_rate
            self.same("scalars/learning_rate", step, np.array(rate), 1e-6)
        slots = {value.tobytes() for value in noted["before"]["optimizer"]}
        for path in self.attributes.declared.get("optimizer", ()):
            row = self.row(f"optimizer/{path}", step)
            self.compared["optimizer"] += row is not None
            if row is not None and row.tobytes() not in slots:
                self.wrong.append(f"optimizer/{path} at step {step} is none of its variables")
        xla = chosen["jit"] is True or self.known.way == "loop xla"
        random = len(self.model.variables) > len(self.model.weights)  # states of random numbers
        batch = self.known.batches[noted["batch"]] if self.known.ordered else None
        if batch is not None and chosen["sample_ids"]:
            self.same("inputs/sample_id", step, ids_of(batch))
        if self.known.tape and batch is not None and scale_of(optimizer) < 1e6:
            if not (xla and random):  # XLA draws others
                self._second_tape(step, batch)
                self._put_back(noted)
        # A spectral norm assigns its kernel while it is called.
        pairs = None if "spectral" in chosen.values() else self.known.pairs
        for optimizer, trained in pairs(noted) if pairs else ():
            self._update(step, noted, optimizer, trained)

    def _update(self, step: int, noted: dict[str, Any], optimizer: Any, trained: Any) -> None:
        """Give the recorded gradients to the optimizer once more."""
        import tensorflow as tf

        scale = scale_of(optimizer)
        recorded = [self.row(f"gradients/{self.names.weights[id(v)]}", step) for v in trained]
        # Optimizers do something else with the sparse gradients of an embedding.
        tokens = self.draw.chosen["sort"] == "tokens"
        if any(g is None for g in recorded) or scale > 1e6 or tokens:
            return
        optimizer.apply([tf.constant(g * scale) for g in recorded], trained)
        self.compared["updates"] += 1
        values = zip(noted["before"]["model"], noted["after"]["model"], strict=True)
        moved = dict(zip(map(id, self.variables), values, strict=True))
        for variable in trained:
            before, wanted = map(np.float64, moved[id(variable)])
            size = np.abs(wanted - before).max(initial=0) + 1e-3 * np.abs(wanted).max(initial=0)
            off = np.abs(np.float64(variable) - wanted).max(initial=0)
            if not off <= 1e-2 * size + 1e-7 and np.isfinite(wanted).all():
                self.wrong.append(
                    f"the update of {variable.path} at step {step} does not follow from its "
                    f"gradient: off by {off:.3g} of {size:.3g}"
                )

    def _second_tape(self, step: int, batch: Any) -> None:
        import tensorflow as tf

        model, weights = self.model, self.known.class_weight
        close = 0.08 if self.draw.chosen["dtype"] != "float32" else 2e-3
        x, y, *weight = tf.nest.map_structure(tf.constant, batch)
        if weights:
            table = np.array([weights[label] for label in sorted(weights)], np.float32)
            weight = [tf.gather(table, y) * (weight[0] if weight else 1.0)]
        whole = (x, y, weight[0] if weight else None)
        outputs: dict[str, Any] = {}
        with tf.GradientTape(persistent=True) as tape:
            if self.known.halves:
                loss = 0.5 * sum(
                    model.compute_loss(a, b, model(a, training=True), c)
                    for a, b, c in halved(whole, len(tf.nest.flatten(x)[0]) // 2)
                )
            else:
                with outputs_of(model, self.names.layers) as outputs:
                    predicted = model(x, training=True)
                loss = model.compute_loss(x, y, predicted, whole[2])
        self.same("scalars/loss", step, loss, close)
        trained = model.trainable_variables
        found = {
            f"gradients/{self.names.weights[id(v)]}": tape.gradient(loss, v.value) for v in trained
        }
        for place, tensor in outputs.items():
            if tensor.dtype.is_floating:
                found[f"activation_gradients/{place}"] = tape.gradient(loss, tensor)
            if self.draw.chosen["policy"] != "rounded":
                self.same(f"activations/{place}", step, numbers(tensor), close)
        dense = {key: numbers(value) for key, value in found.items() if value is not None}
        for kind in ("gradients/", "activation_gradients/"):
            mine = {key: value for key, value in dense.items() if key.startswith(kind)}
            size = max((np.abs(value).max(initial=0) for value in mine.values()), default=0)
            for key, value in mine.items():
                self.same(key, step, value, close, float(size) / 20)
        for base, structure in (("x", x), ("y", y)):
            for name, value in leaves_of(structure):
                if self.draw.chosen["policy"] != "rounded":
                    self.same(f"inputs/{base}{name}", step, value)


def _renamed(names: Any, first: Any, second: Any) -> Any:
    """Return the paths of a model for one that was built as it was."""
    from steptrace_tracer.capture.names import Names, walk_operations

    pairs = zip(walk_operations(first), walk_operations(second), strict=True)
    layers = {id(new): names.layers[id(old)] for (old, _), (new, _) in pairs}
    weights = zip(first.weights, second.weights, strict=True)
    return Names(layers, {id(new): names.weights[id(old)] for old, new in weights})


@contextlib.contextmanager
def outputs_of(model: Any, paths: Any) -> Iterator[dict[str, Any]]:
    """Collect the outputs of the layers that are called inside, by their path."""
    from steptrace_tracer.capture.names import inside_recurrent, walk_layers

    found: dict[str, Any] = {}
    inner = inside_recurrent(model)

    def seen(path: str, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            count = sum(key.startswith(f"{path}:") for key in calls)
            calls.append(f"{path}:")
            for name, tensor in leaves_of(output):
                found[f"{path}/{f'call{count}_' if count else ''}output{name}"] = tensor
            return output

        return wrapped

    calls: list[str] = []
    layers = [layer for layer, _ in walk_layers(model) if id(layer) not in inner]
    for layer in layers:
        object.__setattr__(layer, "call", seen(paths[id(layer)], layer.call))
    try:
        yield found
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def ids_of(*batch: Any) -> Any:
    """Return an integer for each sample of a batch, from its first number."""
    import tensorflow as tf

    first = tf.nest.flatten(batch)[0]
    first = np.concatenate(tuple(map(np.asarray, getattr(first, "values", (first,)))))
    return (first.reshape(len(first), -1)[:, 0] * 1e6).astype(np.int64)


def numbers(tensor: Any) -> Any:
    import tensorflow as tf

    dense = tf.convert_to_tensor(tensor)
    return np.array(tf.cast(dense, tf.float32) if dense.dtype == tf.bfloat16 else dense)


def scale_of(optimizer: Any) -> float:
    """Return the factor of the loss that the optimizer takes back."""
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is None:
        scale = optimizer.loss_scale_factor or 1.0
    return float(np.asarray(scale))


def leaves_of(structure: Any) -> list[tuple[str, Any]]:
    from steptrace_tracer.capture.names import leaves

    return [(f"_{name}" if name else "", leaf) for name, leaf in leaves(structure)]
