"""``steptrace validate``."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import Column, hint, write_json, write_line, write_table

_UNREADABLE: Final = frozenset({"R1", "R2", "R3", "R4"})
"""Rules without which a trace cannot be opened."""


class Depth(StrEnum):
    """How much to check."""

    attributes = "attributes"
    hierarchy = "hierarchy"
    data = "data"


def validate(
    trace: TracePath,
    level: Annotated[Depth, typer.Option(help="How much to check.")] = Depth.data,
    as_json: Json = False,
) -> None:
    """Check a trace against the specification.

    Compares what it declares with what it contains, by kind and layer. Exits with 1 if a rule is
    violated.

    Examples
    --------
    steptrace validate run.zarr
    steptrace validate run.zarr --level attributes
    """
    from steptrace_schema import validate as rules
    from steptrace_schema.validate.coverage import stored_coverage, summarize

    problems = rules.validate(trace, level.value)
    readable = level is not Depth.attributes and not {p.rule for p in problems} & _UNREADABLE
    covered = stored_coverage(trace) if readable else ()
    if as_json:
        from steptrace_analyzer.cli._documents import ValidationDocument

        write_json(ValidationDocument(str(trace), level.value, tuple(problems), tuple(covered)))
    elif not problems:
        write_line(f"{trace}: valid (level {level.value})")
        if covered:
            write_line(summarize(covered))
    else:
        columns = ["rule", "path", "expected", "found", "remedy"]
        cells = [(p.rule, p.path, p.expected, p.found, p.remedy) for p in problems]
        write_table([Column(name) for name in columns], cells)
        more = " or more" if len(problems) == rules.MOST_PROBLEMS else ""
        hint(f"{trace}: {len(problems)}{more} problem{'s' * (len(problems) > 1)}")
    raise typer.Exit(1 if problems else 0)
