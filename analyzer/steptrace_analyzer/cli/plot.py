"""``steptrace plot``: one command per view."""

from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._commands import PlainCommand, PlainGroup
from steptrace_analyzer.cli._options import TracePath
from steptrace_analyzer.cli._plotting import (
    Dpi,
    KindName,
    LayerName,
    MarkAnomalies,
    Output,
    Step,
    Steps,
    StepsBeside,
    check_output,
    default_name,
    known_kind,
    open_at,
    open_marked,
    save_drawn,
    step_number,
    steps_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _view(*examples: str) -> "Callable[[Callable[..., None]], Callable[..., None]]":
    """Make a command of a function; its help ends with the examples."""
    lines = "\n".join(f"steptrace plot {example}" for example in examples)
    return app.command(cls=PlainCommand, epilog=f"\b\nExamples:\n{lines}")


@_view("loss run.zarr -o loss.svg")
def loss(
    trace: TracePath,
    output: Output = None,
    mark_anomalies: MarkAnomalies = True,
    dpi: Dpi = 150,
) -> None:
    """Draw loss, gradient norms, learning rate and logged numbers by step."""
    check_output(output)
    from steptrace_analyzer.plots.loss import draw_loss, loss_data

    opened, found = open_marked(trace, mark_anomalies)
    data = loss_data(opened, found)
    save_drawn(lambda: draw_loss(data), output, default_name(trace, "loss"), dpi)


@_view(
    "weights run.zarr --layer conv2d --step anomaly",
    "weights run.zarr --layer conv2d --steps 58:62",
)
def weights(
    trace: TracePath,
    layer: LayerName = None,
    step: Step = None,
    steps: StepsBeside = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw a layer's weights at a step beside the update and the gradient of that step."""
    check_output(output)
    from steptrace_analyzer.plots.weights import draw_weights, weights_data

    opened, number = open_at(trace, step)
    if steps is not None:
        from steptrace_analyzer.plots.strips import draw_strip, strip_data

        strip = strip_data(opened, layer, steps_of(opened, steps))
        shown = [one.step for one in strip.steps]
        name = default_name(trace, f"weights-steps{shown[0]}-{shown[-1]}", strip.steps[0].layer)
        save_drawn(lambda: draw_strip(strip), output, name, dpi)
        return
    data = weights_data(opened, layer, number)
    name = default_name(trace, "weights", data.layer, data.step)
    save_drawn(lambda: draw_weights(data), output, name, dpi)


@_view("parameters run.zarr --layer dense --step 40")
def parameters(
    trace: TracePath,
    layer: LayerName = None,
    step: Step = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw each parameter as a point, with the update of the step, in 2-D and 3-D."""
    check_output(output)
    from steptrace_analyzer.plots.parameters import draw_parameters, parameters_data

    opened, number = open_at(trace, step)
    data = parameters_data(opened, layer, number)
    name = default_name(trace, "parameters", data.layer, data.step)
    save_drawn(lambda: draw_parameters(data), output, name, dpi)


@_view("activations run.zarr --layer dense --step 0 --step -1")
def activations(
    trace: TracePath,
    layer: LayerName = None,
    step: Steps = None,
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw inputs and outputs of an activation function, at several steps."""
    check_output(output)
    from steptrace_analyzer.plots.activations import activations_data, draw_activations
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(trace)
    numbers = [step_number(opened, text) for text in step] if step else None
    data = activations_data(opened, layer, numbers)
    only = data.steps[0].step if len(data.steps) == 1 else None
    name = default_name(trace, "activations", data.layer, only)
    save_drawn(lambda: draw_activations(data), output, name, dpi)


@_view("gradients run.zarr -o gradients.pdf")
def gradients(
    trace: TracePath,
    output: Output = None,
    mark_anomalies: MarkAnomalies = True,
    dpi: Dpi = 150,
) -> None:
    """Draw the norm of each layer's gradient at each step."""
    check_output(output)
    from steptrace_analyzer.plots.gradients import draw_gradients, gradients_data

    opened, found = open_marked(trace, mark_anomalies)
    data = gradients_data(opened, found)
    save_drawn(lambda: draw_gradients(data), output, default_name(trace, "gradients"), dpi)


@_view("maps run.zarr --layer conv2d --step 40 --sample 2")
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
    check_output(output)
    from steptrace_analyzer.plots.maps import draw_maps, maps_data

    opened, number = open_at(trace, step)
    data = maps_data(opened, layer, number, sample)
    name = default_name(trace, "maps", data.layer, data.step)
    save_drawn(lambda: draw_maps(data), output, name, dpi)


@_view("flow run.zarr --step anomaly -o flow.svg")
def flow(trace: TracePath, step: Step = None, output: Output = None, dpi: Dpi = 150) -> None:
    """Draw the network as a graph, with what goes forward and back in it."""
    check_output(output)
    from steptrace_analyzer.plots.flow import draw_flow
    from steptrace_analyzer.plots.flow_data import flow_data

    opened, number = open_at(trace, step)
    data = flow_data(opened)
    name = default_name(trace, "flow", step=int(data.steps[data.column(number)]))
    save_drawn(lambda: draw_flow(data, number), output, name, dpi)


@_view("sensitivity run.zarr --step 40")
def sensitivity(trace: TracePath, step: Step = None, output: Output = None, dpi: Dpi = 150) -> None:
    """Draw dz/dx of every layer over the input, and over the steps."""
    check_output(output)
    from steptrace_analyzer.plots.sensitivity import draw_sensitivity, sensitivity_data

    opened, number = open_at(trace, step)
    data = sensitivity_data(opened, number)
    name = default_name(trace, "sensitivity", step=data.step)
    save_drawn(lambda: draw_sensitivity(data), output, name, dpi)


@_view("trajectory run.zarr --layer dense")
def trajectory(
    trace: TracePath,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="LAYER",
            help="Layer to draw: its path, or the end of it. [default: all layers together]",
            show_default=False,
        ),
    ] = None,
    output: Output = None,
    mark_anomalies: MarkAnomalies = True,
    dpi: Dpi = 150,
) -> None:
    """Draw the way of the parameters through training."""
    check_output(output)
    from steptrace_analyzer.plots.trajectory import draw_trajectory, trajectory_data

    opened, found = open_marked(trace, mark_anomalies)
    data = trajectory_data(opened, layer, found)
    name = default_name(trace, "trajectory", data.layer if layer is not None else None)
    save_drawn(lambda: draw_trajectory(data), output, name, dpi)


@_view(
    "ridge run.zarr --layer dense --kind gradients",
    "ridge run.zarr --layer dense --steps 0:1000:100",
)
def ridge(
    trace: TracePath,
    layer: LayerName = None,
    steps: StepsBeside = None,
    kind: KindName = "weights",
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw how a layer's values are distributed, one ridge per step."""
    check_output(output)
    from steptrace_analyzer.plots.ridge import draw_ridge, ridge_data

    opened, _ = open_at(trace, None)
    numbers = None if steps is None else steps_of(opened, steps)
    data = ridge_data(opened, layer, numbers, kind=known_kind(opened, kind))
    name = default_name(trace, f"ridge-{kind}", data.layer)
    save_drawn(lambda: draw_ridge(data), output, name, dpi)


@_view("statistics run.zarr --layer dense")
def statistics(
    trace: TracePath,
    layer: Annotated[
        str,
        typer.Option("--layer", metavar="LAYER", help="Layer to draw: its path, or its end."),
    ],
    output: Output = None,
    dpi: Dpi = 150,
) -> None:
    """Draw how the values of each of a layer's tensors are distributed, by step."""
    check_output(output)
    from steptrace_analyzer.plots.statistics import draw_statistics, statistics_data

    opened, _ = open_at(trace, None)
    data = statistics_data(opened, layer)
    save_drawn(
        lambda: draw_statistics(data), output, default_name(trace, "statistics", data.layer), dpi
    )
