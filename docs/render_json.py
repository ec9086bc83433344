"""Write docs/json: the JSON schema of what each command prints with ``--json``.

Run ``python docs/render_json.py`` after a change of a result; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

from steptrace_analyzer.cli._documents import DOCUMENTS, document_schema

FOLDER = Path(__file__).with_name("json")


def render() -> dict[str, str]:
    """Return the text of each schema, by the name of its file."""
    return {
        f"{command}.json": json.dumps(document_schema(command), indent=2) + "\n"
        for command in DOCUMENTS
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
