"""What the commands that draw share: options, opening a trace, naming and saving a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._options import local_file
from steptrace_analyzer.cli._output import output_in, write_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_schema.names import Kind
    from steptrace_schema.storage.location import Location

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
_RANGE = "FIRST:LAST, FIRST:LAST:STRIDE, or numbers with commas."
StepsBeside = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="STEPS",
        help=f"Several steps beside each other, in the same colours: {_RANGE}",
        show_default=False,
    ),
]
StepRange = Annotated[
    str | None,
    typer.Option(
        "--steps", metavar="STEPS", help=f"Steps that are shown: {_RANGE}", show_default=False
    ),
]
KindName = Annotated[
    str, typer.Option("--kind", metavar="KIND", help="Kind of data, such as gradients.")
]


def check_output(output: Path | None) -> None:
    """Refuse a bad suffix before anything is read."""
    from steptrace_analyzer.plots.save import check_format

    if output is not None and not output.is_dir():
        check_format(output)


def open_marked(path: "Location", mark_anomalies: bool) -> "tuple[xr.DataTree, Sequence[Finding]]":
    from steptrace_analyzer.plots.steps import sudden_findings
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(path)
    return opened, sudden_findings(opened) if mark_anomalies else ()


def open_at(path: "Location", step: str | None) -> "tuple[xr.DataTree, int | None]":
    from steptrace_analyzer.trace.open import open_trace

    opened = open_trace(path)
    return opened, None if step is None else step_number(opened, step)


def step_number(trace: "xr.DataTree", text: str) -> int:
    from steptrace_schema.errors import TraceError

    if text != "anomaly":
        try:
            return int(text)
        except ValueError:
            msg = f"'{text}' is not a step; give a step's number, -1 for the last, or 'anomaly'"
            raise TraceError(msg) from None
    from steptrace_analyzer.plots.steps import by_size, sudden_findings

    found = by_size(sudden_findings(trace))
    if not found:
        msg = f"nothing unusual was found in {trace.name}, so there is no step 'anomaly'; give one"
        raise TraceError(msg)
    return found[0].step


def known_kind(trace: "xr.DataTree", name: str) -> "Kind":
    """Return the kind of a name; refuse one that the trace does not have."""
    from steptrace_schema.errors import TraceError
    from steptrace_schema.names import KINDS

    kind = next((kind for kind in KINDS if kind == name and kind in trace.children), None)
    if kind is None:
        present = ", ".join(kind for kind in KINDS if kind in trace.children)
        msg = f"{trace.name or 'the trace'} has no kind '{name}'; it has {present or 'no data'}"
        raise TraceError(msg)
    return kind


def default_name(
    trace: "Location", view: str, layer: str | None = None, step: int | None = None
) -> Path:
    """Return the file's default name, such as ``run-weights-dense-step40.png``."""
    from steptrace_analyzer.trace.files import file_stem

    parts = [file_stem(trace.name), view]
    if layer is not None:
        parts.append(layer.rpartition("/")[2])
    if step is not None:
        parts.append(f"step{step}")
    return Path("-".join(parts) + ".png")


def save_drawn(draw: "Callable[[], Figure]", output: Path | None, name: Path, dpi: int) -> None:
    from steptrace_analyzer.plots.save import save_figure

    write_line(str(save_figure(draw(), output_in(output, name), dpi=dpi)))


def steps_of(trace: "xr.DataTree", text: str) -> list[int]:
    """Return the recorded steps that ``"58:62"``, ``"0:1000:100"`` or ``"3,40,-1"`` mean.

    Both ends of a range are part of it. Steps of a range that are not recorded are left out.
    """
    from steptrace_analyzer.trace.select import get_tensor, recorded_steps, tensor_paths
    from steptrace_schema.errors import TraceError

    def number(part: str) -> int:
        return step_number(trace, part.strip())

    if ":" not in text:
        return [number(part) for part in text.split(",")]
    pieces = text.split(":")
    paths = tensor_paths(trace, "weights")
    recorded = recorded_steps(get_tensor(trace, "weights", paths[0])) if paths else []
    stride = number(pieces[2]) if len(pieces) == 3 else 1
    if len(pieces) > 3 or stride < 1 or not recorded:
        msg = f"'{text}' is no range of recorded steps; give FIRST:LAST or FIRST:LAST:STRIDE"
        raise TraceError(msg)
    first = number(pieces[0]) if pieces[0] else recorded[0]
    last = number(pieces[1]) if pieces[1] else recorded[-1]
    first, last = (n if n >= 0 else recorded[max(n, -len(recorded))] for n in (first, last))
    chosen = [n for n in recorded if n in range(first, last + 1, stride)]
    if not chosen:
        from steptrace_analyzer.trace.select import format_steps

        msg = f"no step of '{text}' is recorded; recorded are {format_steps(recorded)}"
        raise TraceError(msg)
    return chosen
