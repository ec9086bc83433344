"""The page around its parts: head, navigation, the choice of a step, sections."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from steptrace_analyzer.report.markup import Markup, element, join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page with a heading; its anchor is unique on the page."""

    anchor: str
    title: str
    content: Markup
    level: int = 2


@dataclasses.dataclass(frozen=True)
class StepChoices:
    """The steps whose figures the page has, and the one it shows at first."""

    steps: tuple[int, ...]
    chosen: int | None

    def control(self, step: int) -> str:
        """Return the id of the control that chooses a step."""
        return f"step-{self.steps.index(step)}"


def at_steps(contents: Mapping[int, Markup], choices: StepChoices) -> Markup:
    """Return contents of which the page shows the one of the chosen step."""
    return join(
        element("div", content, class_=f"at at-{choices.control(step)}")
        for step, content in contents.items()
    )


def build_page(title: str, lead: str, sections: Sequence[Section], choices: StepChoices) -> str:
    """Build the page.

    The page needs nothing but itself, and its policy forbids the browser to ask for anything else
    or to run scripts. Choosing a step works without any: a radio button, and rules for its
    siblings.

    Parameters
    ----------
    title
        Of the page.
    lead
        One sentence below it.
    sections
        In order; those of level 2 are in the navigation.
    choices
        The steps to choose from; may be none.

    Returns
    -------
    str
        A whole HTML document.
    """
    css = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    css += "".join(_step_rules(choices.control(step)) for step in choices.steps)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content="steptrace"),
        element("title", title),
        Markup(f"<style>{css}</style>"),
    )
    controls = [
        element(
            "input",
            type="radio",
            name="step",
            id=choices.control(step),
            class_="control",
            aria_label=f"Show figures at step {step}",
            checked="" if step == choices.chosen else None,
        )
        for step in choices.steps
    ]
    body = element(
        "body",
        *controls,
        element("header", element("h1", title), element("p", lead, class_="lead")),
        _contents(sections),
        *([_step_bar(choices)] if choices.steps else []),
        element("main", *(_section(section) for section in sections)),
        element("footer", element("p", "Made by steptrace. This page needs no network.")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en').text}\n"


def _contents(sections: Sequence[Section]) -> Markup:
    links = [
        element("a", section.title, href=f"#{section.anchor}")
        for section in sections
        if section.level == 2
    ]
    return element("nav", *links, aria_label="Contents")


def _step_bar(choices: StepChoices) -> Markup:
    controls = {step: choices.control(step) for step in choices.steps}
    labels = (
        element("label", str(step), for_=control, class_=f"choice choice-{control}")
        for step, control in controls.items()
    )
    return element("div", element("span", "Figures at step"), *labels, class_="steps")


def _section(section: Section) -> Markup:
    heading = element(f"h{section.level}", section.title)
    return element("section", heading, section.content, id=section.anchor)


def _step_rules(control: str) -> str:
    """Return the rules that show what belongs to a chosen step and mark its label."""
    return (
        f"#{control}:checked~main .at-{control}{{display:block}}"
        f"#{control}:checked~.steps .choice-{control}"
        "{background:var(--accent);color:var(--on-accent)}"
        f"#{control}:focus-visible~.steps .choice-{control}{{outline:3px solid var(--focus)}}\n"
    )
