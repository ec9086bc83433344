"""Writing the page as HTML in which no text from a trace can become markup."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from steptrace_analyzer.text import printable

if TYPE_CHECKING:
    from steptrace_analyzer.report.contents import Page


def build_page(page: Page) -> str:
    """Build the page.

    The page needs nothing but itself, and its policy forbids the browser to ask for anything else
    or to run another script than its own, which it knows by its digest. Choosing a step works
    without scripts: a radio button, and rules for its siblings. The script adds a slider that
    plays.

    Returns
    -------
    str
        A whole HTML document.
    """
    choices = page.choices
    rules = "".join(_step_rules(place, choices.places(step)) for step, place in choices.controls)
    return render("page.html", rules, _file("page.js"), page=page)


def render(name: str, rules: str = "", script: str = "", **values: object) -> str:
    """Return a whole HTML document: a template with the style sheet, some more rules, and values.

    Parameters
    ----------
    name
        Of the template.
    rules
        More rules of the style sheet, the program's own.
    script
        The page's script, the program's own; the page may run no other.
    values
        What the template writes; no text in them can become markup.
    """
    css = _file("colours.css") + _file("page.css") + rules
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(css)}'; "
    if script:
        policy += f"script-src 'sha256-{_digest(script)}'; "
    policy += "base-uri 'none'; form-action 'none'"
    return _templates().get_template(name).render(css=css, script=script, policy=policy, **values)


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_control_characters,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _without_control_characters(value: object) -> object:
    """Return what an expression of a template writes; markup is a template's own."""
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    # Images are megabytes of plain characters: only other text is looked at one by one.
    return value if value.isprintable() else printable(value)


def _step_rules(control: str, places: tuple[str, ...]) -> str:
    """Return the rules that show what belongs to a chosen step and mark its label."""
    shown = ",".join(f"#{control}:checked~main .at-{place}" for place in places)
    return (
        f"{shown}{{display:block}}"
        f"#{control}:checked~.steps .choice-{control}"
        "{background:var(--accent);color:var(--on-accent)}"
        f"#{control}:focus-visible~.steps .choice-{control}{{outline:3px solid var(--focus)}}\n"
    )
