"""What a compiled function does with the resources that it captures: variables, tables, iterators.

A resource that is only read need not be copied before the function runs a second time.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    _Users = dict[str, list[tuple[Any, int]]]

READING: Final = frozenset(
    {
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "VarIsInitializedOp",
        "VariableShape",
        "LookupTableExportV2",
        "LookupTableFindV2",
        "LookupTableSizeV2",
        # Their last input only orders them.
        "CollectiveAllToAllV2",
        "CollectiveGatherV2",
        "CollectiveReduceScatterV2",
        "CollectiveReduceV2",
    }
)
"""Types of operations that leave a resource as it is."""
_CALLS: Final = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "StatelessIf": 1, "If": 1}
_LOOPS: Final = ("StatelessWhile", "While")
_BRANCHES: Final = ("StatelessCase", "Case")
_PASSING_ON: Final = ("Identity",)
_RESOURCE: Final = tf.resource.as_datatype_enum


class ResourceUses:
    """Finds the operations that use each resource that a compiled function captures.

    Parameters
    ----------
    function
        The compiled function, for one input signature.
    """

    def __init__(self, function: tf.types.experimental.ConcreteFunction) -> None:
        definition = function.graph.as_graph_def()
        self._users = _users(definition.node)
        self._library = {inner.signature.name: inner for inner in definition.library.function}
        self._users_in: dict[str, _Users] = {}
        self._seen: dict[tuple[str, str], frozenset[str]] = {}
        captured = function.captured_inputs
        inside = function.inputs[len(function.inputs) - len(captured) :]
        self._names = {
            id(outer): inner.op.name
            for outer, inner in zip(captured, inside, strict=True)
            if outer.dtype == tf.resource
        }

    def of(self, resource: Any) -> frozenset[str]:
        """Return the types of the operations that use a captured resource.

        Parameters
        ----------
        resource
            One of the function's ``captured_inputs``.
        """
        return frozenset(self._uses(self._users, self._names[id(resource)]))

    def _uses(self, users: _Users, name: str) -> Iterator[str]:
        """Yield the types of the operations that use `name`, however it is passed on."""
        waiting, done = [name], set[str]()
        while waiting:
            present = waiting.pop()
            if present in done:
                continue
            done.add(present)
            for node, place in (*users.get(present, ()), *users.get(f"{present}:0", ())):
                if node.op in _PASSING_ON:
                    waiting += [node.name, f"{node.name}:output:0"]
                elif node.op in _LOOPS:
                    waiting += [f"{node.name}:{place}", f"{node.name}:output:{place}"]
                    yield from self._called(node, place)
                elif node.op in _CALLS or node.op in _BRANCHES:
                    yield from self._called(node, place - _CALLS.get(node.op, 1))
                else:
                    yield node.op

    def _called(self, node: Any, place: int) -> Iterator[str]:
        """Yield what the functions that `node` calls do with their argument number `place`."""
        for value in node.attr.values():
            functions = [value.func] if value.HasField("func") else value.list.func
            for function in functions:
                definition = self._library[function.name]
                argument = definition.signature.input_arg[place].name
                key = (function.name, argument)
                if key not in self._seen:
                    self._seen[key] = frozenset()  # what calls itself adds nothing
                    if function.name not in self._users_in:
                        self._users_in[function.name] = _users(definition.node_def)
                    inside = self._users_in[function.name]
                    self._seen[key] = frozenset(self._uses(inside, argument))
                yield from self._seen[key]
                returned = definition.signature.output_arg
                if node.op not in _LOOPS and any(out.type == _RESOURCE for out in returned):
                    yield node.op  # what is done with the result is not looked for


def _users(nodes: Iterable[Any]) -> _Users:
    """Return the operations that take each tensor, and in which place."""
    found: _Users = collections.defaultdict(list)
    for node in nodes:
        for place, given in enumerate(node.input):
            found[given].append((node, place))
    return found
