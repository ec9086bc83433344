"""Render the rules of docs/diagnosis.md between its markers.

They are taken from the rules' docstrings, from what ``docs/render_diagnosis_pictures.py`` wrote of
its pictures, and from the tables of docs/benchmarks.md. Run ``python docs/render_diagnosis.py``
after a change of a rule, of the pictures or of the tables; the tests compare.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import re
from pathlib import Path

from steptrace_analyzer.anomalies.registry import thresholds
from steptrace_analyzer.anomalies.rules import BUILT_IN

PAGE = Path(__file__).parent / "diagnosis.md"
SAID = Path(__file__).parent / "images" / "diagnosis" / "said.json"
BENCHMARKS = Path(__file__).parent / "benchmarks.md"

_PARTS = ("Thresholds", "Unit", "Needs", "Source")


def render(text: str) -> str:
    """Return `text` with everything between its markers as the rules say it."""
    said = json.loads(SAID.read_text(encoding="utf-8"))
    rules = "\n\n".join(_section(name, said.get(name, {})) for name in BUILT_IN)
    return re.sub(
        r"(<!-- begin rules -->\n).*?(<!-- end rules -->)",
        lambda match: f"{match.group(1)}{rules}\n\n{match.group(2)}",
        text,
        flags=re.DOTALL,
    )


def _section(name: str, said: dict[str, str]) -> str:
    function = BUILT_IN[name]
    head, *parts = re.split(
        rf"^({'|'.join(_PARTS)})\n", inspect.getdoc(function) or "", flags=re.MULTILINE
    )
    summary, _, body = head.strip().partition("\n\n")
    facts = {
        key: " ".join(value.split()) for key, value in zip(parts[::2], parts[1::2], strict=True)
    }
    defaults = ", ".join(f"`{key}={value:g}`" for key, value in thresholds(function).items())
    lines = [f"### {name}", _line(summary.removesuffix(".") + "."), _line(body)]
    if said:
        lines.append(f"![{said['alt']}](images/diagnosis/{name}.png)")
        lines.append(
            f"This is `{said['program']}` with the mutation `{said['mutation']}`, of which the "
            f"diagnosis says: *{said['said']}*"
        )
    lines.append(
        "\n".join(
            f"- {label}: {text}"
            for label, text in (
                ("What it means", _sentence(said.get("consequence", ""))),
                ("What to do", _sentence(said.get("remedy", ""))),
                ("How often it is right", _how_often(name)),
                ("Thresholds", f"{defaults}. {facts.get('Thresholds', '')}" if defaults else ""),
                ("Measured in", facts.get("Unit", "")),
                ("Needs", facts.get("Needs", "")),
                ("Source", facts.get("Source", "")),
            )
            if text and text != "none"
        )
    )
    return "\n\n".join(line for line in lines if line)


def _sentence(text: str) -> str:
    return f"{text}." if text else ""


def _how_often(name: str) -> str:
    """Return what the tables say of a rule."""
    rules, healthy = _table("rule"), _table("healthy")
    row = rules.get(name)
    if row is None:
        return "it found nothing in the runs of the tables, and none of these has its fault."
    found = [
        f"{row[f'{half}: found']} runs of {half} programs"
        for half in ("seen", "unseen")
        if row.get(f"{half}: found")
    ]
    wrong = [
        f"{row.get(f'{half}: serious, healthy') or 0} of {healthy['all'][f'{half}: runs']}"
        for half in ("seen", "unseen")
    ]
    where = f"found in {' and '.join(found)} that have a fault it is meant for; " if found else ""
    return (
        f"{where}an error or a warning in {wrong[0]} healthy runs of seen programs and {wrong[1]} "
        "of unseen ones."
    )


@functools.cache
def _table(title: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table of docs/benchmarks.md by their first cell."""
    lines = BENCHMARKS.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} | seen: "))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    head, _, *cells = ([c.strip() for c in row.strip("|").split("|")] for row in rows)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in cells}


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
