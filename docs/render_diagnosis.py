"""Render the table of rules of docs/diagnosis.md from their docstrings, between its markers.

Run ``python docs/render_diagnosis.py`` after a change of a rule; the tests compare.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from steptrace_analyzer.anomalies.registry import thresholds
from steptrace_analyzer.anomalies.rules import BUILT_IN

PAGE = Path(__file__).parent / "diagnosis.md"

_PARTS = ("Thresholds", "Unit", "Needs", "Source")


def render(text: str) -> str:
    """Return `text` with everything between its markers as the rules say it."""
    rules = "\n\n".join(_section(name) for name in BUILT_IN)
    return re.sub(
        r"(<!-- begin rules -->\n).*?(<!-- end rules -->)",
        lambda match: f"{match.group(1)}{rules}\n\n{match.group(2)}",
        text,
        flags=re.DOTALL,
    )


def _section(name: str) -> str:
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
    lines.append(
        "\n".join(
            f"- {label}: {text}"
            for label, text in (
                ("Thresholds", f"{defaults}. {facts.get('Thresholds', '')}" if defaults else ""),
                ("Measured in", facts.get("Unit", "")),
                ("Needs", facts.get("Needs", "")),
                ("Source", facts.get("Source", "")),
            )
            if text and text != "none"
        )
    )
    return "\n\n".join(line for line in lines if line)


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
