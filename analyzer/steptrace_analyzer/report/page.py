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
    or to run scripts. Choosing a step works without any: a radio button, and rules for its
    siblings.

    Returns
    -------
    str
        A whole HTML document.
    """
    rules = "".join(_step_rules(page.choices.control(step)) for step in page.choices.steps)
    return render("page.html", rules, page=page)


def render(name: str, rules: str = "", **values: object) -> str:
    """Return a whole HTML document: a template with the style sheet, some more rules, and values.

    Parameters
    ----------
    name
        Of the template.
    rules
        More rules of the style sheet, the program's own.
    values
        What the template writes; no text in them can become markup.
    """
    css = files(__package__).joinpath("page.css").read_text(encoding="utf-8") + rules
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _templates().get_template(name).render(css=css, policy=policy, **values)


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


def _step_rules(control: str) -> str:
    """Return the rules that show what belongs to a chosen step and mark its label."""
    return (
        f"#{control}:checked~main .at-{control}{{display:block}}"
        f"#{control}:checked~.steps .choice-{control}"
        "{background:var(--accent);color:var(--on-accent)}"
        f"#{control}:focus-visible~.steps .choice-{control}{{outline:3px solid var(--focus)}}\n"
    )
