"""Which layer of one model is which of another."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Literal

from steptrace_analyzer.differences.phases import Execution
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steptrace_schema.format.attributes import Layer, TraceAttributes


@dataclasses.dataclass(frozen=True)
class MatchedLayer:
    """A layer of the second model that goes by another path in the first.

    Attributes
    ----------
    a, b
        Its paths.
    how
        By order, class and shape, or because the caller said so.
    """

    a: str
    b: str
    how: Literal["order and shape", "given"]


@dataclasses.dataclass(frozen=True)
class Matching:
    """Which layers of two models are the same.

    Attributes
    ----------
    renamed
        Those with another path in the second.
    only_a, only_b
        Paths of the layers that only one has.
    """

    renamed: tuple[MatchedLayer, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    def in_b(self, path: str) -> str:
        """Return the path in the second model of a tensor of the first.

        Examples
        --------
        >>> Matching((MatchedLayer("net/a", "net/b", "given"),)).in_b("net/a/kernel")
        'net/b/kernel'
        """
        best = max(
            (m for m in self.renamed if path == m.a or path.startswith(f"{m.a}/")),
            key=lambda m: len(m.a),
            default=None,
        )
        return path if best is None else best.b + path.removeprefix(best.a)

    def in_a(self, path: str) -> str:
        """Return the path in the first model of a tensor of the second.

        Examples
        --------
        >>> Matching((MatchedLayer("net/a", "net/b", "given"),)).in_a("net/b/kernel")
        'net/a/kernel'
        """
        turned = tuple(MatchedLayer(m.b, m.a, m.how) for m in self.renamed)
        return Matching(turned).in_b(path)


def match_models(
    a: TraceAttributes, b: TraceAttributes, given: Mapping[str, str] | None = None
) -> Matching:
    """Match the layers of two runs in the order of execution; like :func:`match_layers`."""
    return match_layers(Execution.of(a.layers).layers, Execution.of(b.layers).layers, given)


def match_layers(
    a: Sequence[Layer], b: Sequence[Layer], given: Mapping[str, str] | None = None
) -> Matching:
    """Match the layers of two models: as given, else by path, else by order, class and shape.

    Parameters
    ----------
    a, b
        The layers, in the order of execution.
    given
        Path in `a` to path in `b`.

    Raises
    ------
    UnknownNameError
        If a given path is that of no layer.
    """
    given = dict(given or {})
    for paths, layers, side in ((given, a, "first"), (given.values(), b, "second")):
        known = {layer.path for layer in layers}
        for path in paths:
            if path not in known:
                near = difflib.get_close_matches(path, known, n=1)
                meant = f"; did you mean '{near[0]}'?" if near else ""
                msg = f"the {side} model has no layer '{path}'{meant}"
                raise UnknownNameError(msg)
    shared = {layer.path for layer in a} & {layer.path for layer in b}
    shared -= {*given, *given.values()}
    left_a = [layer for layer in a if layer.path not in shared and layer.path not in given]
    left_b = [layer for layer in b if layer.path not in shared and layer.path not in given.values()]
    blocks = difflib.SequenceMatcher(
        None, [_signature(x) for x in left_a], [_signature(x) for x in left_b], autojunk=False
    ).get_matching_blocks()
    pairs = [
        (left_a[block.a + i], left_b[block.b + i]) for block in blocks for i in range(block.size)
    ]
    matched_a, matched_b = {x.path for x, _ in pairs}, {y.path for _, y in pairs}
    return Matching(
        (
            *(MatchedLayer(x, y, "given") for x, y in given.items()),
            *(MatchedLayer(x.path, y.path, "order and shape") for x, y in pairs),
        ),
        tuple(x.path for x in left_a if x.path not in matched_a),
        tuple(y.path for y in left_b if y.path not in matched_b),
    )


def _signature(layer: Layer) -> tuple[object, ...]:
    names = tuple(path.rpartition("/")[2] for path in layer.variables)
    return layer.class_name, layer.output_shape, layer.parameters, names
