"""Render the tables of the specification from the code, between markers in SPEC.md.

Run ``python docs/render.py`` after a change of the tables; the tests compare.
"""

from __future__ import annotations

import re
from pathlib import Path

from steptrace_schema.format.array_table import ARRAYS
from steptrace_schema.statistics.describe import DEFINITIONS
from steptrace_schema.validate import RULES

SPEC = Path(__file__).parents[1] / "schema" / "SPEC.md"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


TABLES: dict[str, str] = {
    "arrays": _table(
        ("array", "dims", "dtype", "unit", "required", "row t holds"),
        [
            (
                _code(f"{a.kind}/{a.name}"),
                _code(a.dims),
                a.dtype,
                _code(a.unit),
                a.required,
                a.meaning,
            )
            for a in ARRAYS
        ],
    ),
    "statistics": _table(
        ("statistic", "definition"), [(_code(k), v) for k, v in DEFINITIONS.items()]
    ),
    "rules": _table(("rule", "text"), [(f"**{k}**", v) for k, v in RULES.items()]),
}
"""Each table by the name of its marker."""


def render(text: str) -> str:
    """Return `text` with every table between its markers replaced by the one from the code."""
    for name, table in TABLES.items():
        text = re.sub(
            rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)",
            lambda match, table=table: f"{match.group(1)}{table}\n{match.group(2)}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    SPEC.write_text(render(SPEC.read_text(encoding="utf-8")), encoding="utf-8")
