"""Write docs/json: the JSON schema of what each command prints with ``--json``.

Run ``python docs/render_json.py`` after a change of a result; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

import pydantic

from steptrace_analyzer.cli._documents import DOCUMENTS
from steptrace_schema.json_ready import json_schema
from steptrace_tracer.planning.document import PlanDocument
from steptrace_tracer.verification.verify import Verification

_ALL = {**DOCUMENTS, "plan": PlanDocument, "verify": Verification}

FOLDER = Path(__file__).with_name("json")


def render() -> dict[str, str]:
    """Return the text of each schema, by the name of its file."""
    return {
        f"{command}.json": json.dumps(
            {
                **json_schema(document),
                "title": f"steptrace {command} --json",
                "$comment": f"written by pydantic {pydantic.VERSION}",
            },
            indent=2,
        )
        + "\n"
        for command, document in _ALL.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
