"""Results in a notebook: tables, in which no text becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from steptrace_analyzer import diagnose, open_trace
from steptrace_analyzer.anomalies.diagnosis import Diagnosis
from steptrace_analyzer.anomalies.finding import Finding, Findings, NotJudged
from steptrace_analyzer.anomalies.stories import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<script>alert(1)</script>\x1b[31m"


class Cells(HTMLParser):
    """Tags, and the text of every cell."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def cells(result: Any) -> Cells:
    return Cells(result._repr_html_())


def test_findings_are_a_table_of_what_was_found(write_run: Callable[..., Path]) -> None:
    trace: Any = open_trace(write_run(input_scale={37: 100.0}))
    found = trace.steptrace.findings()
    shown = cells(found)
    assert "table" in shown.tags
    for finding in diagnose(trace).findings:
        assert finding.explanation in shown.texts
        assert finding.explanation in cells(finding).texts
    assert "37" in shown.texts
    assert isinstance(found, tuple)


def test_a_diagnosis_shows_its_stories_and_what_was_not_judged(
    write_run: Callable[..., Path],
) -> None:
    judged = diagnose(write_run(input_scale={37: 100.0}))
    shown = cells(judged)
    assert judged.stories[0].head.explanation in shown.texts
    told = cells(Diagnosis((), (NotJudged("drift", "no weights"),), ()))
    assert told.texts == ["nothing unusual found", "not judged, for want of data: drift"]
    assert cells(Findings()).texts == ["nothing unusual found"]


def test_no_text_of_a_result_becomes_markup() -> None:
    finding = Finding(HOSTILE, "error", 1, 2, HOSTILE, tensor=HOSTILE, cause=HOSTILE)
    for result in (finding, Findings([finding]), Story((finding,))):
        shown = cells(result)
        assert shown.tags <= {"table", "thead", "tbody", "tr", "th", "td", "caption", "p"}
        assert any("<script>alert(1)</script>\\x1b[31m" in text for text in shown.texts)
