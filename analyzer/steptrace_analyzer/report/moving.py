"""A layer's arrays as pictures at many steps, made of the values without a figure."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import TYPE_CHECKING, Final

import matplotlib
import numpy as np
from matplotlib.colors import AsinhNorm
from PIL import Image

from steptrace_analyzer.plots.layer_arrays import layer_variables, read, subjects
from steptrace_analyzer.plots.pictures import lay, make_frame, photo, step_limits
from steptrace_analyzer.plots.style import NON_FINITE
from steptrace_analyzer.plots.subject import layer_classes
from steptrace_analyzer.report.contents import Moving, Picture, Shown, step_place
from steptrace_analyzer.trace.select import format_steps, get_tensor, recorded_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.plots.layer_arrays import Subject
    from steptrace_analyzer.plots.pictures import Frame
    from steptrace_analyzer.trace.rows import Rows

_COLOURS: Final = 253  # of the map; two more are for what is not finite, and between tiles
_BAD, _GAP = 254, 255


def moving_pictures(
    trace: xr.DataTree, rows: Rows, layer: str, steps: Sequence[int]
) -> tuple[Moving, ...]:
    """Return a layer's arrays at several steps, each with one range of colours.

    Parameters
    ----------
    trace, rows
        An opened trace, and its rows.
    layer
        A layer's whole path.
    steps
        The steps; at those at which an array is not recorded there is no picture of it.

    Returns
    -------
    tuple of Moving
        Weights, update and gradient of its largest variable, the model's input with its gradient,
        and the layer's output with its own: those that are recorded.
    """
    variable = next(iter(layer_variables(trace, layer)), None)
    classes = layer_classes(trace, layer)
    return tuple(
        _moving(trace, rows, subject, classes, steps)
        for subject in subjects(trace, layer, variable)
    )


def _moving(
    trace: xr.DataTree,
    rows: Rows,
    subject: Subject,
    classes: tuple[str, ...],
    steps: Sequence[int],
) -> Moving:
    tensor = get_tensor(trace, subject.kind, subject.path)
    found = {
        step: values for step in steps if (values := read(rows, subject, step, 0, None)) is not None
    }
    if not found:
        recorded = format_steps(recorded_steps(tensor)) or "none"
        note = f"not recorded at the steps of this page; recorded are {recorded}"
        return Moving(subject.title, note, "", "", None, ())
    dims = [str(dim) for dim in tensor.dims[2 if subject.of_sample else 1 :]]
    limits = step_limits(trace, rows, subject, classes, recorded_steps(tensor))
    last = found[max(found)]
    frame = make_frame(last, subject, dims, classes, limits)
    sample = ", of the first sample" if subject.of_sample else ""
    shown = []
    for step in steps:
        if step not in found:
            shown.append(Shown(None, f"not recorded at step {step}", place=step_place(step)))
            continue
        alt = f"{frame.title}{sample} at step {step}"
        shown.append(
            Shown(_picture(found[step], frame, subject, classes, alt), place=step_place(step))
        )
    low, high = float(frame.norm.vmin or 0.0), float(frame.norm.vmax or 1.0)
    notes = [f"across: {frame.tiling.x_label}"] if frame.tiling.x_label else []
    notes += [f"down: {frame.tiling.y_label}"] if frame.tiling.y_label else []
    notes += [frame.note] if frame.note else []
    if isinstance(frame.norm, AsinhNorm):
        bend = float(np.asarray(frame.norm.inverse(0.75)))
        notes.append(f"three quarters along the colours: {bend:.3g}")
    return Moving(
        title=f"{frame.title}{sample}",
        note=". ".join(notes),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        bar=_bar(frame.colours, f"colours from {low:.3g} to {high:.3g}"),
        shown=tuple(shown),
    )


def _picture(
    values: npt.NDArray[np.float64],
    frame: Frame,
    subject: Subject,
    classes: tuple[str, ...],
    alt: str,
) -> Picture:
    coloured = photo(values, frame) if subject.look == "input" else None
    if coloured is not None:
        image = Image.fromarray(coloured)
    else:
        tiling = lay(values, subject, classes)
        with np.errstate(invalid="ignore"):
            share = np.clip(np.asarray(frame.norm(tiling.image), dtype=np.float64), 0.0, 1.0)
        known = np.isfinite(tiling.image)
        index = np.full(tiling.image.shape, _BAD, dtype=np.uint8)
        index[known] = np.round(share[known] * (_COLOURS - 1)).astype(np.uint8)
        index[tiling.gap] = _GAP
        size = tiling.image.shape[1], tiling.image.shape[0]
        image = Image.frombytes("P", size, index.tobytes())
        image.putpalette(_palette(frame.colours))
        image.info["transparency"] = _GAP
    file = io.BytesIO()
    image.save(file, format="png", optimize=False)
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(source, alt, image.width, image.height)


def _palette(colours: str) -> list[int]:
    stops = matplotlib.colormaps[colours](np.linspace(0.0, 1.0, _COLOURS), bytes=True)[:, :3]
    bad = [round(255 * part) for part in matplotlib.colors.to_rgb(NON_FINITE)]
    unused = [0, 0, 0]
    return [*stops.reshape(-1).tolist(), *unused, *bad, *unused]


def _bar(colours: str, alt: str) -> Picture:
    """Return a strip with all colours, from the lowest to the highest."""
    stops = matplotlib.colormaps[colours](np.linspace(0.0, 1.0, 64), bytes=True)[None, :, :3]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stops)).save(file, format="png")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(source, alt, 64, 1)


def key_and_even(recorded: Sequence[int], key: Sequence[int], most: int) -> list[int]:
    """Return up to `most` steps, evenly taken from those that are recorded, and those of `key`."""
    places = np.linspace(0, len(recorded) - 1, min(len(recorded), max(most - len(key), 0)))
    even = [recorded[place] for place in places.round().astype(int)]
    return sorted({*key, *even})


def fewer(steps: Sequence[int], key: Sequence[int]) -> list[int]:
    """Return every second step, and those of `key`."""
    return sorted({*steps[::2], *key})


def only(moving: Sequence[Moving], steps: Sequence[int]) -> tuple[Moving, ...]:
    """Return the pictures of some steps."""
    places = {step_place(step) for step in steps}
    return tuple(
        dataclasses.replace(one, shown=tuple(s for s in one.shown if s.place in places))
        for one in moving
    )
