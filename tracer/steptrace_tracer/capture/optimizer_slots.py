"""What optimizers remember of each weight: momentum, velocity, and the like."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.layout import safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_tracer.capture.names import Names


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
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.built:
        return
    weights: dict[str, list[Any]] = {}
    for weight in inner._trainable_variables:
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
