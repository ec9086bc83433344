"""In words: what was computed where two runs part, and what of it was equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.differences.phases import data_of
from steptrace_analyzer.trace.batch import is_input
from steptrace_schema.names import OUTPUT, SAMPLE_DIGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from steptrace_analyzer.differences.divergence_result import Place, StepDifference
    from steptrace_analyzer.differences.phases import Execution
    from steptrace_schema.format.attributes import Layer
    from steptrace_schema.names import Kind

    Compared = Callable[[Kind, str], bool]
    """Whether a tensor was compared at the step; it is equal then, as it comes earlier."""

_RANDOM: Final = ("Dropout", "GaussianNoise", "Random")
"""What is in the names of classes whose layers draw random numbers in training."""


def origin_of(
    found: StepDifference,
    execution: Execution,
    compared: Compared,
    *,
    is_first: bool,
    is_whole: bool = True,
) -> str:
    """Say what was computed, from what, and how far the results are apart.

    Parameters
    ----------
    found
        The first tensor in the order of execution that differs.
    execution
        The layers of the model.
    compared
        Whether a tensor was compared at the step.
    is_first
        Whether it is the first step that both runs have.
    is_whole
        Whether all that comes earlier could be compared.
    """
    place = found.place
    where = f"step {place.step}, {place.phase}" if place.step is not None else place.phase
    known = _circumstances(place, execution, compared, is_first=is_first)
    part = "" if is_whole else "; not everything before it could be compared"
    return f"{where}, {place.name}{_unit(place)}: {known}{part}; {size_of(found)}"


def size_of(found: StepDifference) -> str:
    """Say how far a tensor is from the other.

    Examples
    --------
    >>> size_of(found)  # doctest: +SKIP
    '3 of 20 elements differ (15 %), by up to 0.0003 (212 ULP)'
    """
    distance = found.distance
    if distance is None:
        return "its digests differ, its values are not recorded at this step"
    percent = 100 * distance.share
    share = f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
    text = f"{distance.differing} of {distance.elements} elements differ ({share})"
    if distance.max_abs is None:
        return text
    ulp = "" if distance.max_ulp is None else f" ({distance.max_ulp} ULP)"
    text += f", by up to {distance.max_abs:.3g}{ulp}"
    if distance.non_finite_a != distance.non_finite_b:
        text += (
            f"; {distance.non_finite_a} elements are not finite in the first run, "
            f"{distance.non_finite_b} in the second"
        )
    return text


def _unit(place: Place) -> str:
    parts = []
    if place.sample is not None:
        parts.append(f"sample {place.sample}")
    if place.unit is not None:
        more = f" and {place.units - 1} more" if place.units and place.units > 1 else ""
        parts.append(f"unit {place.unit}{more}")
    return f", {', '.join(parts)}" if parts else ""


def _circumstances(
    place: Place, execution: Execution, compared: Compared, *, is_first: bool
) -> str:
    if place.phase == "batch":
        if place.kind == "scalars":
            return "the runs count batches or epochs in another way"
        return "the data differ, and nothing was computed before them"
    if place.phase == "weights":
        if is_first:
            return "other initial weights, before the first step that both runs have"
        return (
            "nothing that is recorded of earlier steps differs, so the update before this step, or "
            "something between the steps, changed the weights"
        )
    if place.phase == "optimizer":
        if is_first:
            return "other optimizer state, before the first step that both runs have"
        return "nothing recorded before it differs, so the optimizer's state was changed"
    if place.phase == "forward":
        return _forward(place, execution, compared)
    if place.phase == "update" and place.kind == "scalars":
        return "other hyper-parameters: the learning rate differs, and nothing before it"
    named = {
        "loss": "the batch, the weights and the outputs of layers are equal, as far as they are "
        "recorded",
        "backward": "the forward pass and the loss are equal, as far as they are recorded",
        "gradients": "the loss and the gradients of outputs are equal, as far as they are recorded",
        "update": "the gradients are equal, as far as they are recorded",
    }
    return named.get(place.phase, "nothing that the training computes differs before it")


def _forward(place: Place, execution: Execution, compared: Compared) -> str:
    layer = execution.layer_of(place.path)
    if layer is None:
        return "everything recorded before it is equal"
    equal, unknown = _inputs(layer, compared)
    text = f"{layer.class_name} '{layer.name}': "
    if layer.inputs is None:
        text += "what it takes is unknown; everything recorded before it is equal"
    elif equal:
        text += f"{_and(equal)} {'is' if len(equal) == 1 else 'are'} equal"
    else:
        text += "nothing that it takes is recorded"
    if unknown:
        text += f", {_and(unknown)} not recorded"
    if any(word in layer.class_name for word in _RANDOM) and not unknown and equal:
        text += "; it drew other random numbers, or is configured in another way"
    return text


def _inputs(layer: Layer, compared: Compared) -> tuple[list[str], list[str]]:
    """Return what a layer takes: what was compared, and what was not."""
    sources: list[tuple[str, bool]] = [
        (f"the output of {path.rpartition('/')[2]}", compared("activations", f"{path}/{OUTPUT}"))
        for path in layer.inputs or ()
    ]
    whole = compared("inputs", SAMPLE_DIGEST)
    sources += [
        (f"the input {name}", compared("inputs", name) or (whole and is_input(name)))
        for name in data_of(layer)
    ]
    sources += [(path.rpartition("/")[2], compared("weights", path)) for path in layer.variables]
    return [n for n, known in sources if known], [n for n, known in sources if not known]


def _and(names: Iterable[str]) -> str:
    *head, last = names
    return f"{', '.join(head)} and {last}" if head else last
