"""Small pictures of a layer's weights, made of the values themselves: one per layer and step."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

from PIL import Image

from steptrace_analyzer.plots.limits import magnitude_limit, shared_norm
from steptrace_analyzer.plots.pixels import pixels
from steptrace_analyzer.plots.subject import has_step, layer_classes, layer_tensors, read_step
from steptrace_analyzer.plots.tiles import lay_out
from steptrace_analyzer.report.contents import Picture, Shown, figure_place
from steptrace_analyzer.trace.select import get_tensor

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.colors import Normalize

    from steptrace_analyzer.plots.tiles import Tiling
    from steptrace_analyzer.report.contents import StepChoices

_WIDTH: Final = 144  # CSS pixels
_HEIGHT: Final = 96


def thumbnails(trace: xr.DataTree, layer: str, choices: StepChoices) -> tuple[Shown, ...]:
    """Return a small picture of a layer's first kernel at each step, with one colour range.

    Parameters
    ----------
    trace
        An opened trace.
    layer
        A layer's whole path.
    choices
        The steps; those without weights have no picture.

    Returns
    -------
    tuple of Shown
        Empty where the layer has no weights.
    """
    tensors = layer_tensors(trace, "weights", layer)
    if not tensors:
        return ()
    path = next((t for t in tensors if get_tensor(trace, "weights", t).ndim > 2), tensors[0])
    classes = layer_classes(trace, layer)
    steps = [step for step in choices.drawn if has_step(trace, "weights", path, step)]
    tilings = [lay_out(read_step(trace, "weights", path, step), classes, path) for step in steps]
    limits = [magnitude_limit(tiling.image[~tiling.gap]) for tiling in tilings]
    norm = shared_norm(limits, signed=all(tiling.signed for tiling in tilings))
    return tuple(
        Shown(_picture(tiling, norm, f"{path} at step {step}"), place=figure_place(step))
        for step, tiling in zip(steps, tilings, strict=True)
    )


def _picture(tiling: Tiling, norm: Normalize, alt: str) -> Picture:
    coloured = pixels(tiling, norm)
    coloured[tiling.gap] = 255
    image = Image.fromarray(coloured[..., :3])
    rows, columns = tiling.image.shape
    wide, tall = _WIDTH, _HEIGHT
    if tiling.square:
        scale = min(_WIDTH / columns, _HEIGHT / rows)
        wide, tall = max(1, round(columns * scale)), max(1, round(rows * scale))
    elif rows == 1:
        tall = _HEIGHT // 4
    smaller = wide < columns or tall < rows
    # What is larger than the picture is averaged; what is smaller stays sharp squares.
    image = image.resize(
        (wide, tall), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    )
    file = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(source, alt, wide, tall)
