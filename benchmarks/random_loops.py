"""Training loops, pairs of models and what a run leaves, for `random_programs`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from random_networks import blocks_of, optimizer_of
from random_steps import halved

if TYPE_CHECKING:
    from collections.abc import Callable

    from random_networks import Draw

EPOCHS: Final = 3
LOOPS: Final = ("train_on_batch", "loop", "loop compiled", "loop xla", "loop over an iterator")
PAIRS: Final = ("pair on batch", "pair in fit", "pair in a loop")


class Interrupted(Exception):
    """Ends a ``fit`` in its middle."""


class Notes:
    """What a run leaves: its variables around each step, its logs, and what it returned.

    Parameters
    ----------
    models, optimizers
        What the steps train.
    """

    def __init__(self, *models: Any, optimizers: Any = ()) -> None:
        self.first_models = self.models = models
        self._optimizers = tuple(optimizers)
        self.phase, self.epoch, self.start = 0, -1, 0
        self.stop_at: tuple[int, int] | None = None
        self.steps: list[dict[str, Any]] = []
        self.histories: list[Any] = []

    @property
    def model(self) -> Any:
        return self.models[0]

    @property
    def optimizers(self) -> tuple[Any, ...]:
        second = getattr(self.model, "second_optimizer", None)
        own = self._optimizers or (self.model.optimizer,)
        return own if second is None else (*own, second)

    @property
    def variables(self) -> list[Any]:
        found = [v for model in self.models if model.built for v in model.variables]
        return list({id(v): v for v in found}.values())

    @property
    def slots(self) -> list[Any]:
        return [v for one in self.optimizers if one.built for v in one.variables]

    def values(self) -> dict[str, list[Any]]:
        """Return the numbers of all that trains."""
        held = getattr(self.model, "held", ())
        kinds = {"model": self.variables, "optimizer": self.slots, "held": held}
        return {kind: [np.array(v) for v in found] for kind, found in kinds.items()}

    def next_step(self, per_epoch: int) -> int:
        """Return the number of the step that would follow the last one, as a trace counts."""
        last = self.steps[-1]
        ended: int = min(last["end"] + 1, per_epoch)
        return int(last["start"]) + int(last["epoch"]) * per_epoch + ended

    def begin(self, batch: int) -> None:
        self.epoch += batch == 0
        known = {"batch": batch, "epoch": self.epoch, "phase": self.phase, "start": self.start}
        self.steps.append({**known, "before": self.values()})

    def end(self, batch: int, logs: Any) -> None:
        self.steps[-1]["end"] = batch
        self.steps[-1]["after"] = self.values()
        self.steps[-1]["logs"] = {k: float(np.asarray(v)) for k, v in (logs or {}).items()}
        if self.stop_at is not None and (self.epoch, batch) >= self.stop_at:
            self.stop_at = None
            raise Interrupted

    def callback(self) -> Any:
        import keras

        return keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: self.begin(batch),
            on_train_batch_end=self.end,
        )


@dataclasses.dataclass
class Known:
    """What the check may know of a program.

    Attributes
    ----------
    batches
        One epoch, in the order of its steps, where that is known.
    per_epoch
        Steps of an epoch.
    tape
        Whether a step is the loss of one batch that the model is called with once.
    halves
        Whether each batch is halved among two replicas.
    pairs
        Which optimizer applies the recorded gradients to which variables; `None` where none does.
    """

    way: str
    batches: list[Any]
    ordered: bool = True
    class_weight: Any = None
    per_epoch: int = 3
    tape: bool = True
    halves: bool = False
    pairs: Callable[[dict[str, Any]], list[tuple[Any, list[Any]]]] | None = None


def train_loop(
    way: str,
    model: Any,
    batches: list[Any],
    notes: Notes,
    tracer: Any,
    draw: Draw,
    strategy: Any = None,
) -> str:
    """Train in a loop of its own, which `tracer` records where there is one.

    Returns the way in which a step takes its gradients.
    """
    import tensorflow as tf

    passes = draw("passes", ["one", "one", "one", "twice", "penalized", "persistent", "halves"])
    if passes != "one" and (way == "train_on_batch" or draw.chosen["sort"] == "tokens"):
        passes = draw.chosen["passes"] = "one"

    def scaled(loss: Any) -> Any:
        return model.optimizer.scale_loss(loss)

    def loss_at(x: Any, y: Any, weight: Any) -> Any:
        return model.compute_loss(x, y, model(x, training=True), weight)

    def gradients_of(x: Any, y: Any, weight: Any) -> tuple[Any, Any]:
        if not model.built:
            model(x)
        variables = model.trainable_variables
        if passes == "penalized":
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    loss = loss_at(x, y, weight)
                slopes = tf.nest.flatten(inner.gradient(loss, x))
                total = loss + 0.1 * sum(tf.reduce_mean(tf.square(s)) for s in slopes)
                goal = scaled(total)
            return loss, tape.gradient(goal, variables)
        if passes == "persistent":
            with tf.GradientTape(persistent=True) as tape:
                loss = loss_at(x, y, weight)
                goal, second = scaled(loss), scaled(0.5 * loss * loss)
            found = [tape.gradient(one, variables) for one in (goal, second)]
            return loss, [a + b for a, b in zip(*found, strict=True)]
        if passes == "halves":
            count = tf.shape(tf.nest.flatten(x)[0])[0] // 2
            totals: Any = None
            loss = 0.0
            for part in halved((x, y, weight), count):
                with tf.GradientTape() as tape:
                    share = 0.5 * loss_at(*part)
                    goal = scaled(share)
                slopes = tape.gradient(goal, variables)
                totals = (
                    slopes
                    if totals is None
                    else [a + b for a, b in zip(totals, slopes, strict=True)]
                )
                loss += share
            return loss, totals
        with tf.GradientTape() as tape:
            loss = loss_at(x, y, weight)
            goal = scaled(loss)
        return loss, tape.gradient(goal, variables)

    def loss_of(batch: Any) -> Any:
        x, y, *weight = batch
        loss, gradients = gradients_of(x, y, weight[0] if weight else None)
        variables = model.trainable_variables
        if passes == "twice":
            moved = [0.01 * g / (1e-3 + tf.norm(g)) for g in gradients]
            for variable, by in zip(variables, moved, strict=True):
                variable.assign_add(by)
            loss, gradients = gradients_of(x, y, weight[0] if weight else None)
            for variable, by in zip(variables, moved, strict=True):
                variable.assign_sub(by)
        model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    def from_iterator(iterator: Any) -> Any:
        return loss_of(next(iterator))

    def on_replicas(batch: Any) -> Any:
        losses = strategy.run(loss_of, args=(batch,))
        return strategy.reduce("SUM", losses, axis=None)

    step: Any = from_iterator if way == "loop over an iterator" else loss_of
    if strategy is not None and way != "train_on_batch":
        step = on_replicas
    if way == "train_on_batch":
        step = model.train_on_batch
    elif way != "loop":
        step = tf.function(step, jit_compile=way == "loop xla" or None)
    given = draw("models", ["found", "given"]) == "given"
    if tracer and given:
        step = tracer.wrap(step, models=[model], optimizers=[model.optimizer])
    elif tracer:
        step = tracer.wrap(step)
    whole = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    stream = tf.data.Dataset.from_tensor_slices(whole).batch(len(tf.nest.flatten(batches[0])[0]))
    tensors = tf.nest.map_structure(tf.constant, batches)
    iterator = iter(stream.repeat())
    marked = draw("marked", [False, False, True])
    for epoch in range(EPOCHS):
        if tracer:
            tracer.epoch = epoch
        if strategy is not None:
            tensors = list(strategy.experimental_distribute_dataset(stream))
        for number, batch in enumerate(tensors):
            notes.begin(number)
            if tracer and marked and (epoch, number) == (1, 1):
                tracer.mark()
            if way == "train_on_batch":
                x, y, *weight = batches[number]
                found = step(x, y, weight[0] if weight else None, return_dict=True)
            else:
                found = {"loss": step(iterator if step_takes_iterator(way, strategy) else batch)}
            notes.end(number, found)
    if tracer:
        tracer.close()
    return str(passes)


def step_takes_iterator(way: str, strategy: Any) -> bool:
    return way == "loop over an iterator" and strategy is None


def train_pair(
    way: str, draw: Draw, rows: int, size: int, tracer_of: Callable[[], Any], callbacks: Any
) -> tuple[Notes, Known]:
    """Train a network that makes data, and one that judges them."""
    import keras
    import tensorflow as tf
    from keras import layers, ops

    draw.chosen |= {"sort": "vector", "form": "pair", "task": "binary"}
    keras.config.set_dtype_policy(
        draw("dtype", ["float32"] * 8 + ["mixed_float16", "mixed_bfloat16"])
    )
    blocks = blocks_of(draw)["vector"]

    def one(name: str, width: int) -> Any:
        x = keras.Input((8,))
        inner = x
        for number in range(draw(f"{name} blocks", [1, 2])):
            inner = blocks[draw(f"{name} block {number}", list(blocks))](inner)
        return keras.Model(x, layers.Dense(width, dtype="float32")(inner), name=name)

    maker, judge = one("maker", 8), one("judge", 1)
    of_maker, of_judge = optimizer_of(draw), optimizer_of(draw)
    jit = draw("jit", ["auto", "auto", False, True])
    eager = draw("eager", [False] * 6 + [True])
    executed = draw("executed", [1, 1, 1, 2, 3]) if way == "pair in fit" else 1
    draw.chosen["executed"] = executed
    settings = {"jit_compile": jit, "run_eagerly": eager}
    rng = np.random.default_rng(draw.seed)
    real = rng.random((rows, 8), dtype=np.float32)
    batches = [real[start : start + size] for start in range(0, rows, size)]

    def losses(real: Any, noise: Any, training: bool = True) -> tuple[Any, Any]:
        fake = maker(noise, training=training)
        right, wrong = judge(real, training=training), judge(fake, training=training)
        return ops.mean(ops.softplus(wrong) + ops.softplus(-right)), ops.mean(ops.softplus(-wrong))

    together = draw("tapes", ["two", "persistent", "one after the other"])

    def adversarial(real: Any, noise: Any) -> dict[str, Any]:
        sides = ((judge, of_judge), (maker, of_maker))
        if together == "one after the other":
            found = []
            for number, (model, optimizer) in enumerate(sides):
                with tf.GradientTape() as tape:
                    loss = losses(real, noise)[number]
                    goal = optimizer.scale_loss(loss)
                own = model.trainable_variables
                optimizer.apply_gradients(zip(tape.gradient(goal, own), own, strict=True))
                found.append(loss)
            return {"judge": found[0], "maker": found[1]}
        with tf.GradientTape(persistent=True) as first, tf.GradientTape() as second:
            both = losses(real, noise)
            goals = [side[1].scale_loss(loss) for side, loss in zip(sides, both, strict=True)]
        tapes = (first, first if together == "persistent" else second)
        slopes = [
            tape.gradient(goal, side[0].trainable_variables)
            for tape, goal, side in zip(tapes, goals, sides, strict=True)
        ]
        for (model, optimizer), found in zip(sides, slopes, strict=True):
            optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))
        return {"judge": both[0], "maker": both[1]}

    class Pair(keras.Model):  # type: ignore[misc]
        """Both networks, and numbers to make data from."""

        def __init__(self) -> None:
            super().__init__(name="pair")
            self.maker, self.judge = maker, judge
            self.of_maker, self.of_judge = of_maker, of_judge
            self.numbers = keras.random.SeedGenerator(3)
            self.built = True

        def call(self, x: Any) -> Any:
            return self.judge(x)

        def train_step(self, data: Any) -> Any:
            noise = keras.random.normal(ops.shape(data), seed=self.numbers)
            return adversarial(data, noise)

    judging = {"judge": [(of_judge, judge.trainable_variables)]}
    judging["maker"] = [(of_maker, maker.trainable_variables)]
    known = Known(way, batches, tape=False, pairs=lambda _: judging["judge"] + judging["maker"])
    if way == "pair in fit":
        pair = Pair()
        pair.compile(steps_per_execution=executed, **settings)
        notes = Notes(pair, optimizers=[of_judge, of_maker])
        tracer = tracer_of()
        order = [tracer, notes.callback()] if tracer else [notes.callback()]
        stream = tf.data.Dataset.from_tensor_slices(real).batch(size)
        done = pair.fit(stream, epochs=EPOCHS, verbose=0, callbacks=[*order, *callbacks()])
        notes.histories.append(done.history)
        if tracer:
            tracer.close()
        return notes, known
    noises = [rng.normal(size=batch.shape).astype(np.float32) for batch in batches]
    if way == "pair in a loop":
        notes = Notes(maker, judge, optimizers=[of_judge, of_maker])
        step: Any = adversarial if eager else tf.function(adversarial, jit_compile=jit is True)
        feeds = [tuple(map(tf.constant, pair)) for pair in zip(batches, noises, strict=True)]
        _run_pair(draw, notes, tracer_of(), step, feeds, [maker, judge], counted=True)
        return notes, known
    judge.compile(of_judge, keras.losses.BinaryCrossentropy(from_logits=True), **settings)
    judge.trainable = False
    noise_in = keras.Input((8,))
    both = keras.Model(noise_in, judge(maker(noise_in)), name="both")
    both.compile(of_maker, keras.losses.BinaryCrossentropy(from_logits=True), **settings)
    notes = Notes(maker, judge, optimizers=[of_judge, of_maker])
    refreeze = draw("frozen again", [True, False])
    each = 3 if refreeze else 1

    def on_batch(real: Any, noise: Any, first: int) -> None:
        ones = np.ones((len(real), 1), np.float32)
        fake = np.asarray(maker(noise))
        if refreeze:
            judge.trainable = True
        for number, (x, y) in enumerate(((real, ones), (fake, 0 * ones))):
            if refreeze:
                notes.begin(first + number)
            found = judge.train_on_batch(x, y)
            if refreeze:  # else it was compiled with nothing to train, so that is no step
                notes.end(first + number, {"first": found})
        judge.trainable = False
        notes.begin(first + each - 1)
        notes.end(first + each - 1, {"first": both.train_on_batch(noise, ones)})

    feeds = [(*pair, each * i) for i, pair in enumerate(zip(batches, noises, strict=True))]
    _run_pair(draw, notes, tracer_of(), on_batch, feeds, [maker, judge], counted=False)
    known.per_epoch, known.ordered = each * len(batches), False
    known.pairs = lambda noted: judging["judge" if (noted["batch"] + 1) % each else "maker"]
    return notes, known


def _run_pair(
    draw: Draw,
    notes: Notes,
    tracer: Any,
    step: Any,
    feeds: list[Any],
    models: list[Any],
    counted: bool,
) -> None:
    """Run a step on every feed of every epoch; it notes what it does itself, or is `counted`."""
    given = draw("models", ["found", "given"]) == "given"
    if tracer and given:
        step = tracer.wrap(step, models=models, optimizers=[*notes.optimizers])
    elif tracer:
        step = tracer.wrap(step)
    for epoch in range(EPOCHS):
        if tracer:
            tracer.epoch = epoch
        for number, feed in enumerate(feeds):
            if counted:
                notes.begin(number)
            found = step(*feed)
            if counted:
                notes.end(number, found)
    if tracer:
        tracer.close()
