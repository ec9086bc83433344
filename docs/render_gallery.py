"""Draw docs/gallery.md and its pictures: every view, of three traces.

Run ``steptrace demo``, ``python examples/cats_and_dogs.py --data PHOTOS --steps 14`` and
``steptrace demo -o eighty --steps 80``, and then ``python docs/render_gallery.py
steptrace-demo/digits.zarr cats_and_dogs.zarr eighty/digits.zarr`` after a change of a view, and
look at each picture. A test compares the page with this script.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).with_name("gallery.md")
FOLDER = Path(__file__).with_name("images") / "gallery"
FLOW = Path(__file__).with_name("images") / "flow.gif"

_DPI = 80
_HEAD = """# Gallery

The first pictures are of the trace that `steptrace demo` writes: a small network learns handwritten
digits, and the batch of step 60 is corrupted. Those below are of `examples/cats_and_dogs.py`, a
larger network that begins to tell photos of cats from photos of dogs. The last ones compare the
demo with one of 80 steps (`steptrace demo -o eighty --steps 80`), whose batch of step 48 is
corrupted. `docs/render_gallery.py` draws this page.

Each view is a command, `steptrace plot VIEW`, and a function of `steptrace_analyzer` that returns a
matplotlib figure. A file that ends in `.svg` or `.pdf` is drawn as vectors.
"""


class View(NamedTuple):
    """One picture: its name, the options of its command, and what it shows."""

    name: str
    options: str
    title: str
    text: str

    @property
    def picture(self) -> str:
        """The file's name."""
        return f"{self.name}.png"

    @property
    def command(self) -> str:
        """The command that draws it."""
        if self in TWO_RUNS:
            return self.options
        view = self.name.removeprefix("photos-").partition("-")[0]
        trace = "cats_and_dogs.zarr" if self in PHOTOS else "digits.zarr"
        return f"steptrace plot {view} {trace} {self.options}".rstrip()


VIEWS = (
    View(
        "loss",
        "",
        "Loss",
        "Loss, gradient norms and learning rate, with the steps at which something happened.",
    ),
    View(
        "flow",
        "--step 60",
        "Model flow",
        "The layers as a graph. Blue arrows carry outputs forward, orange ones the gradient of the "
        "loss back. The points are the values of step 60, the grey bars those of all steps.",
    ),
    View(
        "weights",
        "--layer conv --step 60",
        "Weights, update, gradient",
        "A tile per filter of a convolution. A Dense kernel is a matrix, an attention has a tile "
        "per head, an LSTM one per gate.",
    ),
    View(
        "weights-steps",
        "--layer conv --steps 58:62",
        "Before, at and after a step",
        "The same colours in every column, so that steps compare.",
    ),
    View(
        "parameters",
        "--layer conv --step 60",
        "Parameters and the force on each",
        "A point per parameter: its value, and what the step adds to it.",
    ),
    View(
        "trajectory",
        "",
        "The way of the parameters",
        "The weights of all layers in the directions in which they moved most. Before step 60 they "
        "move one way, after it another.",
    ),
    View(
        "ridge",
        "--layer conv_2",
        "Distributions over steps",
        "Of weights, updates, gradients or activations (`--kind`).",
    ),
    View(
        "activations",
        "--layer dense --step 0 --step 59 --step 61 --step 99",
        "Activation function",
        "What goes in against what comes out, for the fixed inputs of the probe. The "
        "titles say what share of the outputs is zero.",
    ),
    View(
        "gradients",
        "",
        "Gradients",
        "The norm of each layer's gradient at each step.",
    ),
    View(
        "maps",
        "--layer conv --step 59",
        "Activation maps",
        "One input, the gradient of the loss by it, a layer's output and its gradient.",
    ),
    View(
        "statistics",
        "--layer dense",
        "Values over time",
        "Percentiles of each of a layer's tensors.",
    ),
    View(
        "sensitivity",
        "--step 4",
        "dz/dx",
        "The gradient of each layer's strongest unit with respect to the input, over the input; "
        "and its size over the steps at which the probe is differentiated.",
    ),
)

PHOTOS = (
    View(
        "photos-flow",
        "--step 20",
        "Model flow of a larger network",
        "Four convolutions and two dense layers, 3.5 million parameters.",
    ),
    View(
        "photos-weights",
        "--layer conv2d --step 20",
        "32 filters of three colours",
        "Each filter, its update and its gradient.",
    ),
    View(
        "photos-activations",
        "--layer dense --step 0 --step 14 --step 27",
        "512 rectified units",
        "At the beginning, in the middle and at the end.",
    ),
    View(
        "photos-sensitivity",
        "",
        "dz/dx of photos",
        "What of a photo moves the strongest unit of each layer.",
    ),
    View(
        "photos-trajectory",
        "",
        "The way of 3.5 million parameters",
        "In the directions in which they moved most, read in one pass over the trace.",
    ),
    View(
        "photos-statistics",
        "--layer conv2d_3",
        "The last convolution over time",
        "Percentiles of each of its tensors.",
    ),
)

TWO_RUNS = (
    View(
        "runs",
        "steptrace compare digits.zarr eighty/digits.zarr -o runs.png",
        "Several runs",
        "Losses and norms over each other, and where the runs part.",
    ),
    View(
        "divergence",
        "steptrace diff digits.zarr eighty/digits.zarr --html difference.html",
        "How far two runs are apart",
        "The distance of each layer over the steps. It is part of the page that this writes.",
    ),
)


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    parts += map(_section, VIEWS)
    parts += map(_section, PHOTOS)
    parts += map(_section, TWO_RUNS)
    parts.append(
        "## Moving\n\nThe same axes and colours in every frame. `--view` takes `flow`, `weights`, "
        "`parameters` and `activations`; `-o run.html` gives a page with a slider.\n\n"
        "    steptrace animate digits.zarr --steps 50:75 -o flow.gif\n\n"
        "![The model flow of steps 50 to 75](images/flow.gif)\n"
    )
    return "\n".join(parts)


def _section(view: View) -> str:
    return (
        f"## {view.title}\n\n{view.text}\n\n    {view.command}\n\n"
        f"![{view.title}](images/gallery/{view.picture})\n"
    )


def draw(trace: str, photos: str, eighty: str) -> None:
    """Draw all pictures of a trace of the demo, of one of the photos, and of a shorter demo."""
    from steptrace_analyzer import animate, diff, open_trace, plots
    from steptrace_analyzer.plots.steps import sudden_findings

    opened = open_trace(trace)
    found = sudden_findings(opened)
    figures: dict[str, Figure] = {
        "loss": plots.plot_loss(opened, found),
        "flow": plots.plot_flow(opened, 60),
        "weights": plots.plot_weights(opened, "conv", 60),
        "weights-steps": plots.plot_strip(opened, "conv", range(58, 63)),
        "parameters": plots.plot_parameters(opened, "conv", 60),
        "trajectory": plots.plot_trajectory(opened, None, found),
        "ridge": plots.plot_ridge(opened, "conv_2"),
        "activations": plots.plot_activations(opened, "dense", [0, 59, 61, 99]),
        "gradients": plots.plot_gradients(opened, found),
        "maps": plots.plot_activation_maps(opened, "conv", 59),
        "statistics": plots.plot_statistics(opened, "dense"),
        "sensitivity": plots.plot_sensitivity(opened, step=4),
        "photos-flow": plots.plot_flow(photos, 20),
        "photos-weights": plots.plot_weights(photos, "conv2d", 20),
        "photos-activations": plots.plot_activations(photos, "dense", [0, 14, 27]),
        "photos-sensitivity": plots.plot_sensitivity(photos),
        "photos-trajectory": plots.plot_trajectory(photos),
        "photos-statistics": plots.plot_statistics(photos, "conv2d_3"),
        "runs": plots.plot_runs([trace, eighty], ["100 steps", "80 steps"], [48]),
        "divergence": plots.plot_divergence(diff(trace, eighty)),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for view in (*VIEWS, *PHOTOS, *TWO_RUNS):
        _save(figures[view.name], FOLDER / view.picture)
    animate(opened, FLOW, "flow", steps=range(50, 76), frames_per_second=4, dpi=70)
    PAGE.write_text(render(), encoding="utf-8")


def _save(figure: Figure, path: Path) -> None:
    from steptrace_analyzer.plots.style import style

    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=_DPI)
    with Image.open(file) as image:
        # A third of the bytes, which every clone of the project carries.
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    draw(*sys.argv[1:])
