"""Draw the pictures of docs/diagnosis.md: for each rule a small training that has the fault.

    PYTHONPATH=benchmarks python docs/render_diagnosis_pictures.py FOLDER [RULE ...]

Trains programs of the corpus of ``benchmarks/diagnosis`` with mutations, traced into FOLDER, except
those whose traces are there, draws the picture of each rule, and writes what the diagnosis said of
it beside the pictures. Then run ``python docs/render_diagnosis.py``, and look at each picture.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_schema.names import Kind

FOLDER = Path(__file__).with_name("images") / "diagnosis"
SAID = FOLDER / "said.json"

_DPI = 80
_WIDEST = 1000  # pixels
_COLOURS = 128


class Picture(NamedTuple):
    """A training that has a fault, and what is drawn of it."""

    program: str
    mutation: str
    alt: str
    draw: Callable[[Any, Finding], Figure]


def _plot(name: str, *args: Any, **kwargs: Any) -> Callable[[Any, Finding], Figure]:
    """Draw a view; findings are marked where it marks any."""

    def draw(trace: Any, finding: Finding) -> Figure:
        from steptrace_analyzer import plots

        marked = {"anomalies": [finding]} if name in _MARKING else {}
        figure: Figure = getattr(plots, f"plot_{name}")(trace, *args, **marked, **kwargs)
        return figure

    return draw


def _layer(name: str, *args: Any) -> Callable[[Any, Finding], Figure]:
    """Draw a view of the layer that the finding names."""

    def draw(trace: Any, finding: Finding) -> Figure:
        from steptrace_analyzer import plots

        layer = (finding.tensor or "").partition("/")[2].rpartition("/")[0]
        figure: Figure = getattr(plots, f"plot_{name}")(trace, layer or None, *args)
        return figure

    return draw


_MARKING = ("loss", "gradients", "trajectory")


def _axes(width: float = 9.0, height: float = 3.4) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _sizes(trace: Any, finding: Finding) -> Figure:
    """Draw the norms of the weight that the finding names, of its updates and of its gradients."""
    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_analyzer.plots.style import BLACK, BLUE, ORANGE

    figure, axes = _axes()
    path = (finding.tensor or "").partition("/")[2]
    signals = Signals(trace)
    kinds: tuple[tuple[Kind, str], ...] = (
        ("weights", BLACK),
        ("updates", BLUE),
        ("gradients", ORANGE),
    )
    for kind, colour in kinds:
        norms = signals.norms(kind).of(path)
        assert norms is not None, kind
        values = norms.values[:, 0]
        zero = "" if (values > 0).any() else ": zero at every step"
        shown = np.where(values > 0, values, np.nan)
        axes.plot(norms.steps, shown, color=colour, label=f"{kind}{zero}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("L2 norm")
    axes.set_title(path)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _scale(trace: Any, finding: Finding) -> Figure:
    """Draw the loss scale, and the steps that were skipped."""
    from steptrace_analyzer.plots.style import BLUE, VERMILION

    figure, axes = _axes()
    scale = np.asarray(trace["scalars/loss_scale"], dtype=np.float64)
    skipped = np.flatnonzero(np.asarray(trace["scalars/skipped"]) > 0)
    axes.plot(scale, color=BLUE, drawstyle="steps-mid", label="loss scale")
    axes.scatter(skipped, scale[skipped], s=14, color=VERMILION, zorder=3, label="skipped step")
    axes.set_yscale("log", base=2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss scale")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _penalty(trace: Any, finding: Finding) -> Figure:
    """Draw the loss, and the part of it that is the samples'."""
    from steptrace_analyzer.plots.style import BLACK, ORANGE

    figure, axes = _axes()
    axes.plot(np.asarray(trace["scalars/loss"]), color=BLACK, label="loss")
    task = np.nanmean(np.asarray(trace["inputs/sample_loss"], dtype=np.float64), axis=1)
    axes.plot(task, color=ORANGE, label="mean of the samples' losses")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.legend(loc="center right")
    return figure


def _moving(trace: Any, finding: Finding) -> Figure:
    """Draw a layer's moving averages, and the means of what goes into it."""
    from steptrace_analyzer.plots.style import BLUE, VERMILION
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import ATTRIBUTES_KEY

    layer = (finding.tensor or "").removeprefix("weights/").removesuffix("/moving_mean")
    attributes = TraceAttributes.model_validate(trace.attrs[ATTRIBUTES_KEY])
    (given,) = next(known for known in attributes.layers if known.path == layer).inputs or ()
    batches = np.asarray(trace[f"activations/{given}/output"], dtype=np.float64)
    means = batches.mean(axis=tuple(range(1, batches.ndim - 1)))
    moving = np.asarray(trace[finding.tensor or ""])
    figure, axes = _axes()
    for channel in range(min(4, means.shape[-1])):
        label = {"label": f"mean of the batch, {layer}"} if not channel else {}
        axes.plot(means[:, channel], color=BLUE, linewidth=0.8, alpha=0.7, **label)
        label = {"label": "moving mean"} if not channel else {}
        axes.plot(moving[:, channel], color=VERMILION, linewidth=2, **label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean of four channels")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _classes(trace: Any, finding: Finding) -> Figure:
    """Draw the loss of each class over its share."""
    from steptrace_analyzer.plots.style import BLUE, GREY

    figure, axes = _axes()
    shares = {int(each): share for each, share in finding.evidence["shares"].items()}
    losses = {int(each): loss for each, loss in finding.evidence["losses"].items()}
    names = sorted(losses)
    places = np.arange(len(names))
    axes.bar(places - 0.2, [losses[n] for n in names], 0.4, color=BLUE, label="loss at the end")
    chance = [-np.log(shares[n]) for n in names]
    axes.bar(places + 0.2, chance, 0.4, color=GREY, label="of a prediction of the shares alone")
    axes.set_xticks(places, [f"class {n}\n{shares[n]:.2%} of the samples" for n in names])
    axes.set_ylabel("loss of the class")
    axes.legend()
    return figure


def _replicas(trace: Any, finding: Finding) -> Figure:
    """Draw the size of the output that differs, on each replica."""
    from steptrace_analyzer.plots.style import BLUE, VERMILION

    figure, axes = _axes()
    output = np.asarray(trace[finding.tensor or ""], dtype=np.float64)
    owner = np.asarray(trace["inputs/sample_replica"])
    size = np.square(output).mean(axis=tuple(range(2, output.ndim)))
    for number, colour in zip(range(int(owner.max()) + 1), (BLUE, VERMILION), strict=True):
        rows = owner == number
        mean = np.where(rows, size, 0).sum(axis=1) / rows.sum(axis=1)
        axes.plot(np.sqrt(mean), color=colour, label=f"replica {number}")
    axes.set_xlabel("step")
    axes.set_ylabel(f"root mean square of\n{(finding.tensor or '').removeprefix('activations/')}")
    axes.set_ylim(0)
    axes.legend()
    return figure


def _samples(trace: Any, finding: Finding) -> Figure:
    """Draw the losses of all samples over the steps, those that are listed in another colour."""
    from steptrace_analyzer.plots.style import GREY, VERMILION

    figure, axes = _axes()
    losses = np.asarray(trace["inputs/sample_loss"], dtype=np.float64)
    digests = np.asarray(trace["inputs/sample_digest"])
    listed = [sample["digest"] for sample in finding.evidence["samples"]]
    wrong = np.isin(digests, listed)
    for chosen, colour, size, label in (
        (~wrong, GREY, 1, "all other samples"),
        (wrong, VERMILION, 8, f"the {len(listed)} samples that are listed"),
    ):
        steps, places = np.nonzero(chosen)
        points = losses[steps, places]
        axes.scatter(steps, points, s=size, color=colour, label=label, rasterized=True)
    axes.set_xlabel("step")
    axes.set_ylabel("loss of the sample")
    axes.legend(loc="upper right")
    return figure


def _copies(trace: Any, finding: Finding) -> Figure:
    """Draw which rows of each batch are copies of rows before them."""
    figure, axes = _axes()
    digests = np.asarray(trace["inputs/sample_digest"])[:60]
    copies = np.array([[row[i] in row[:i] for i in range(len(row))] for row in digests])
    from matplotlib.colors import ListedColormap

    from steptrace_analyzer.plots.style import LIGHT_GREY, VERMILION

    colours = ListedColormap([LIGHT_GREY, VERMILION])
    axes.imshow(copies.T, aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("step")
    axes.set_ylabel("row of the batch")
    axes.set_title("orange: a copy of a row above it")
    return figure


def _labels(trace: Any, finding: Finding) -> Figure:
    """Draw the recorded labels of each batch."""
    from steptrace_analyzer.plots.style import BLUE

    figure, axes = _axes()
    labels = np.asarray(trace["inputs/y"], dtype=np.float64)
    steps = np.repeat(np.arange(len(labels))[:, np.newaxis], labels.shape[1], axis=1)
    axes.scatter(steps, labels, s=6, color=BLUE)
    axes.set_xlabel("step")
    axes.set_ylabel("labels of the recorded samples")
    return figure


def _cosines(trace: Any, finding: Finding) -> Figure:
    """Draw the cosine of each kernel's updates with its gradients."""
    from steptrace_analyzer.plots.style import BLUE, GREY, VERMILION

    figure, axes = _axes(height=2.6)
    found = finding.evidence["cosines"]
    values = list(found.values())
    colours = [VERMILION if value > finding.threshold else BLUE for value in values]
    axes.barh(list(found), values, color=colours)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlim(-1, 1)
    axes.invert_yaxis()
    axes.set_xlabel("median cosine between gradient and update: downhill is negative")
    return figure


PICTURES = {
    "non_finite": Picture(
        "wine",
        "nan_in_input",
        "Heat map of gradient norms: from step 140 on all cells have the colour of NaN",
        _plot("gradients"),
    ),
    "loss_scale": Picture(
        "digits_mlp",
        "scale_grows",
        "The loss scale goes up and down; every second step has the mark of a skipped one",
        _scale,
    ),
    "outside": Picture(
        "digits_mlp",
        "layer_reset",
        "The layer's weights at five steps: a pattern is gone at step 140, without an update",
        _layer("strip", range(137, 142)),
    ),
    "bad_batch": Picture(
        "digits_residual",
        "batch_scaled",
        "The loss, with one peak at step 140 that stands alone",
        _plot("loss"),
    ),
    "update_jump": Picture(
        "digits_mlp",
        "rate_spike",
        "Norms of weights, updates and gradients: the updates leap at step 140",
        _sizes,
    ),
    "gradient_jump": Picture(
        "friedman",
        "batch_clipped",
        "Heat map of gradient norms with one bright column at step 140",
        _plot("gradients"),
    ),
    "loss_spike": Picture(
        "digits_mlp",
        "labels_switch",
        "The loss falls until step 140, leaps up and takes long to come down again",
        _plot("loss"),
    ),
    "output_mismatch": Picture(
        "digits_mlp",
        "wrong_output",
        "The last layer's activation function is a ReLU, where the loss wants probabilities",
        _layer("activations", [0, 110, 219]),
    ),
    "uphill": Picture(
        "digits_mlp",
        "one_uphill",
        "Bars of cosines: of one kernel it is positive, of the others negative",
        _cosines,
    ),
    "unscaled_inputs": Picture(
        "digits_mlp",
        "inputs_raw",
        "Before the first update the inputs of the first layer's units reach hundreds",
        _layer("activations", [0]),
    ),
    "sorted_labels": Picture(
        "digits_mlp",
        "sorted",
        "Labels of each batch over the steps: a staircase, one class after the other",
        _labels,
    ),
    "repeated_inputs": Picture(
        "digits_mlp",
        "repeated",
        "Rows of batches over steps: all but the first four are copies",
        _copies,
    ),
    "class_imbalance": Picture(
        "sign_lstm",
        "class_rare",
        "Bars of the loss of each class: the rare one's is as high as without learning",
        _classes,
    ),
    "replicas": Picture(
        "digits_replicas",
        "replica_off",
        "The size of a layer's output on two replicas: one curve is far above the other",
        _replicas,
    ),
    "poor_start": Picture(
        "digits_mlp",
        "init_huge",
        "The loss begins very high and spends the run on coming down",
        _plot("loss"),
    ),
    "identical_units": Picture(
        "iris",
        "init_zero",
        "A layer's weights, update and gradient at step 20: all columns are alike",
        _layer("weights", 20),
    ),
    "rate_too_high": Picture(
        "digits_mlp",
        "rate_high",
        "The loss leaps up with the first updates and does not come down",
        _plot("loss"),
    ),
    "rate_too_low": Picture(
        "digits_mlp",
        "rate_low",
        "Norms over the steps: the updates are a ten-millionth of the weights",
        _sizes,
    ),
    "regulariser": Picture(
        "digits_mlp",
        "penalty",
        "Two curves: the whole loss is hundreds, of which the task is a hundredth",
        _penalty,
    ),
    "dead_units": Picture(
        "digits_mlp",
        "relus_dead",
        "Most outputs of a layer of ReLUs are zero, at the first step and at the last",
        _layer("activations", [0, 110, 219]),
    ),
    "frozen": Picture(
        "digits_mlp",
        "cut",
        "The model as a graph: no gradient comes to the first layer",
        _plot("flow", 100),
    ),
    "saturation": Picture(
        "digits_mlp",
        "sigmoids_flat",
        "The inputs of a layer's sigmoids lie on its flat ends",
        _layer("activations", [0, 110, 219]),
    ),
    "vanishing": Picture(
        "digits_mlp",
        "sigmoids_deep",
        "Heat map of gradient norms: ever smaller from the last layer to the first",
        _plot("gradients"),
    ),
    "exploding": Picture(
        "friedman",
        "rate_grows",
        "Heat map of gradient norms that turn ever brighter to the end",
        _plot("gradients"),
    ),
    "unchanged": Picture(
        "friedman",
        "left_out",
        "Norms over the steps: there are gradients, and no updates",
        _sizes,
    ),
    "drift": Picture(
        "digits_mlp",
        "rate_grows",
        "Loss and gradient norms, which grow step by step before the loss does",
        _plot("loss"),
    ),
    "oscillation": Picture(
        "digits_mlp",
        "rate_edge",
        "The loss goes up and down and does not fall",
        _plot("loss"),
    ),
    "normalisation": Picture(
        "digits_residual",
        "moving_stuck",
        "Means of four channels of the batches, each at its own height; the moving mean is at zero",
        _moving,
    ),
    "inference_gap": Picture(
        "digits_mlp",
        "validation_raw",
        "The training loss falls, the validation loss is far above it from the first on",
        _plot("loss"),
    ),
    "plateau": Picture(
        "friedman",
        "rate_vanishes",
        "The loss falls for 40 steps and then stands still",
        _plot("loss"),
    ),
    "diverging": Picture(
        "digits_mlp",
        "rate_raised",
        "The loss had come down by step 140, and stays high ever since",
        _plot("loss"),
    ),
    "not_learning": Picture(
        "digits_mlp",
        "labels_shuffled",
        "The loss stays where a constant prediction is",
        _plot("loss"),
    ),
    "overfitting": Picture(
        "digits_mlp",
        "overfitted",
        "The training loss falls to zero while the validation loss rises",
        _plot("loss"),
    ),
    "broken_off": Picture(
        "digits_mlp",
        "label_beyond",
        "The loss ends at step 139, where a mark says that the run broke off",
        _plot("loss"),
    ),
    "suspect_samples": Picture(
        "digits_mlp",
        "labels_few",
        "Losses of all samples: a few stay high while the others fall",
        _samples,
    ),
}


def main(arguments: list[str]) -> None:
    """Train what is missing, and draw."""
    from diagnosis.corpus import recorded

    from steptrace_analyzer import diagnose, open_trace
    from steptrace_analyzer.plots.style import style

    folder, *chosen = arguments
    FOLDER.mkdir(parents=True, exist_ok=True)
    said = json.loads(SAID.read_text(encoding="utf-8")) if SAID.exists() else {}
    missed = []
    for rule, picture in PICTURES.items():
        if chosen and rule not in chosen:
            continue
        path = recorded(Path(folder), picture.program, picture.mutation)
        assert path is not None, rule
        trace = open_trace(str(path))
        mine = [f for f in diagnose(trace).findings if f.rule == rule]
        if not mine:
            missed.append(f"{picture.program} with {picture.mutation} has no finding of {rule}")
            continue
        finding = min(mine, key=lambda f: ("error", "warning", "info").index(f.severity))
        with style():
            figure = picture.draw(trace, finding)
        _save(figure, FOLDER / f"{rule}.png")
        said[rule] = {
            "program": picture.program,
            "mutation": picture.mutation,
            "alt": picture.alt,
            "said": f"{finding.severity}: {finding.explanation}",
            "consequence": finding.consequence,
            "remedy": finding.remedy,
        }
    ordered = {rule: said[rule] for rule in PICTURES if rule in said}
    SAID.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    if missed:
        sys.exit("\n".join(missed))


def _save(figure: Figure, path: Path) -> None:
    from steptrace_analyzer.plots.style import style

    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=min(_DPI, _WIDEST / figure.get_size_inches()[0]))
    with Image.open(file) as image:
        # A third of the bytes, which every clone of the project carries.
        few = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
