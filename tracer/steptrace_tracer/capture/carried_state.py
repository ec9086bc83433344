"""The state that stateful recurrent layers carry from one batch into the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.names import CARRIED
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import joined, leaves, walk_layers
from steptrace_tracer.capture.optimizer_state import build_slots
from steptrace_tracer.capture.taps import as_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.names import Kind
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program

_SPREAD: Final = "each replica carries a state of its own, and none of them is recorded"


def carried_states(program: Program, names: Names, policy: Policy) -> dict[str, Any]:
    """Return the present states of the first samples, ``activations/path`` to tensor.

    They are read before the step, as the weights are: no operation is put into its graph.

    Parameters
    ----------
    program
        The step, with its built models.
    names
        The paths of their layers.
    policy
        What is kept, and of how many samples.
    """
    if program.strategy is not None:
        return {}
    return {
        f"activations/{path}": tf.identity(getattr(state, "value", state))[: policy.rows]
        for path, state in _states(program, names, policy)
    }


def prepared_states(program: Program, names: Names, policy: Policy) -> tuple[Missing, ...]:
    """Have the optimizers' slots; return which states are not recorded, with the reasons."""
    lacking = build_slots(program, policy)
    if program.strategy is None:
        return lacking
    reasons: dict[tuple[Kind, str], str] = {
        ("activations", path): _SPREAD for path, _ in _states(program, names, policy)
    }
    return (*lacking, *as_missing(reasons))


def _states(program: Program, names: Names, policy: Policy) -> Iterator[tuple[str, Any]]:
    """Yield the states that the policy covers, with their paths."""
    if "activations" not in policy.kinds:
        return
    layers = {id(layer): layer for model in program.models for layer, _ in walk_layers(model)}
    for layer in layers.values():
        if not (isinstance(layer, keras.layers.RNN) and layer.stateful and layer.built):
            continue
        for name, state in leaves(getattr(layer, "states", None)):
            path = f"{names.layers[id(layer)]}/{joined(CARRIED, name)}"
            if state is not None and policy.covers("activations", path):
                yield path, state
