"""Writing a figure to a file whose suffix says the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.plots.style import style
from steptrace_analyzer.trace.files import output_file
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

FORMATS: Final = (".png", ".svg", ".pdf")
"""Suffixes of the files that figures can be written to."""

_UNDATED: Final[dict[str, dict[str, None]]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def check_format(output: Path) -> None:
    """Refuse a file name whose suffix is not one of :data:`FORMATS`.

    Raises
    ------
    TraceError
        If it is not; the message lists them.
    """
    if output.suffix.lower() not in FORMATS:
        msg = (
            f"{output}: a figure cannot be written as '{output.suffix}'; "
            f"end the name in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
        raise TraceError(msg)


def save_figure(figure: Figure, output: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure; an existing file is replaced.

    Parameters
    ----------
    figure
        What one of the plot functions returned.
    output
        A name that ends in ``.png``, ``.svg`` or ``.pdf``; missing folders are made.
    dpi
        Dots per inch of a PNG, and of images inside the other formats.

    Returns
    -------
    Path
        The file written. The same figure gives the same bytes.

    Raises
    ------
    TraceError
        If the suffix is another one, or `output` is a folder.

    Examples
    --------
    >>> save_figure(plot_loss(trace), "loss.svg")  # doctest: +SKIP
    PosixPath('loss.svg')
    """
    output = output_file(output, "figure.png")
    check_format(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(output, dpi=dpi, metadata=_UNDATED.get(output.suffix.lower()))
    return output
