"""What is recorded of optimizers: learning rates, and what they remember of each weight."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.paths import safe_path, unique_paths
from steptrace_schema.names import LEARNING_RATE, LEARNING_RATES, SKIPPED
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.keras_private import optimizer_weights, strategy_of, update_counter
from steptrace_tracer.private_names import MissingNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program


def learning_rates(optimizers: Sequence[Any]) -> dict[str, Any]:
    """Return the present learning rates, ``scalars/path`` to float32 tensor.

    Parameters
    ----------
    optimizers
        Keras optimizers, the main one first.
    """
    main, *others = (
        (optimizer.name, tf.cast(tf.identity(optimizer.learning_rate), tf.float32))
        for optimizer in optimizers
    )
    rates = {f"scalars/{LEARNING_RATE}": main[1]}
    if others:
        names = unique_paths([name for name, _ in (main, *others)])
        for name, (_, rate) in zip(names, (main, *others), strict=True):
            rates[f"scalars/{LEARNING_RATES}/{name}"] = rate
    return rates


def of_the_step(
    rates: dict[str, Any], optimizers: Sequence[Any], used: Sequence[Any]
) -> dict[str, Any]:
    """Return the rates, the main one being that of the first optimizer that the step uses.

    Parameters
    ----------
    rates
        What :func:`learning_rates` returned for `optimizers`.
    used
        Those of them that the step has given gradients to.
    """
    names = unique_paths([optimizer.name for optimizer in optimizers])
    for name, optimizer in zip(names, optimizers, strict=True):
        own = rates.get(f"scalars/{LEARNING_RATES}/{name}")
        if own is not None and any(optimizer is found for found in used):
            return {**rates, f"scalars/{LEARNING_RATE}": own}
    return rates


def scaled_counts(optimizers: Sequence[Any]) -> list[Any]:
    """Return how many steps each optimizer that scales the loss has done so far, as tensors."""
    return [
        tf.identity(update_counter(optimizer))
        for optimizer in optimizers
        if hasattr(optimizer, "inner_optimizer")
    ]


def skip_tap(before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
    """Return ``scalars/skipped``: 1 where no optimizer that scales the loss has done a step.

    Parameters
    ----------
    before, after
        What :func:`scaled_counts` returned before the training step and after it.
    """
    if not before:
        return {}
    same = [tf.equal(one, other) for one, other in zip(before, after, strict=True)]
    return {f"scalars/{SKIPPED}": tf.cast(tf.reduce_all(tf.stack(same)), tf.int64)}


_UNBUILT = (
    "the optimizer had no slots when the first step began; call "
    "optimizer.build(model.trainable_variables) before"
)


def build_slots(program: Program, policy: Policy) -> tuple[Missing, ...]:
    """Have the optimizers' slots before the step is compiled; return which lack in the record.

    A step that makes variables when it is first traced would be traced once more.
    """
    is_recorded = "optimizer" in policy.kinds
    if not is_recorded and not program.applies_last:
        return ()
    models = program.models
    unbuilt = [optimizer for optimizer in program.optimizers if not optimizer.built]
    if len(models) == 1 and unbuilt == [program.optimizers[0]]:
        compiled = not program.eager and program.strategy is None
        if build_optimizer(unbuilt[0], models[0], compiled=compiled):
            unbuilt.clear()
    return tuple(
        Missing(kind="optimizer", path=optimizer.name, reason=_UNBUILT) for optimizer in unbuilt
    )


def _scope(optimizer: Any) -> AbstractContextManager[Any] | None:
    """Return in which scope of names the step builds `optimizer`, None where that is unknown.

    Keras builds within the optimizer's name. A class of the user's own may have an ``apply`` that
    calls ``build`` itself, outside of any scope, or that builds nothing.
    """
    for name in ("apply", "apply_gradients"):
        for kind in type(optimizer).__mro__:
            method = vars(kind).get(name)
            if method is None:
                continue
            if kind.__module__.partition(".")[0] == "keras":
                break
            code = getattr(inspect.unwrap(method), "__code__", None)
            named = set() if code is None else set(code.co_names)
            if "build" in named:
                return None if "name_scope" in named else nullcontext()
            if "super" not in named:
                return None
    # The scope gives the variables the names that they get when the step makes them.
    return cast("AbstractContextManager[Any]", keras.name_scope(optimizer.name, caller=optimizer))


def build_optimizer(optimizer: Any, model: Any, *, compiled: bool) -> bool:
    """Have the slots of `optimizer`, with the values that the first step would give them.

    TensorFlow compiles a step that makes variables a second time, when there are all, and runs
    only that program: what else ``build`` does is lost. ``ScheduleFreeAdamW`` copies the weights
    there, and has zeros where a compiled step builds it.

    Parameters
    ----------
    optimizer
        An optimizer that is not built.
    model
        The model that it trains.
    compiled
        Whether a compiled step would build it, rather than one that runs eagerly.

    Returns
    -------
    Whether it is built. Left to the step is an optimizer with names that only the step knows.
    """
    scope = _scope(optimizer)
    if scope is None:
        return False

    def make() -> None:
        if optimizer.built:  # as the second program finds it, which is then empty
            return
        with scope:
            optimizer.build(model.trainable_variables)

    with strategy_of(model).scope():
        # A partial is new to TensorFlow, which else warns of retracing where many are built.
        (tf.function(functools.partial(make), autograph=False) if compiled else make)()
    return True


def slots_or_missing(
    optimizers: Sequence[Any], names: Names, policy: Policy
) -> tuple[dict[str, Any], tuple[Missing, ...]]:
    """Return what :func:`slot_taps` does, and what is missing because a private name is."""
    try:
        return slot_taps(optimizers, names, policy), ()
    except MissingNameError as error:
        reason = str(error)
        return {}, tuple(
            Missing(kind="optimizer", path=optimizer.name, reason=reason)
            for optimizer in optimizers
        )


def slot_taps(optimizers: Sequence[Any], names: Names, policy: Policy) -> dict[str, Any]:
    """Return the present slots that `policy` covers, ``optimizer/path`` to tensor.

    Parameters
    ----------
    optimizers
        Keras optimizers; several may train one weight.
    names
        The paths of the weights.
    policy
        What to keep.
    """
    if "optimizer" not in policy.kinds:
        return {}
    slots = [slot for optimizer in optimizers for slot in optimizer_slots(optimizer, names)]
    paths = unique_paths([path for path, _ in slots])
    return {
        f"optimizer/{path}": tf.identity(variable.value)
        for path, (_, variable) in zip(paths, slots, strict=True)
        if policy.covers("optimizer", path)
    }


def optimizer_slots(optimizer: Any, names: Names) -> Iterator[tuple[str, Any]]:
    """Yield the variables that an optimizer keeps for each weight, with their paths.

    Keras calls such a variable after the weight and the slot:
    ``adam/dense_kernel_momentum``. What belongs to no weight, such as the count of updates, is
    left out. Weights of several models may have the same name; their variables come in the order
    in which the optimizer has the weights.

    Parameters
    ----------
    optimizer
        A Keras optimizer; before its first step it has no slots.
    names
        The paths of the weights.

    Raises
    ------
    MissingNameError
        If it is unknown which weights the optimizer has slots for.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.built:
        return
    weights: dict[str, list[Any]] = {}
    for weight in optimizer_weights(inner):
        weights.setdefault(f"{str(weight.path).replace('/', '_')}_", []).append(weight)
    seen: Counter[str] = Counter()
    for variable in inner.variables:
        name = str(variable.path).rpartition("/")[2]
        owners = [prefix for prefix in weights if name.startswith(prefix)]
        if not owners:
            continue
        prefix = max(owners, key=len)
        same = weights[prefix]
        path = names.weights.get(id(same[seen[name] % len(same)]))
        seen[name] += 1
        if path is not None:
            yield f"{path}/{safe_path(name.removeprefix(prefix))}", variable
