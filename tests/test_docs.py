"""Documents agree with the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from steptrace_schema.version import FORMAT_VERSION

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_specification_are_those_of_the_code() -> None:
    found = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    text = (ROOT / "schema" / "SPEC.md").read_text(encoding="utf-8")
    assert module.render(text) == text
    assert all(f"begin {name}" in text for name in module.TABLES)


def test_the_specification_has_the_version_that_is_written() -> None:
    text = (ROOT / "schema" / "SPEC.md").read_text(encoding="utf-8")
    assert f"Version **{FORMAT_VERSION}**" in text
    assert f"## {FORMAT_VERSION} " in (ROOT / "schema" / "CHANGELOG.md").read_text()
