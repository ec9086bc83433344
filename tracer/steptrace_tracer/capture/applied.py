"""Which of several gradients of a weight the optimizer is given in a step.

A step may differentiate more than once. Sharpness-aware minimisation moves the weights by a first
gradient, differentiates again there, moves them back, and applies the second one (Foret et al.,
2021, "Sharpness-aware minimization for efficiently improving generalization").
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class AppliedGradients:
    """Notes what optimizers are given, and which weights are assigned to meanwhile.

    Parameters
    ----------
    paths
        Path of each weight, by the ``id`` of its Keras and its TensorFlow variable.

    Attributes
    ----------
    moves
        How often each weight was assigned to, by path.
    """

    def __init__(self, paths: Mapping[int, str]) -> None:
        self._paths = paths
        self.moves: Counter[str] = Counter()
        self.given: dict[str, list[Any]] = {}
        """Path of a weight to the gradients that optimizers were given for it, in order."""

    def assign(self, variable: Any) -> None:
        """Note that a variable is assigned to."""
        path = self._paths.get(id(variable))
        if path is not None:
            self.moves[path] += 1

    def apply(self, gradients: Iterable[Any], variables: Iterable[Any]) -> None:
        """Note what an optimizer is given."""
        for variable, gradient in zip(variables, gradients, strict=False):
            path = self._paths.get(id(variable))
            if path is not None and gradient is not None:
                self.given.setdefault(path, []).append(gradient)

    def chosen(self, path: str, gradients: Sequence[Any], moves: Sequence[int]) -> list[Any] | None:
        """Return those of several gradients of a weight that count, None for all of them.

        Parameters
        ----------
        path
            The weight's.
        gradients
            What the step's losses gave, in their order.
        moves
            How often the weight had been assigned to before each.

        Returns
        -------
        list or None
            Elements of `gradients`; or what the optimizer was given instead, where the weight moved
            between them, so that they are gradients at different places; or the last one of these,
            where no optimizer was given any.
        """
        given = self.given.get(path, [])
        applied = [g for g in gradients if any(g is other for other in given)]
        if applied:
            return applied if len(applied) < len(gradients) else None
        if moves[0] == moves[-1]:
            return None
        return [given[-1] if given else gradients[-1]]
