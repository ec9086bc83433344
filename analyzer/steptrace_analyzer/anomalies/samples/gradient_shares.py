"""Which samples of a batch made the gradient of a weight."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import TypeAdapter

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.samples.activation_functions import backward, forward, known
from steptrace_analyzer.anomalies.samples.patches import matrices_of, patches_of
from steptrace_analyzer.anomalies.samples.visits import Visit, visits_before
from steptrace_analyzer.anomalies.signals import Signals, layer_path, require
from steptrace_analyzer.anomalies.words import listed, number, plural
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import resolve_tensor
from steptrace_schema.names import BATCH_SIZE, RECORDED_ID, SAMPLE_REPLICA

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.format.attributes import Layer

    Floats = npt.NDArray[np.float64]

_ALIKE: Final = 0.02  # of the outputs' spread: recorded numbers may have been rounded
_WHOLE: Final = 1e-3  # of the gradient: all samples together give it
_TOLD: Final = 5
_MOST_BYTES: Final = 2e9
_LAYERS: Final = ("kernel", "bias")


@dataclasses.dataclass(frozen=True)
class SampleShare:
    """What one sample did to a gradient.

    Parameters
    ----------
    row
        Its place among the recorded samples; that in the batch, unless the policy picks samples or
        several replicas train.
    share
        The scalar product of its gradient and the whole one over the whole one's squared norm. All
        samples' shares sum to one; a sample that pulls the other way has a negative one.
    size
        L2 norm of its gradient.
    loss, digest, id
        Of the sample, None where the trace does not say.
    seen
        The last earlier steps that trained on the sample, by its digest.
    """

    row: int
    share: float
    size: float
    loss: float | None = None
    digest: int | None = None
    id: int | None = None
    seen: tuple[Visit, ...] = ()


@dataclasses.dataclass(frozen=True)
class GradientShares:
    """The recorded gradient of a weight, divided among samples.

    Parameters
    ----------
    step, path
        Which gradient.
    reason
        Why the trace cannot say; None where it can.
    samples
        The largest share by magnitude first.
    batch
        Samples of the batch.
    size
        L2 norm of the whole gradient.
    exact
        Whether all samples of the batch are recorded, and their gradients sum to the recorded one
        to within a thousandth of it.
    rest
        L2 norm of what the recorded samples do not give, over that of the gradient.
    """

    step: int
    path: str
    reason: str | None = None
    samples: tuple[SampleShare, ...] = ()
    batch: int | None = None
    size: float | None = None
    exact: bool | None = None
    rest: float | None = None

    def explain(self) -> str:
        """Say in a few sentences which samples made the gradient."""
        if self.reason is not None:
            return (
                f"Which samples made the gradient of {self.path} at step {self.step} cannot be "
                f"said: {self.reason}."
            )
        known = f"{len(self.samples)} of {self.batch}" if self.batch is not None else "some"
        text = f"Of the gradient of {self.path} at step {self.step} ({number(self.size or 0.0)}), "
        if self.exact:
            text += f"all {plural(len(self.samples), 'sample')} are recorded, and sum to it: "
        elif len(self.samples) == self.batch:
            text += (
                f"all {plural(len(self.samples), 'sample')} are recorded, and leave "
                f"{self.rest or 0.0:.0%} of it to what no sample has, such as penalties: "
            )
        else:
            text += f"{known} samples are recorded, and the others unknown: "
        return text + "; ".join(_told(one) for one in self.samples[:_TOLD]) + "."

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = TypeAdapter(GradientShares).dump_python(self, mode="json")
        return fields | {"explanation": self.explain()}


def explain_gradient(trace: TraceOrPath, step: int, path: str) -> GradientShares:
    """Divide the recorded gradient of a Dense or Conv layer's kernel or bias among the samples.

    Convolutions may have one to three places, be divided into groups, or be depthwise.

    A sample's gradient is the product of what goes into the layer and the gradient of what comes
    out before its activation function (Goodfellow, "Efficient Per-Example Gradient Computations",
    2015). Both are recorded for the first samples of a batch, or computed from what is: the
    gradient of the layer's outputs is taken back through the activation function, at
    pre-activations that are computed again. What the layer gives is compared with its recorded
    outputs, which shows how a convolution strides and pads.

    Parameters
    ----------
    trace
        A trace, or its path.
    step
        The step.
    path
        A kernel or bias, or as many of its last segments as single it out: ``"dense/kernel"``.

    Returns
    -------
    GradientShares
        With `reason`, where the trace cannot say. Where not all samples of the batch are recorded,
        it says how many of how many are.

    Raises
    ------
    UnknownNameError
        If there is no such weight.

    Examples
    --------
    >>> found = explain_gradient("run.zarr", 60, "conv_2/kernel")  # doctest: +SKIP
    >>> found.samples[0].row, found.samples[0].share  # doctest: +SKIP
    (3, 0.94)
    """
    trace = opened(trace)
    path = resolve_tensor(trace, "weights", path)
    try:
        return _shares(Signals(trace), step, path)
    except NotJudgedError as reason:
        return GradientShares(step, path, reason=str(reason))


def _shares(signals: Signals, step: int, path: str) -> GradientShares:
    name = path.rpartition("/")[2]
    layer = signals.layers.get(layer_path(path))
    require(layer is not None and name in _LAYERS, "it is no kernel or bias of a layer")
    assert layer is not None
    whole = signals.row("gradients", path, step)
    require(whole is not None, f"the gradient of step {step} is not recorded")
    assert whole is not None
    features, gradients = _both_sides(signals, layer, step)
    target = np.asarray(whole, dtype=np.float64)
    groups, units = gradients.shape[1], gradients.shape[3]
    shape = (features.shape[3], groups, units) if name == "kernel" else (groups, units)
    require(
        target.size == np.prod(shape, dtype=int), "the gradient has another size than the layer"
    )
    flat = target.reshape(shape)
    rest, parts = flat.copy(), []
    square = float((flat * flat).sum())
    require(np.isfinite(square) and square > 0, "the gradient is zero, or not finite")
    for taken, given in zip(features, gradients, strict=True):
        if name == "kernel":
            own = (taken.transpose(0, 2, 1) @ given).transpose(1, 0, 2)
        else:
            own = given.sum(axis=1)
        rest -= own
        parts.append((float((own * flat).sum()) / square, float(np.linalg.norm(own))))
    row = signals.batch_size.row(step)
    batch = int(signals.batch_size.values[row, 0]) if row is not None else None
    left = float(np.linalg.norm(rest)) / float(np.sqrt(square))
    order = np.argsort([-abs(share) for share, _ in parts], kind="stable")
    visits = visits_before(signals, step, len(parts))
    samples = tuple(
        SampleShare(int(i), *parts[i], **(visits[i] if visits else {})) for i in order.tolist()
    )
    return GradientShares(
        step=step,
        path=path,
        samples=samples,
        batch=batch,
        size=float(np.sqrt(square)),
        exact=len(parts) == batch and left < _WHOLE,
        rest=left,
    )


def _both_sides(signals: Signals, layer: Layer, step: int) -> tuple[Floats, Floats]:
    """Return what goes into a layer, and the gradient of what comes out before its activation.

    Returns
    -------
    features, gradients
        (sample, group, position, feature) and (sample, group, position, unit).
    """
    kernel = signals.row("weights", f"{layer.path}/kernel", step)
    require(kernel is not None, f"the kernel of {layer.path} of step {step} is not recorded")
    assert kernel is not None
    require(kernel.ndim >= 2 and kernel.size, "the kernel is no matrix")
    require(known(layer.activation), f"the slope of {layer.activation} is not known here")
    outputs = signals.row("activations", f"{layer.path}/output", step)
    require(outputs is not None, f"the outputs of {layer.path} of step {step} are not recorded")
    assert outputs is not None
    inputs = _inputs(signals, layer, step)
    logits = signals.row("activation_gradients", f"{layer.path}/logits", step)
    back = logits
    if back is None:
        back = signals.row("activation_gradients", f"{layer.path}/output", step)
    require(back is not None, f"the gradients of the outputs of {layer.path} are not recorded")
    assert back is not None
    require(min(inputs.ndim, outputs.ndim, back.ndim) >= 2, "what is recorded has no samples")
    count = _recorded(signals, step, min(len(inputs), len(outputs), len(back)))
    given, came, gradient = (
        np.asarray(each[:count], dtype=np.float64) for each in (inputs, outputs, back)
    )
    positions = int(np.prod(came.shape[1:-1], dtype=int))
    large = 8 * count * positions * int(np.prod(kernel.shape[:-1], dtype=int))
    require(large <= _MOST_BYTES, f"what its positions take is {large / 1e9:.1f} GB, too much")
    channels, last = given.shape[-1], came.shape[-1]
    matrices = matrices_of(np.asarray(kernel, dtype=np.float64), channels, last)
    msg = (
        f"the outputs of {layer.path} ({layer.class_name}) are not what a dense layer or a "
        "convolution with its kernel gives of its recorded inputs"
    )
    require(matrices is not None, msg)
    assert matrices is not None
    bias = signals.row("weights", f"{layer.path}/bias", step)
    require(bias is None or bias.shape == (last,), "the bias has another size")
    offset = 0.0 if bias is None else np.asarray(bias, dtype=np.float64)
    for features in patches_of(given, kernel.shape, came.shape[1:-1], len(matrices)):
        before = _together(features @ matrices) + offset
        made = forward(layer.activation, before)
        recorded = came.reshape(made.shape) if came.size == made.size else None
        if (
            recorded is not None
            and gradient.size == made.size
            and np.abs(made - recorded).max() <= _ALIKE * recorded.std() + 1e-6
        ):
            gradient = gradient.reshape(made.shape)
            if logits is None:
                gradient = backward(layer.activation, before, gradient)
            return features, _apart(gradient, features.shape[1])
    raise NotJudgedError(msg)


def _together(groups: Floats) -> Floats:
    """Return the units of all groups side by side: (sample, position, unit)."""
    samples, _, positions, _ = groups.shape
    return groups.transpose(0, 2, 1, 3).reshape(samples, positions, -1)


def _apart(units: Floats, groups: int) -> Floats:
    """Return what :func:`_together` has put together."""
    samples, positions, _ = units.shape
    return units.reshape(samples, positions, groups, -1).transpose(0, 2, 1, 3)


def _inputs(signals: Signals, layer: Layer, step: int) -> npt.NDArray[Any]:
    taken: npt.NDArray[Any] | None = None
    if layer.inputs and len(layer.inputs) == 1 and not layer.data:
        taken = signals.row("activations", f"{layer.inputs[0]}/output", step)
    elif layer.data and len(layer.data) == 1 and not layer.inputs:
        taken = signals.row("inputs", layer.data[0], step)
    require(
        taken is not None,
        f"the trace does not say, or does not hold, what {layer.path} takes at step {step}",
    )
    assert taken is not None
    return taken


def _recorded(signals: Signals, step: int, most: int) -> int:
    """Return how many of the rows are samples, and no padding."""
    owner = signals.row("inputs", SAMPLE_REPLICA, step)
    named = signals.row("inputs", RECORDED_ID, step)
    for told in (owner, named):
        if told is not None:
            return min(most, int((told != -1).sum()))
    row = signals.batch_size.row(step)
    require(row is not None, f"scalars/{BATCH_SIZE} of step {step} is not recorded")
    assert row is not None
    count = min(most, int(signals.batch_size.values[row, 0]))
    require(count > 0, f"no sample of step {step} is recorded")
    return count


def _told(one: SampleShare) -> str:
    facts = []
    if one.loss is not None:
        facts.append(f"loss {number(one.loss)}")
    if one.id is not None:
        facts.append(f"id {one.id}")
    if one.seen:
        earlier = [
            f"{visit.step}" + (f" (loss {number(visit.loss)})" if visit.loss is not None else "")
            for visit in one.seen
        ]
        facts.append(f"seen before at steps {listed(earlier)}")
    return f"sample {one.row} made {one.share:.0%} of it" + (
        f" ({', '.join(facts)})" if facts else ""
    )
