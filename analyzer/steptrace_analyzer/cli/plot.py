"""``steptrace plot``: one command per view."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._commands import PlainCommand, PlainGroup
from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, write_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from steptrace_analyzer.anomalies import Anomaly
    from steptrace_schema.storage.location import Location

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Draw one view of a trace into a PNG, SVG or PDF file.",
    epilog="\b\nExamples:\nsteptrace plot loss run.zarr\n"
    "steptrace plot weights run.zarr --layer dense --step 40 -o weights.svg",
)

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=local_file,
        help="File to write; its suffix .png, .svg or .pdf sets the format. Or a folder for it. "
        "[default: a name made of trace, view, layer and step, in the current folder]",
        show_default=False,
    ),
]
Dpi = Annotated[int, typer.Option("--dpi", min=20, max=1200, help="Dots per inch of images.")]
LayerName = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="LAYER",
        help="Layer to draw: its path, or the end of it. "
        "[default: the first one that can be drawn]",
        show_default=False,
    ),
]
Step = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Step to draw: -1 is the last one, 'anomaly' that of the largest anomaly. "
        "[default: the last one that can be drawn]",
        show_default=False,
    ),
]
Steps = Annotated[
    list[str] | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Step to draw, -1 for the last one, or 'anomaly'. Can be repeated. "
        "[default: four from first to last]",
        show_default=False,
    ),
]
MarkAnomalies = Annotated[
    bool, typer.Option(help="Look for anomalies and mark their steps in the figure.")
]


@app.command(
    cls=PlainCommand,
    epilog="\b\nExamples:\nsteptrace plot loss run.zarr -o loss.svg",
)
def loss(
    trace: TracePath,
    output: Output = None,
    mark_anomalies: MarkAnomalies = True,
    dpi: Dpi = 150,
) -> None:
    """Draw loss, gradient norms, learning rate and logged numbers by step."""
    _check(output)
    from steptrace_analyzer.plots.loss import draw_loss, loss_data

    opened, found = _open(trace, mark_anomalies)
    data = loss_data(opened, found)
    _save(lambda: draw_loss(data), output, _name(trace, "loss"), dpi)


@app.command(
    cls=PlainCommand,
    epilog="\b\nExamples:\nsteptrace plot weights run.zarr --layer conv2d --step anomaly",
)
def weights(
    trace: TracePath,
    layer: LayerName = None,
    step: Step = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw a layer's weights at a step beside the update of that step."""
    _check(output)
    from steptrace_analyzer.plots.weights import draw_weights, weights_data

    opened, number = _open_at(trace, step)
    data = weights_data(opened, layer, number)
    name = _name(trace, "weights", data.layer, data.step)
    _save(lambda: draw_weights(data), output, name, dpi)


@app.command(
    cls=PlainCommand,
    epilog="\b\nExamples:\nsteptrace plot parameters run.zarr --layer dense --step 40",
)
def parameters(
    trace: TracePath,
    layer: LayerName = None,
    step: Step = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw each parameter as a point, with the update of the step, in 2-D and 3-D."""
    _check(output)
    from steptrace_analyzer.plots.parameters import draw_parameters, parameters_data

    opened, number = _open_at(trace, step)
    data = parameters_data(opened, layer, number)
    name = _name(trace, "parameters", data.layer, data.step)
    _save(lambda: draw_parameters(data), output, name, dpi)


@app.command(
    cls=PlainCommand,
    epilog="\b\nExamples:\nsteptrace plot activations run.zarr --layer dense --step 0 --step -1",
)
def activations(
    trace: TracePath,
    layer: LayerName = None,
    step: Steps = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw inputs and outputs of an activation function, at several steps."""
    _check(output)
    from steptrace_analyzer.plots.activations import activations_data, draw_activations
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(trace)
    numbers = [_step_number(opened, text) for text in step] if step else None
    data = activations_data(opened, layer, numbers)
    only = data.steps[0].step if len(data.steps) == 1 else None
    name = _name(trace, "activations", data.layer, only)
    _save(lambda: draw_activations(data), output, name, dpi)


@app.command(
    cls=PlainCommand, epilog="\b\nExamples:\nsteptrace plot gradients run.zarr -o gradients.pdf"
)
def gradients(
    trace: TracePath,
    output: Output = None,
    mark_anomalies: MarkAnomalies = True,
    dpi: Dpi = 150,
) -> None:
    """Draw the norm of each layer's gradient at each step."""
    _check(output)
    from steptrace_analyzer.plots.gradients import draw_gradients, gradients_data

    opened, found = _open(trace, mark_anomalies)
    data = gradients_data(opened, found)
    _save(lambda: draw_gradients(data), output, _name(trace, "gradients"), dpi)


@app.command(
    cls=PlainCommand,
    epilog="\b\nExamples:\nsteptrace plot maps run.zarr --layer conv2d --step 40 --sample 2",
)
def maps(
    trace: TracePath,
    layer: LayerName = None,
    step: Step = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Row of the step's batch, counted from 0.")
    ] = 0,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw one input, a layer's activation of it, and the gradients of both."""
    _check(output)
    from steptrace_analyzer.plots.maps import draw_maps, maps_data

    opened, number = _open_at(trace, step)
    data = maps_data(opened, layer, number, sample)
    name = _name(trace, "maps", data.layer, data.step)
    _save(lambda: draw_maps(data), output, name, dpi)


def _check(output: Path | None) -> None:
    """Refuse a bad suffix before anything is read."""
    from steptrace_analyzer.plots.save import check_format

    if output is not None and not output.is_dir():
        check_format(output)


def _open(path: "Location", mark_anomalies: bool) -> "tuple[xr.DataTree, Sequence[Anomaly]]":
    from steptrace_analyzer.anomalies import find_anomalies
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(path)
    return opened, find_anomalies(opened) if mark_anomalies else ()


def _open_at(path: "Location", step: str | None) -> "tuple[xr.DataTree, int | None]":
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(path)
    return opened, None if step is None else _step_number(opened, step)


def _step_number(trace: "xr.DataTree", text: str) -> int:
    from steptrace_schema.errors import TraceError

    if text != "anomaly":
        try:
            return int(text)
        except ValueError:
            msg = f"'{text}' is not a step; give a step's number, -1 for the last, or 'anomaly'"
            raise TraceError(msg) from None
    from steptrace_analyzer.anomalies import find_anomalies
    from steptrace_analyzer.plots.steps import by_size

    found = by_size(find_anomalies(trace))
    if not found:
        msg = f"nothing unusual was found in {trace.name}, so there is no step 'anomaly'; give one"
        raise TraceError(msg)
    return found[0].step


def _name(trace: "Location", view: str, layer: str | None = None, step: int | None = None) -> Path:
    """Return the file's default name, such as ``run-weights-dense-step40.png``."""
    from steptrace_analyzer.trace.files import file_stem

    parts = [file_stem(trace.name), view]
    if layer is not None:
        parts.append(layer.rpartition("/")[2])
    if step is not None:
        parts.append(f"step{step}")
    return Path("-".join(parts) + ".png")


def _save(draw: "Callable[[], Figure]", output: Path | None, name: Path, dpi: int) -> None:
    from steptrace_analyzer.plots.save import save_figure

    write_line(str(save_figure(draw(), output_in(output, name), dpi=dpi)))
