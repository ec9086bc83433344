"""``steptrace animate``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, progress, write_line
from steptrace_analyzer.cli._plotting import LayerName, StepRange, default_name, steps_of


class MovingView(StrEnum):
    """What can move."""

    flow = "flow"
    weights = "weights"
    parameters = "parameters"
    activations = "activations"


def animate(
    trace: TracePath,
    view: Annotated[MovingView, typer.Option("--view", help="What moves.")] = MovingView.flow,
    layer: LayerName = None,
    steps: StepRange = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=local_file,
            help="File to write; its suffix .gif, .html or .mp4 sets the format. Or a folder for "
            "it. [default: a GIF named after trace, view and layer, in the current folder]",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", min=1, help="Frames at most, evenly taken from the steps.")
    ] = 60,
    speed: Annotated[
        float, typer.Option("--speed", min=0.1, max=50.0, help="Frames per second.")
    ] = 8.0,
    dpi: Annotated[int, typer.Option("--dpi", min=20, max=400, help="Dots per inch.")] = 80,
) -> None:
    """Write a view that moves over the steps, as GIF, MP4, or a page with a slider.

    Examples
    --------
    steptrace animate run.zarr -o run.gif
    steptrace animate run.zarr --view weights --layer dense --steps 0:1000:20 -o dense.html
    """
    from steptrace_analyzer.plots.animate import animate as write
    from steptrace_analyzer.plots.animate import check_animation
    from steptrace_analyzer.trace.open import open_trace

    name = default_name(trace, f"{view}", layer).with_suffix(".gif")
    file = output_in(output, name)
    check_animation(file)
    opened = open_trace(trace)
    chosen = steps_of(opened, steps) if steps is not None else None
    with progress("drawing") as show:
        written = write(
            opened,
            file,
            view.value,
            layer,
            chosen,
            frames_per_second=speed,
            dpi=dpi,
            most=frames,
            progress=show,
        )
    write_line(str(written))
