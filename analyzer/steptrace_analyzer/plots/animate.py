"""A view of a run, moving over its steps: as GIF, as a page with a slider, or as MP4."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from steptrace_analyzer.plots.activations import activations_data, draw_activations
from steptrace_analyzer.plots.flow import draw_flow
from steptrace_analyzer.plots.flow_data import flow_data
from steptrace_analyzer.plots.parameters import draw_parameters, parameters_data
from steptrace_analyzer.plots.player import player_page
from steptrace_analyzer.plots.style import style
from steptrace_analyzer.plots.subject import layer_tensors, model_name
from steptrace_analyzer.plots.units import moving_units
from steptrace_analyzer.plots.value_limits import value_limits
from steptrace_analyzer.plots.weights import draw_weights, weights_data, weights_ranges
from steptrace_analyzer.progress import untold
from steptrace_analyzer.trace.files import output_file
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, recorded_steps
from steptrace_schema.errors import StepNotRecordedError, TraceError
from steptrace_schema.names import OUTPUT, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.figure import Figure

    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

View = Literal["flow", "weights", "parameters", "activations"]
VIEWS: Final[tuple[View, ...]] = get_args(View)
"""What can move."""

FORMATS: Final = (".gif", ".html", ".mp4")
"""Suffixes of the files that a moving view can be written to."""

MOST_FRAMES: Final = 60
"""Of more steps, so many are drawn unless told otherwise, evenly spread."""


def check_animation(output: Path) -> None:
    """Refuse a name that no moving view can be written to, and MP4 without ffmpeg.

    Raises
    ------
    TraceError
        With what to do instead.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        msg = (
            f"{output}: an animation cannot be written as '{output.suffix}'; "
            f"end the name in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
        raise TraceError(msg)
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        msg = (
            f"{output}: MP4 needs the program ffmpeg, which is not installed; "
            "install it, or end the name in .gif or .html"
        )
        raise TraceError(msg)


def animate(
    trace: TraceOrPath,
    output: str | Path,
    view: View = "flow",
    layer: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    frames_per_second: float = 8.0,
    dpi: int = 80,
    most: int = MOST_FRAMES,
    progress: Progress = untold,
) -> Path:
    """Write a view of a run that moves over its steps; an existing file is replaced.

    Every frame has the same axes and the same colours.

    Parameters
    ----------
    trace
        A trace, or its path.
    output
        A name that ends in ``.gif``, ``.html`` (a page with a slider, which needs no network) or
        ``.mp4`` (which needs ffmpeg).
    view
        ``"flow"``, ``"weights"``, ``"parameters"`` or ``"activations"``.
    layer
        A layer's path or its last segments; not for the flow.
    steps
        Recorded steps; all that the view can draw if not given.
    frames_per_second
        How fast it moves.
    dpi
        Dots per inch of a frame.
    most
        How many frames at most, evenly taken from the steps.
    progress
        Called with the number of frames that are drawn, and the number of all.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    TraceError
        If the file's name ends in something else, or ffmpeg is missing.
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer or step.

    Examples
    --------
    >>> animate("run.zarr", "run.gif")  # doctest: +SKIP
    PosixPath('run.gif')
    """
    output = output_file(output, "animation.gif")
    check_animation(output)
    trace = opened(trace)
    chosen = _even(frame_steps(trace, view, layer, steps), most)
    images = _images(drawing(trace, view, layer, chosen), chosen, dpi, progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    suffix = output.suffix.lower()
    if suffix == ".gif":
        _write_gif(output, images, frames_per_second)
    elif suffix == ".html":
        title = f"{model_name(trace)}: {view} over steps"
        pngs = [_png(image) for image in images]
        output.write_text(player_page(title, chosen, pngs, frames_per_second), encoding="utf-8")
    else:
        _write_mp4(output, images, frames_per_second)
    return output


def frame_steps(
    trace: xr.DataTree, view: View, layer: str | None, steps: Sequence[int] | None
) -> list[int]:
    """Return the steps that a view can draw, or those of `steps`.

    Raises
    ------
    StepNotRecordedError
        If there is none, or one of `steps` is not among them.
    """
    if view == "flow":
        known = [int(step) for step in flow_data(trace).steps]
    elif view == "weights":
        path = weights_data(trace, layer, None, ranges={}).layer
        known = recorded_steps(
            get_tensor(trace, "weights", layer_tensors(trace, "weights", path)[0])
        )
    elif view == "parameters":
        path = parameters_data(trace, layer).layer
        known = recorded_steps(
            get_tensor(trace, "updates", layer_tensors(trace, "updates", path)[0])
        )
    else:
        path = activations_data(trace, layer).layer
        known = recorded_steps(get_tensor(trace, "probe", f"{path}/{PREACTIVATION}"))
    wanted = known if steps is None else [known[s] if -len(known) <= s < 0 else s for s in steps]
    missing = sorted(set(wanted) - set(known))
    if missing or not wanted:
        msg = f"the view '{view}' has no step {missing[0]}" if missing else "no step can be drawn"
        raise StepNotRecordedError(msg)
    return sorted(set(wanted))


def _steps(trace: xr.DataTree, kind: Kind, layer: str) -> list[int]:
    return recorded_steps(get_tensor(trace, kind, layer_tensors(trace, kind, layer)[0]))


def drawing(
    trace: xr.DataTree, view: View, layer: str | None, steps: Sequence[int]
) -> Callable[[int], Figure]:
    """Return what draws a view at a step, with axes and colours that serve all `steps`."""
    if view == "flow":
        flow = flow_data(trace)
        return lambda step: draw_flow(flow, step)
    if view == "weights":
        ranges = weights_ranges(trace, layer, steps)
        return lambda step: draw_weights(weights_data(trace, layer, step, ranges=ranges))
    if view == "parameters":
        path = parameters_data(trace, layer).layer
        limits = (
            value_limits(trace, "weights", layer_tensors(trace, "weights", path), steps),
            value_limits(trace, "updates", layer_tensors(trace, "updates", path), steps),
        )
        last = parameters_data(trace, path, steps[-1])
        units = moving_units(last.unit, last.update)
        return lambda step: draw_parameters(parameters_data(trace, path, step), limits, units)
    path = activations_data(trace, layer).layer
    both = (
        value_limits(trace, "probe", [f"{path}/{PREACTIVATION}"], steps),
        value_limits(trace, "probe", [f"{path}/{OUTPUT}"], steps),
    )
    return lambda step: draw_activations(activations_data(trace, path, [step]), both)


def _even(steps: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(steps) - 1, min(len(steps), max(most, 1))).round().astype(int)
    return [steps[place] for place in places]


def _images(
    draw: Callable[[int], Figure], steps: Sequence[int], dpi: int, progress: Progress
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames, dims (row, column, 3); all are laid out as the first one."""
    places: list[Any] = []
    size = None
    progress(0, len(steps))
    for done, step in enumerate(steps, start=1):
        figure = draw(step)
        figure.set_dpi(dpi)
        if places and len(figure.axes) == len(places):
            figure.set_layout_engine("none")  # it takes more time than all the rest
            for axes, place in zip(figure.axes, places, strict=True):
                axes.set_position(place)
        canvas = FigureCanvasAgg(figure)
        with style():
            canvas.draw()  # type: ignore[no-untyped-call]
        if not places:
            places = [axes.get_position(original=True) for axes in figure.axes]
        frame = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
        size = size or frame.shape
        if frame.shape != size:
            frame = np.asarray(Image.fromarray(frame).resize((size[1], size[0])))
        yield frame
        progress(done, len(steps))


def _write_gif(
    output: Path, images: Iterator[npt.NDArray[np.uint8]], frames_per_second: float
) -> None:
    frames = [Image.fromarray(image).quantize(256, dither=Image.Dither.NONE) for image in images]
    times = [round(1000 / frames_per_second)] * len(frames)
    times[-1] = max(times[-1], 1500)  # the last step stays for a moment
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=times, loop=0)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).quantize(256, dither=Image.Dither.NONE).save(
        file, format="png", optimize=True
    )
    return file.getvalue()


def _write_mp4(
    output: Path, images: Iterator[npt.NDArray[np.uint8]], frames_per_second: float
) -> None:
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "image2pipe"]
    command += ["-framerate", str(frames_per_second), "-i", "-", "-pix_fmt", "yuv420p"]
    # Encoders want even numbers of pixels.
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", str(output)]
    frames = b"".join(_png(image) for image in images)
    result = subprocess.run(command, input=frames, capture_output=True, check=False)
    if result.returncode:
        why = result.stderr.decode(errors="replace").strip().splitlines()
        msg = f"{output}: ffmpeg failed: {why[-1] if why else result.returncode}"
        raise TraceError(msg)
