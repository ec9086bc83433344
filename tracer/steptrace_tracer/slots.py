"""What optimizers remember of each weight: momentum, velocity, and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_schema.layout import safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_tracer.naming import Names


def optimizer_slots(
    optimizer: Any, models: tuple[Any, ...], names: Names
) -> Iterator[tuple[str, Any]]:
    """Yield the variables that an optimizer keeps for each weight, with their paths.

    Keras calls such a variable after the weight and the slot:
    ``adam/dense_kernel_momentum``. What belongs to no weight, such as the count of updates, is
    left out.

    Parameters
    ----------
    optimizer
        A Keras optimizer; before its first step it has no slots.
    models
        The models whose weights it may train.
    names
        The paths of the weights.
    """
    weights = {
        f"{str(weight.path).replace('/', '_')}_": weight
        for model in models
        for weight in model.trainable_variables
    }
    for variable in getattr(optimizer, "inner_optimizer", optimizer).variables:
        name = str(variable.path).rpartition("/")[2]
        owners = [prefix for prefix in weights if name.startswith(prefix)]
        if not owners:
            continue
        prefix = max(owners, key=len)
        path = names.weights.get(id(weights[prefix]))
        if path is not None:
            yield f"{path}/{safe_path(name.removeprefix(prefix))}", variable
