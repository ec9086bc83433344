"""``steptrace anomalies``."""

from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import hint, write_json, write_line, write_text
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.diagnosis import Diagnosis


def anomalies(
    trace: TracePath,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", metavar="RULE", help="Use only this rule. Can be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="RULE.THRESHOLD=NUMBER", help="Change a threshold. Can be repeated."
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="SEVERITY", help="Exit with 1 from this severity on: error, warning or info."
        ),
    ] = "warning",
    first: Annotated[
        int | None, typer.Option("--from", min=0, help="First step to report.")
    ] = None,
    last: Annotated[int | None, typer.Option("--to", min=0, help="Last step to report.")] = None,
    as_json: Json = False,
) -> None:
    """Find what went wrong, where, since when, and why.

    Rules look for jumps, NaN, dead units, and other faults of training; docs/diagnosis.md explains
    each. A cause and its effects are one story; the worst stories come first. Exits with 1 where
    something of severity warning or error is found.

    Examples
    --------
    steptrace anomalies run.zarr
    steptrace anomalies run.zarr --rules update_jump --set update_jump.z=6 --fail-on error
    """
    from steptrace_analyzer.anomalies.diagnosis import diagnose, worst
    from steptrace_analyzer.anomalies.finding import SEVERITIES
    from steptrace_analyzer.trace.open import open_trace

    if fail_on not in SEVERITIES:
        msg = f"there is no severity '{fail_on}'; there are {', '.join(SEVERITIES)}"
        raise UnknownNameError(msg)
    thresholds = dict(_setting(text) for text in settings or ())
    found = diagnose(open_trace(trace), rules=rules, settings=thresholds, first=first, last=last)
    if as_json:
        from steptrace_analyzer.cli._documents import anomalies_document

        write_json(anomalies_document(str(trace), found))
    else:
        _show(str(trace), found)
    raise typer.Exit(1 if worst(found.findings) <= SEVERITIES.index(fail_on) else 0)


def _setting(text: str) -> tuple[str, float]:
    name, separator, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        given = f"'{number}' is no number" if separator else "it has no '='"
        msg = f"--set {text}: {given}; write RULE.THRESHOLD=NUMBER, such as update_jump.z=6"
        raise UnknownNameError(msg) from None


def _show(path: str, found: "Diagnosis") -> None:
    from steptrace_analyzer.anomalies.stories import MOST_STORIES

    if not found.stories:
        write_line(f"{path}: nothing unusual found")
    for place, story in enumerate(found.stories[:MOST_STORIES]):
        if place:
            write_line("")
        write_text(story.text)
    if len(found.stories) > MOST_STORIES:
        write_line("")
        write_line(f"{len(found.stories) - MOST_STORIES} more with --json")
    if found.not_judged:
        names = ", ".join(each.rule for each in found.not_judged)
        hint(f"not judged, with the reasons in --json: {names}")
