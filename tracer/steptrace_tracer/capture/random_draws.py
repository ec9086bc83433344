"""Which functions draw random numbers from a generator that TensorFlow keeps inside of them.

Each compiled function has its own generators: two copies of a step draw the same numbers. A
``tf.function`` that a step calls is called by all copies of the step, so that whichever runs takes
numbers from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEEDS: Final = ("seed", "seed2")
"""Attributes of every operation with a generator; others are given their state as a tensor."""
_CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")
"""How a ``tf.function`` is called. Loops and conditions have functions of their own."""


def draws_random_numbers() -> bool:
    """Whether the graph that is being built, or what it calls, draws random numbers."""
    return not tf.executing_eagerly() and _draws(tf.compat.v1.get_default_graph(), 0)


def draws_inside(function: Any, depth: int) -> bool:
    """Whether functions that `function` calls draw random numbers.

    Parameters
    ----------
    function
        A compiled function.
    depth
        How many calls deep these functions are at least.
    """
    return _draws(function.graph, depth)


def seeds_of(function: Any) -> list[tuple[str, int, int]]:
    """Return the kind and the seeds of every operation with a generator; both seeds are 0 for none.

    Parameters
    ----------
    function
        A compiled function. What its functions draw counts, too.
    """
    definition = function.graph.as_graph_def()
    nodes = [definition.node, *(inner.node_def for inner in definition.library.function)]
    found = {
        (node.op, *(node.attr[name].i for name in _SEEDS))
        for part in nodes
        for node in part
        if all(name in node.attr for name in _SEEDS)
    }
    return sorted(found)


def _draws(graph: Any, depth: int) -> bool:
    definition = graph.as_graph_def()
    functions = {inner.signature.name: inner.node_def for inner in definition.library.function}
    waiting, seen = [(definition.node, depth)], set()
    while waiting:
        nodes, left = waiting.pop()
        for node in nodes:
            if left <= 0 and all(name in node.attr for name in _SEEDS):
                return True
            below = left - (node.op in _CALLS)
            for name in _called(node):
                if name in functions and (name, below) not in seen:
                    seen.add((name, below))
                    waiting.append((functions[name], below))
    return False


def _called(node: Any) -> Iterator[str]:
    """Yield the names of the functions that a node refers to."""
    for value in node.attr.values():
        for found in (value.func, *value.list.func):
            if found.name:
                yield found.name
