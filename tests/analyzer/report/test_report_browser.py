"""The report in a browser: its slider, its tables, and what it is without scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from browser import AXE, chromium, needs_browser, tab
from steptrace_analyzer.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = needs_browser
WEIGHTS = ".moving figure:first-child .at"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_run(input_scale={37: 100.0})
    output = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, output, layers=["dense_1"]).as_uri()


def seen(page: Any) -> list[str]:
    """Return which pictures of the first array are shown."""
    code = f"""[...document.querySelectorAll({WEIGHTS!r})]
        .filter(e => getComputedStyle(e).display !== 'none').map(e => e.className)"""
    found: list[str] = page.evaluate(code)
    return found


def test_the_slider_changes_the_pictures_and_plays(browser: Any, report: str) -> None:
    with tab(browser) as shown:
        page = shown.page
        page.goto(report)
        assert seen(page) == ["at at-step-37"]
        slider = page.locator(".steps input[type=range]")
        slider.focus()
        slider.press("Home")
        assert seen(page) == ["at at-step-0"]
        slider.press("ArrowRight")
        (second,) = seen(page)
        assert second not in ("at at-step-0", "at at-step-37")
        assert page.locator(".steps output").inner_text() == second.replace("at at-step-", "step ")
        page.locator(".steps button").click()
        page.wait_for_timeout(1500)
        page.locator(".steps button").click()
        assert seen(page) != [second]
        rest = seen(page)
        page.wait_for_timeout(800)
        assert seen(page) == rest
        page.locator("label.show").first.click()
        assert seen(page) == ["at at-step-37"]
        assert shown.complaints == []
        assert shown.hosts == set()


def test_a_table_stands_behind_a_figure(browser: Any, report: str) -> None:
    with tab(browser) as shown:
        shown.page.goto(report)
        details = shown.page.locator("#loss details")
        assert not details.locator("table").is_visible()
        details.locator("summary").click()
        assert details.locator("table").is_visible()
        assert "gradient norm (L2)" in details.inner_text()


def test_a_step_can_be_chosen_without_scripts(browser: Any, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.locator("#layer-0 .moving .at-step-37").first.is_visible()
    page.locator("label.choice-step-0").click()
    assert page.locator("#layer-0 .moving .at-step-0").first.is_visible()
    assert not page.locator("#layer-0 .moving .at-step-37").first.is_visible()
    context.close()


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_telephone(browser: Any, report: str, dark: bool) -> None:
    with tab(browser, width=400, dark=dark) as shown:
        shown.page.goto(report)
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.skipif(not AXE.exists(), reason="needs the npm package axe-core")
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_told_from_its_background(browser: Any, report: str, dark: bool) -> None:
    context = browser.new_context(bypass_csp=True, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(report)
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa']})")
    context.close()
    violations = [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
    assert violations == []
