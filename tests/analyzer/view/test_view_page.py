"""The explorer in a browser: what it shows, what moves it, and what it refuses."""

from __future__ import annotations

import asyncio
import http.client
import queue
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import xarray as xr

from browser import AXE, Tab, chromium, needs_browser, tab
from plot_traces import make_trace, small_network
from steptrace_schema.format.attributes import Layer, Model

pytest.importorskip("bokeh")

from steptrace_analyzer.view.run import Run
from steptrace_analyzer.view.server import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

pytestmark = needs_browser

MODEL = "Bokeh.documents[0].get_model_by_name({!r})"
HOSTILE = "<script>alert(1)<|script>"


@contextmanager
def served(*runs: Path) -> Iterator[str]:
    """Serve runs as the command does; yield the address that it prints."""
    command = [sys.executable, "-m", "steptrace_analyzer", "view", *map(str, runs), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def spiked(write_run: Callable[..., Path]) -> Path:
    return write_run(input_scale={37: 100.0})


@pytest.fixture(scope="module")
def address(spiked: Path) -> Iterator[str]:
    with served(spiked) as url:
        yield url


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Tab]:
    with opened(browser, address) as shown:
        yield shown


@contextmanager
def opened(browser: Any, address: str, **size: Any) -> Iterator[Tab]:
    with tab(browser, **size) as shown:
        shown.page.goto(address)
        wait(shown, "Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")
        yield shown


def wait(shown: Tab, condition: str) -> None:
    """Wait until an expression is true; the page's policy forbids it to evaluate one itself."""
    for _ in range(1200):
        if shown.page.evaluate(f"!!(window.Bokeh && {condition})"):
            return
        shown.page.wait_for_timeout(50)
    msg = f"never true: {condition}"
    raise AssertionError(msg)


def step_of(shown: Tab) -> int:
    title = shown.page.evaluate(MODEL.format("step") + ".title")
    return int(re.sub(r"\D", "", title))


def pixels_of(shown: Tab, figure: str) -> str:
    """Return what a figure's canvas has on it."""
    view = f"Bokeh.index.find_one({MODEL.format(figure)})"
    return str(shown.page.evaluate(f"{view}.export('png', true).canvas.toDataURL()"))


@contextmanager
def in_thread(runs: Sequence[Run]) -> Iterator[str]:
    """Serve runs of this process in a thread; yield the address."""
    made: queue.Queue[View] = queue.Queue()

    def serve() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        view = View(runs)
        view.run(lambda: made.put(view))

    thread = threading.Thread(target=serve)
    thread.start()
    view = made.get(timeout=30)
    try:
        yield view.url
    finally:
        view.stop()
        thread.join()


def shown_values(shown: Tab, figure: str) -> npt.NDArray[np.float64]:
    """Return the values behind the pixels of a picture, the first row at the top."""
    source = MODEL.format(figure) + ".renderers.find(r => r.glyph).data_source"
    code = f"(() => {{ const a = {source}.data.value[0]; return [a.shape, Array.from(a)] }})()"
    shape, flat = shown.page.evaluate(code)
    return np.array([np.nan if v is None else v for v in flat], dtype=float).reshape(shape)[::-1]


def await_values(
    shown: Tab, figure: str, expected: npt.NDArray[Any], rtol: float = 1e-6, atol: float = 0.0
) -> None:
    """Expect values behind a picture; the page may get them after the words that go with them."""
    for _ in range(200):
        values = shown_values(shown, figure)
        if values.shape == expected.shape and np.allclose(values, expected, rtol, atol):
            break
        shown.page.wait_for_timeout(50)
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=atol)


def choose(shown: Tab, field: str, value: str) -> None:
    shown.page.evaluate(MODEL.format(field) + f".value = {value!r}")


def test_the_page_asks_this_machine_alone_and_its_console_is_silent(page: Tab) -> None:
    wait(page, MODEL.format("finding") + ".options[0][1].includes('finding')")
    assert page.complaints == []
    assert {host.partition(":")[0] for host in page.hosts} == {"127.0.0.1"}
    assert any(url.startswith("ws://127.0.0.1") for url in page.asked)
    assert page.page.title() == "sequential · steptrace"


def test_a_key_on_the_slider_changes_the_step_and_the_pictures(page: Tab) -> None:
    before = pixels_of(page, "a-weights")
    values = shown_values(page, "a-weights")
    handle = page.page.locator(".noUi-handle").first
    handle.focus()
    handle.press("Home")
    wait(page, MODEL.format("step") + ".title === 'Step 0'")
    for _ in range(100):  # a canvas is painted with the next frame
        if pixels_of(page, "a-weights") != before:
            break
        page.page.wait_for_timeout(50)
    assert pixels_of(page, "a-weights") != before
    assert not np.array_equal(shown_values(page, "a-weights"), values)
    page.page.locator("button", has_text="▶").click()
    wait(page, MODEL.format("step") + ".title === 'Step 1'")


def test_the_pictures_hold_the_values_of_the_step(page: Tab, spiked: Path) -> None:
    trace = xr.open_datatree(str(spiked), engine="zarr")
    weights = np.asarray(trace["weights/sequential/dense/kernel"])
    steps = trace["weights"].coords["step"].to_numpy()
    at = int(np.flatnonzero(steps == step_of(page))[0])
    await_values(page, "a-weights", weights[at])
    update = weights[at + 1] - weights[at]
    await_values(page, "a-update", update, rtol=1e-5, atol=1e-9)
    gradient = np.asarray(trace["gradients/sequential/dense/kernel"])[at]
    await_values(page, "a-gradient", gradient)


def test_play_plays_and_pauses(page: Tab) -> None:
    handle = page.page.locator(".noUi-handle").first
    handle.focus()
    handle.press("Home")
    wait(page, MODEL.format("step") + ".title === 'Step 0'")
    page.page.locator("button", has_text="Play").click()
    wait(page, f"Number({MODEL.format('step')}.value) >= 3")
    page.page.locator("button", has_text="Pause").click()
    wait(page, "Bokeh.documents[0].is_idle")
    page.page.wait_for_timeout(600)
    rest = step_of(page)
    page.page.wait_for_timeout(600)
    assert step_of(page) == rest


def test_a_click_on_a_findings_mark_goes_to_its_step(page: Tab) -> None:
    wait(page, MODEL.format("finding") + ".options[0][1].includes('finding')")
    wait(page, "Bokeh.documents[0].is_idle")
    place = page.page.evaluate(
        f"(() => {{ const v = Bokeh.index.find_one({MODEL.format('loss')});"
        " const box = v.el.getBoundingClientRect();"
        " return [box.left + v.frame.x_scale.compute(37), box.top + v.frame.bbox.vcenter] })()"
    )
    page.page.mouse.click(*place)
    wait(page, MODEL.format("step") + ".title === 'Step 37'")
    wait(page, MODEL.format("told") + ".text.includes('step 37')")


def test_a_click_on_a_layer_chooses_it(page: Tab, spiked: Path) -> None:
    place = page.page.evaluate(
        f"(() => {{ const v = Bokeh.index.find_one({MODEL.format('flow_card')});"
        " const box = v.el.getBoundingClientRect();"
        " return [box.left + v.frame.x_scale.compute(2), box.top + v.frame.y_scale.compute(2)] })()"
    )
    page.page.mouse.click(*place)
    wait(page, MODEL.format("layer") + ".value === 'sequential/dense_1'")
    trace = xr.open_datatree(str(spiked), engine="zarr")
    await_values(
        page, "a-weights", np.asarray(trace["weights/sequential/dense_1/kernel"])[step_of(page)]
    )


def test_two_runs_stand_beside_each_other_and_are_subtracted(
    browser: Any, spiked: Path, write_run: Callable[..., Path]
) -> None:
    other = write_run(seed=1)
    with served(spiked, other) as url, opened(browser, url) as shown:
        one, two = (
            np.asarray(xr.open_datatree(str(run), engine="zarr")["weights/sequential/dense/kernel"])
            for run in (spiked, other)
        )
        at = step_of(shown)
        await_values(shown, "a-weights", one[at])
        await_values(shown, "b-weights", two[at])
        choose(shown, "compare", "difference")
        wait(shown, MODEL.format("a-title") + ".text.includes(' less ')")
        await_values(shown, "a-weights", two[at] - one[at], rtol=1e-4, atol=1e-7)
        assert shown.complaints == []


def test_names_of_a_trace_are_text(browser: Any) -> None:
    arrays = {key.replace("net/conv", f"net/{HOSTILE}"): v for key, v in small_network().items()}
    path = f"net/{HOSTILE}"
    layer = Layer(path=path, name=HOSTILE, class_name=HOSTILE, activation=HOSTILE)
    model = Model(name=HOSTILE, class_name=HOSTILE, parameters=1, trainable_parameters=1)
    trace = make_trace(arrays, layers=(layer,), model=model, name=HOSTILE)
    runs = [Run(f"{HOSTILE}{n} $$x$$", Path("run.zarr"), trace) for n in (1, 2)]
    with in_thread(runs) as url, opened(browser, url) as shown:
        choose(shown, "layer", path)
        wait(shown, MODEL.format("variable") + f".value === {path + '/kernel'!r}")
        wait(shown, "Bokeh.documents[0].is_idle")
        assert shown.complaints == []
        assert shown.page.title() == f"{HOSTILE} · steptrace"
        scripts = "document.querySelectorAll('main script, header script').length"
        assert shown.page.evaluate(scripts) == 0
        assert shown.page.locator(f"text={HOSTILE}").count() >= 2


def test_what_does_not_know_the_address_is_refused(address: str) -> None:
    host = urlsplit(address).netloc
    for path in ("", "wrong/", "static/js/bokeh.min.js", "ws"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{host}/{path}")
        assert refused.value.code == 403
        refused.value.close()
    with urllib.request.urlopen(address) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(("origin", "status"), [("own", 101), ("http://evil.example", 403)])
def test_only_the_pages_own_origin_gets_the_websocket(
    address: str, origin: str, status: int
) -> None:
    parts = urlsplit(address)
    with urllib.request.urlopen(address) as answer:
        page = answer.read().decode()
    token = re.search(r'"token":"([^"]+)"', page)
    assert token is not None
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request(
        "GET",
        f"{parts.path}ws",
        headers={
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": f"bokeh, {token[1]}",
            "Origin": f"http://{parts.netloc}" if origin == "own" else origin,
        },
    )
    with connection.getresponse() as answer:
        assert answer.status == status
    connection.close()


def test_the_address_is_of_this_machine_and_never_twice_the_same(address: str) -> None:
    parts = urlsplit(address)
    assert parts.hostname == "127.0.0.1"
    assert len(parts.path) > 40


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_telephone(browser: Any, address: str, dark: bool) -> None:
    with opened(browser, address, width=400, dark=dark) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 400
        background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 24, 29)" if dark else "rgb(246, 247, 249)")


@pytest.mark.skipif(not AXE.exists(), reason="needs the npm package axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_told_from_its_background(
    browser: Any, address: str, scheme: str
) -> None:
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)
    shown = Tab(context.new_page())
    shown.page.goto(address)
    wait(shown, "Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")
    shown.page.add_script_tag(path=str(AXE))
    found = shown.page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa']})")
    context.close()
    violations = {v["id"]: v["nodes"][0]["html"][:200] for v in found["violations"]}
    violations.pop("aria-input-field-name", None)  # the handle of bokeh's slider has no name
    assert violations == {}
