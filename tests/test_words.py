"""Documents, docstrings and messages use the words of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WORDS = {
    r"loops? of (?:one's|your|my) own": "custom training loop",
    r"one's own": "custom, or your own",
    r"g(?:o|oes|one|oing) on with": "resume, or continue",
    r"training goes on": "the training continues",
    r"\banew\b": "again",
    r"\b(?:is|are) told\b": "say what is printed, passed or reported",
    r"\bgiven up\b": "dropped, or released",
}
"""Phrases that take a second reading, and what to write instead."""

FOLDERS = ("analyzer", "tracer", "docs", "examples", "benchmarks", "schema/steptrace_schema")
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(
        path
        for folder in FOLDERS
        for suffix in ("py", "md")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ),
]


@pytest.mark.parametrize("phrase", WORDS)
def test_no_text_has_a_phrase_that_takes_a_second_reading(phrase: str) -> None:
    assert len(FILES) > 200
    found = [
        f"{path.relative_to(ROOT).as_posix()}: '{match.group(0)}', write: {WORDS[phrase]}"
        for path in FILES
        for match in re.finditer(phrase, path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert found == []
