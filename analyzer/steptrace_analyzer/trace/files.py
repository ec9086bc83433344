"""Names of files that results are written to."""

from __future__ import annotations

from pathlib import Path

from steptrace_schema.errors import TraceError


def output_file(output: str | Path, example: str) -> Path:
    """Return the file to write to.

    Parameters
    ----------
    output
        What the caller gave.
    example
        A file's name, for the message.

    Raises
    ------
    TraceError
        If it is a folder, or an address.

    Examples
    --------
    >>> output_file("out/report.html", "report.html")
    PosixPath('out/report.html')
    """
    if "://" in str(output):
        msg = f"{output} is an address; give a local path, such as {example}"
        raise TraceError(msg)
    path = Path(output)
    if path.is_dir():
        msg = f"{output} is a folder; give a file in it, such as {path / example}"
        raise TraceError(msg)
    return path


def file_stem(trace: str) -> str:
    """Return the name of a trace without its endings, to name files after it.

    Examples
    --------
    >>> file_stem("run.zarr"), file_stem("run.zarr.zip"), file_stem(".zarr")
    ('run', 'run', 'trace')
    """
    return trace.removesuffix(".zip").removesuffix(".zarr") or "trace"
