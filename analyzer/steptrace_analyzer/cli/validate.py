"""``steptrace validate``."""

from enum import StrEnum
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import Column, hint, write_json, write_line, write_table


class Depth(StrEnum):
    """How deep to look."""

    attributes = "attributes"
    hierarchy = "hierarchy"
    data = "data"


def validate(
    trace: TracePath,
    level: Annotated[Depth, typer.Option(help="How deep to look.")] = Depth.data,
    as_json: Json = False,
) -> None:
    """Check a trace against the specification.

    What it declares is checked against what it holds. Exits with 1 where a rule is violated.

    Examples
    --------
    steptrace validate run.zarr
    steptrace validate run.zarr --level attributes
    """
    from steptrace_schema import validate as rules

    problems = rules.validate(trace, level.value)
    if as_json:
        found = [problem.to_dict() for problem in problems]
        write_json({"path": str(trace), "level": level.value, "problems": found})
    elif not problems:
        write_line(f"{trace}: valid (level {level.value})")
    else:
        columns = ["rule", "path", "expected", "found", "remedy"]
        rows = [(p.rule, p.path, p.expected, p.found, p.remedy) for p in problems]
        write_table([Column(name) for name in columns], rows)
        hint(f"{trace}: {len(problems)} problem{'s' * (len(problems) > 1)}")
    raise typer.Exit(1 if problems else 0)
