"""Writing the report of a trace."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.stories import MOST_STORIES
from steptrace_analyzer.plots.gradients import plot_gradients
from steptrace_analyzer.plots.loss import draw_loss, loss_data
from steptrace_analyzer.plots.norms import layer_norms
from steptrace_analyzer.plots.steps import by_size, key_steps, sudden_among
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.progress import untold
from steptrace_analyzer.report import overview
from steptrace_analyzer.report.contents import LayerSection, Page, Shown, StepChoices, pictures_size
from steptrace_analyzer.report.layers import drawn_layers, layer_figures
from steptrace_analyzer.report.moving import fewer, key_and_even, moving_pictures, only
from steptrace_analyzer.report.numbers import loss_numbers, norm_numbers
from steptrace_analyzer.report.page import build_page
from steptrace_analyzer.report.parallel import draw_layers
from steptrace_analyzer.report.pictures import line_picture, pixel_picture
from steptrace_analyzer.report.thumbnails import thumbnails
from steptrace_analyzer.report.whole import whole_figures
from steptrace_analyzer.trace.described import statistics_table
from steptrace_analyzer.trace.files import output_file
from steptrace_analyzer.trace.info import describe
from steptrace_analyzer.trace.open import opened, trace_attributes, trace_location
from steptrace_analyzer.trace.rows import Rows
from steptrace_analyzer.trace.select import (
    format_steps,
    has_tensor,
    layer_of,
    recorded_steps,
    resolve_among,
)
from steptrace_schema.errors import StepNotRecordedError, TraceError
from steptrace_schema.names import LOSS
from steptrace_schema.storage.location import Location, locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_analyzer.anomalies.stories import Story
    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.report.contents import Moving
    from steptrace_analyzer.trace.open import TraceOrPath

MOST_BYTES: Final = 8_000_000
"""Where a page would grow beyond this, the layers that are left are named instead of drawn."""

_MOST_STEPS: Final = 3
_MOST_MOVING: Final = 24
_FEW_LAYERS: Final = 6
"""Drawing so many takes no longer than starting processes that draw."""
_PICTURES: Final = 360
"""Steps times layers whose arrays have pictures, about."""
_SHARE: Final = 0.6
"""Of the page's size that these may take; beyond, every second step is left out."""


@np.errstate(all="ignore")  # a trace may hold any numbers
def write_report(
    trace: TraceOrPath,
    output: str | Path,
    *,
    path: str | Location | None = None,
    steps: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    max_bytes: int | None = None,
    workers: int = 1,
    progress: Progress = untold,
) -> Path:
    """Write one self-contained HTML page about a trace; an existing file is replaced.

    It has the findings with what caused them, the summary, loss and gradients, the model flow at
    the steps that matter (first, findings, last), each layer's weights, updates, gradients, inputs
    and outputs at up to 24 steps, which a slider moves through, its parameters, activation function
    and values over time, the layers, what is missing and why, policy and environment. Behind each
    figure is a table. The page loads nothing over the network, and can be read without its script.

    Parameters
    ----------
    trace
        A trace, or its path.
    output
        The file to write; missing folders are made.
    path
        Path of the trace, to show how many bytes it takes. By default, the path that it was opened
        from. If that is not known, the page shows no bytes.
    steps
        The steps with figures; by default up to 24 have pictures of every array, and the first, the
        last, and that of the biggest jump have figures of the whole model, too.
    layers
        The layers with figures, by their paths or last segments; all by default.
    max_bytes
        Where the page would grow beyond this, the layers that are left have a thumbnail and a
        command instead of figures; 8 MB by default.
    workers
        Processes that draw, each of which opens the trace again, where there are more layers than
        a few. More than one needs a program that may be imported again, as :mod:`multiprocessing`
        asks for.
    progress
        Called with the number of parts that are done, and the number of all.

    Returns
    -------
    Path
        The file written, a few megabytes at most.

    Raises
    ------
    TraceError
        If `output` is a folder.
    UnknownNameError, StepNotRecordedError
        If the trace has none of `layers` or `steps`.

    Examples
    --------
    >>> write_report("run.zarr", "report.html")  # doctest: +SKIP
    PosixPath('report.html')
    """
    output = output_file(output, "report.html")
    where = _where(trace, path)
    trace = opened(trace)
    attributes = trace_attributes(trace)
    diagnosis = diagnose(trace)
    found, stories = sudden_among(diagnosis.findings), diagnosis.stories[:MOST_STORIES]
    info = describe(trace, where) if where is not None else None
    limit = MOST_BYTES if max_bytes is None else max_bytes
    shown = drawn_layers(trace)
    if layers is not None:
        wanted = {resolve_among(trace, name, shown, "layer with figures") for name in layers}
        shown = [layer for layer in shown if layer in wanted]
    choices = _step_choices(trace, found, steps, len(shown))
    anchors = {layer: f"layer-{place}" for place, layer in enumerate(shown)}
    total = len(shown) + 2

    moving = _moving(trace, shown, choices, limit)
    kept = _kept(moving, choices, limit)
    if kept != choices.steps:
        choices = dataclasses.replace(choices, steps=kept)
        moving = {layer: only(found_, kept) for layer, found_ in moving.items()}
    progress(0, total)
    loss = None
    if has_tensor(trace, "scalars", LOSS):
        alt = "Loss, gradient norms and learning rate by step"
        data = loss_data(trace, found)
        loss = Shown(line_picture(draw_loss(data), alt), numbers=loss_numbers(data))
    progress(1, total)
    gradients = None
    if statistics_table(trace, "gradients") is not None:
        alt = "Heat map of the gradient's norm, layer by step"
        norms = norm_numbers(layer_norms(trace, "gradients"), [each.step for each in found])
        gradients = Shown(pixel_picture(plot_gradients(trace, found), alt), numbers=norms)
    progress(2, total)
    optimizer = attributes.optimizer
    page = Page(
        title=f"{model_name(trace)}: training report",
        lead=_lead(trace, stories),
        choices=choices,
        summary=overview.summary(trace, attributes, info),
        kinds=overview.kinds(info) if info is not None else None,
        findings=overview.stories(stories, choices),
        loss=loss,
        gradients=gradients,
        whole=whole_figures(trace, found, choices) if limit else (),
        layers=overview.layers(attributes, anchors),
        sections=(),
        missing=overview.missing(attributes),
        events=overview.events(attributes),
        policy=overview.policy(attributes),
        optimizer=overview.settings(optimizer.config) if optimizer else (),
        environment=overview.settings(attributes.environment),
    )
    small = {layer: thumbnails(trace, layer, choices) if limit else () for layer in shown}
    size = len(build_page(page)) + sum(pictures_size(one) for one in small.values())
    size += _moving_size(moving)
    largest = 0
    drawn: dict[str, LayerSection] = {}
    order = _by_interest(shown, found)
    if where is not None and workers > 1 and len(order) > _FEW_LAYERS:
        figures = draw_layers(where, order, choices, workers)
    else:
        figures = (layer_figures(trace, layer, choices) for layer in order)
    with contextlib.closing(figures):
        for done, layer in enumerate(order, start=3):
            section = LayerSection(
                anchors[layer], layer, thumbnails=small[layer], moving=moving[layer]
            )
            if size + largest < limit:
                section = dataclasses.replace(section, figures=next(figures))
                mine = sum(pictures_size(view.shown) for view in section.figures)
                size += mine
                largest = max(largest, mine)
            else:
                command = _drawing_command(str(where or trace.name or "TRACE"), layer)
                section = dataclasses.replace(section, command=command)
            drawn[layer] = section
            progress(done, total)
    sections = tuple(drawn[layer] for layer in shown)
    return replace_page(output, build_page(dataclasses.replace(page, sections=sections)))


def _where(trace: TraceOrPath, path: str | Location | None) -> Location | None:
    if path is not None:
        return locate(path)
    try:
        return trace_location(trace)
    except TraceError:  # a tree that was never a store
        return None


def _moving(
    trace: xr.DataTree, layers: Sequence[str], choices: StepChoices, limit: int
) -> dict[str, tuple[Moving, ...]]:
    rows = Rows(trace)
    return {
        layer: moving_pictures(trace, rows, layer, choices.steps) if limit else ()
        for layer in layers
    }


def _kept(
    moving: dict[str, tuple[Moving, ...]], choices: StepChoices, limit: int
) -> tuple[int, ...]:
    """Return as many of the steps as leave room for the figures, those with figures included."""
    size, steps = _moving_size(moving), list(choices.steps)
    while size > _SHARE * limit and len(steps) > max(len(choices.drawn), 1):
        rest = fewer(steps, choices.drawn)
        if rest == steps:
            break
        size = round(size * len(rest) / len(steps))
        steps = rest
    return tuple(steps)


def _moving_size(moving: dict[str, tuple[Moving, ...]]) -> int:
    return sum(pictures_size(view.shown) for views in moving.values() for view in views)


def _step_choices(
    trace: xr.DataTree, found: Sequence[Finding], wanted: Sequence[int] | None, layers: int
) -> StepChoices:
    kinds = (kind for kind in ("updates", "weights", "activations") if kind in trace.children)
    recorded = next((s for kind in kinds if (s := recorded_steps(trace.children[kind]))), [])
    if wanted is not None and wanted:
        known = [recorded[n] if -len(recorded) <= n < 0 else n for n in wanted]
        missing = sorted(set(known) - set(recorded))
        if missing:
            msg = f"step {missing[0]} is not recorded; recorded are {format_steps(recorded)}"
            raise StepNotRecordedError(msg)
        steps = sorted(set(known))
    else:
        steps = key_steps(recorded, found, _MOST_STEPS)
    told = [each.step for each in by_size(found) if each.step in steps]
    chosen = next(iter([*told, *steps[::-1]]), None)
    if wanted:
        return StepChoices(tuple(steps), chosen, tuple(steps), tuple(steps))
    most = int(np.clip(_PICTURES // max(layers, 1), _MOST_STEPS, _MOST_MOVING))
    all_ = key_and_even(recorded, steps, most)
    closely = () if chosen is None else (chosen,)
    return StepChoices(tuple(all_), chosen, tuple(steps), closely)


def _by_interest(layers: Sequence[str], found: Sequence[Finding]) -> list[str]:
    """Return the layers, those of the biggest jumps first."""
    tensors = [each.tensor.partition("/")[2] for each in by_size(found) if each.tensor]
    named = [layer_of(path) for path in tensors]
    return [*dict.fromkeys(n for n in named if n in layers), *(n for n in layers if n not in named)]


def _drawing_command(trace: str, layer: str) -> str:
    return shlex.join(["steptrace", "plot", "weights", trace, "--layer", layer])


def _lead(trace: xr.DataTree, stories: Sequence[Story]) -> str:
    steps = format_steps(recorded_steps(trace.children["scalars"])) if "scalars" in trace else ""
    where = f"{trace.name or 'trace'}, steps {steps or 'none'}"
    if not stories:
        return f"{where}. Nothing unusual was found."
    worst = stories[0]
    count = f"{len(stories)} findings" if len(stories) > 1 else "1 finding"
    return f"{where}. {count}; the worst is of severity {worst.severity}, at step {worst.step}."


def replace_page(output: Path, page: str) -> Path:
    """Write the page under its name only when it is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report.") as folder:
        whole = Path(folder) / "page.html"
        whole.write_text(page, encoding="utf-8")
        whole.replace(output)
    return output
