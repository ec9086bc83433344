"""``steptrace view``."""

from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath
from steptrace_analyzer.cli._output import hint, write_line


def view(
    trace: TracePath,
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="More traces; like TRACE.", show_default=False),
    ] = None,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser/--no-browser", help="Open the page in the browser, or print its address."
        ),
    ] = True,
) -> None:
    """Look into one run or several in the browser, step by step, moving.

    This machine serves the page to itself alone, until Ctrl+C is pressed. A run that is still
    being recorded is followed.

    Examples
    --------
    steptrace view run.zarr
    steptrace view run.zarr other.zarr --no-browser
    """
    from steptrace_analyzer.view import check_installed

    check_installed()
    import webbrowser

    from steptrace_analyzer.view.run import open_runs
    from steptrace_analyzer.view.server import View
    from steptrace_schema.storage.location import locate

    served = View(open_runs([trace, *(locate(other) for other in others or ())]))
    write_line(served.url)
    hint("Press Ctrl+C to end.")
    served.run(lambda: browser and webbrowser.open(served.url))
