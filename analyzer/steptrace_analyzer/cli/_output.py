"""Printing results: data to stdout, hints and progress to stderr.

What a trace says is printed as plain text, never as markup, and without control characters.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from steptrace_analyzer.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_WIDE: Final = 240  # columns of a table that is not read on a terminal, so that none is cut
_LONGEST_CELL: Final = 300
_MOST_LINES: Final = 1000
MOST_ROWS: Final = 1000
"""Rows of a table that are printed."""
_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as shells report it


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    right: bool = False
    """Whether its cells are numbers, set flush right."""


def output_in(output: Path | None, default: Path) -> Path:
    """Return the file to write: `default` where none is given, and below a folder that is given."""
    if output is None:
        return default
    return output / default.name if output.is_dir() else output


def write(text: str) -> None:
    """Write lines to stdout; a reader that has gone ends the program quietly."""
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None


def write_line(text: str) -> None:
    """Write one line of text that may come from a trace."""
    write(one_line(text))


def write_text(text: str) -> None:
    """Write several lines of text that may come from a trace."""
    write("\n".join(map(one_line, text.split("\n")[:_MOST_LINES])))


def hint(text: str) -> None:
    """Write a remark to stderr."""
    sys.stderr.write(one_line(text) + "\n")


def write_json(document: object) -> None:
    """Write a document as JSON, in ASCII so that a terminal obeys nothing that is in it."""
    from steptrace_schema.json_ready import as_json

    write(json.dumps(as_json(document), indent=2, allow_nan=False))


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Write a table, as much of it as somebody can read; cells are texts, numbers or None."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Any = "right" if column.right else "left"
        table.add_column(Text(column.name), justify=justify, overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(Text(one_line(cell_text(cell), _LONGEST_CELL)) for cell in row))
    terminal = sys.stdout.isatty()
    page = io.StringIO()
    console = Console(file=page, force_terminal=terminal, width=None if terminal else _WIDE)
    console.print(table)
    write("\n".join(line.rstrip() for line in page.getvalue().splitlines()))
    if len(rows) > MOST_ROWS:
        write_line(f"and {len(rows) - MOST_ROWS:,} more rows, which --json has")


def cell_text(value: object) -> str:
    """Write a value into a cell.

    Examples
    --------
    >>> cell_text(None), cell_text(0.0), cell_text(1234.5678), cell_text(61)
    ('-', '0', '1.23e+03', '61')
    """
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, on a terminal only; yield what takes (done, total)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
