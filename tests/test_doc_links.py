"""Every path and every link in the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "schema/*.md")
    for path in ROOT.glob(pattern)
    if not path.relative_to(ROOT).parts[0].startswith(".")
)
"""Documents that people read, by their path."""

_FENCE = re.compile(r"^(?:```.*?^```|(?: {4}.*\n)+)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\s]+)`")
_TOP = ("schema/", "tracer/", "analyzer/", "tests/", "docs/", "benchmarks/", "examples/", ".ci/")


def _prose(document: str) -> str:
    return _FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def _anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings: lower case, hyphens, no marks."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _broken_links(document: str) -> list[str]:
    broken = []
    for target in _LINK.findall(_prose(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    return broken


def _broken_paths(document: str) -> list[str]:
    spans = [s for s in _SPAN.findall(_prose(document)) if s.startswith(_TOP)]
    return [s for s in spans if not any(ROOT.glob(s.partition("::")[0].rstrip("/")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_its_heading(document: str) -> None:
    assert _broken_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    assert _broken_paths(document) == []


def test_the_check_sees_a_broken_link_a_broken_anchor_and_a_broken_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        "# A heading\n[a](no.md) [b](page.md#a-heading) [c](#nowhere) `docs/page.md` `docs/no.md`\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert _broken_links("docs/page.md") == ["no.md", "#nowhere"]
    assert _broken_paths("docs/page.md") == ["docs/no.md"]


def test_every_decision_is_in_the_index_under_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(folder.glob("[0-9]*.md"))
    numbers = [record.name[:3] for record in records]
    assert len(set(numbers)) == len(numbers)
    assert all(number.isdigit() for number in numbers)
    for record in records:
        number, title = (
            record.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ").split(" ", 1)
        )
        assert record.name.startswith(number)
        assert f"| [{number}]({record.name}) | {title} |\n" in index
