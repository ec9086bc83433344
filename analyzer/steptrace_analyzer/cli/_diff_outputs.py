"""The files that ``steptrace diff`` writes beside what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from steptrace_analyzer.cli._output import hint

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_analyzer.differences.result import DiffResult


def write_files(
    result: DiffResult,
    sides: tuple[Any, Any],
    *,
    fails: bool,
    html: Path | None,
    sarif: Path | None,
    junit: Path | None,
) -> None:
    """Write the files that are wanted; each replaces what is there.

    Parameters
    ----------
    result
        What was found.
    sides
        The traces that were compared, or their paths; the second is None where there is one alone.
    fails
        Whether the exit status is not 0.
    html, sarif, junit
        The files.
    """
    from steptrace_analyzer.trace.files import output_file

    if html is not None:
        from steptrace_analyzer.report.comparison import write_comparison

        hint(f"wrote {write_comparison(result, *sides, html)}")
    if sarif is not None:
        from steptrace_analyzer.report.sarif import sarif_document

        target = output_file(sarif, "diff.sarif")
        text = json.dumps(sarif_document(result, fails=fails), indent=1, allow_nan=False)
        target.write_text(text + "\n", encoding="utf-8")
        hint(f"wrote {target}")
    if junit is not None:
        from steptrace_analyzer.report.junit import junit_text

        target = output_file(junit, "diff.xml")
        target.write_text(junit_text(result, fails=fails), encoding="utf-8")
        hint(f"wrote {target}")
