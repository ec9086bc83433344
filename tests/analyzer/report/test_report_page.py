from __future__ import annotations

import base64
import hashlib
import io
import re
import shlex
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from plot_traces import make_trace, small_layers, small_network
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.cli.app import run
from steptrace_analyzer.plots.steps import sudden_findings
from steptrace_analyzer.report import write, write_report
from steptrace_analyzer.report.contents import (
    Fact,
    Link,
    Picture,
    Shown,
    StepChoices,
    Table,
    layer_place,
)
from steptrace_analyzer.report.contents import Page as Contents
from steptrace_analyzer.report.layers import at_each
from steptrace_analyzer.report.page import build_page
from steptrace_analyzer.report.pictures import line_picture, pixel_picture
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import StepNotRecordedError
from steptrace_schema.format.attributes import Event, Layer, Missing, Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<script>alert(1)</script> \"quoted\" 'single' &amp; </style><img src=x onerror=alert(2)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """The tags with their attributes, and the text, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.html = html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def tiny_arrays() -> dict[str, np.ndarray]:
    """One dense layer and two steps: few figures, all sections."""
    return {
        key: values if key == "probe/x" else values[: 3 if key.startswith("weights") else 2]
        for key, values in small_network().items()
        if "conv" not in key or key.startswith("probe")
    }


@pytest.fixture(scope="module")
def spiked(write_run: Callable[..., Path]) -> Path:
    return write_run(input_scale={37: 100.0})


@pytest.fixture(scope="module")
def report(spiked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    assert run(["report", str(spiked), "-o", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_the_page_has_everything_in_order(page: Page) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", page.html)
    assert titles == [
        "What happened",
        "Summary",
        "Loss",
        "Gradients",
        "Model flow",
        "The way of the parameters",
        "Layers",
        "What is missing, and why",
        "How it was recorded",
    ]
    assert re.findall(r"<h3>(sequential/.*?)</h3>", page.html) == [
        "sequential/dense",
        "sequential/dense_1",
    ]
    assert "60 (0-59)" in page.text
    assert "Size on disk" in page.text


def test_the_page_explains_what_was_found_and_shows_that_step_first(
    page: Page, spiked: Path
) -> None:
    found = sudden_findings(open_trace(spiked))
    assert [anomaly.step for anomaly in found] == [37]
    (story, *_) = diagnose(open_trace(spiked)).stories
    assert (story.step, len(story.findings)) == (37, 3)
    assert f"Step 37 ({story.severity}):" in page.text
    for finding in story.findings:
        assert finding.explanation[1:] in page.text
    assert f"What to do: {story.head.remedy}." in page.text
    controls = page.attributes("input")
    labels = [str(c["aria-label"]) for c in controls]
    assert len(labels) == 22  # 21 evenly taken, and step 37
    for step in (0, 37, 59):
        assert f"Show figures at step {step}" in labels
    assert [c["id"] for c in controls if "checked" in c] == ["step-37"]


def test_the_page_asks_for_nothing_and_runs_nothing_but_its_slider(page: Page) -> None:
    names = {name for name, _ in page.tags}
    assert names & {"link", "iframe", "object", "base", "form"} == set()
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,", "#"))
    policy = page.attributes("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    css = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert css is not None
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert len(scripts) == 1
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (css[1], scripts[0])
    ]
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"fetch|XMLHttp|WebSocket|innerHTML|eval|import\s*\(", scripts[0])
    assert "url(" not in css[1]
    assert "@import" not in css[1]


def test_every_image_says_what_it_shows_and_every_link_leads_somewhere(page: Page) -> None:
    alts = [image["alt"] for image in page.attributes("img")]
    assert all(alts)
    assert any(re.fullmatch(r"update of kernel \(\d+ × \d+\) at step 37", str(alt)) for alt in alts)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(link["href"]).removeprefix("#") for link in page.attributes("a")]
    labels = [label["for"] for label in page.attributes("label")]
    assert {*links, *labels} <= set(ids)


def test_every_step_has_its_figures_of_every_layer(page: Page) -> None:
    shown = [
        str(attributes["class"])
        for tag, attributes in page.tags
        if tag == "div" and "class" in attributes and str(attributes["class"]).startswith("at ")
    ]
    counts = Counter(shown)
    # Of two layers weights, update, gradient, input, output, and the gradients of both.
    steps = {name: count for name, count in counts.items() if name.startswith("at at-step-")}
    assert len(steps) == 22
    assert set(steps.values()) == {14}
    del counts["at at-layer-37"]
    rest = {name: count for name, count in counts.items() if name not in steps}
    assert rest == {f"at at-figure-{step}": 1 for step in (0, 37, 59)}  # the model's flow


def test_the_figures_of_the_nearest_step_are_shown_where_a_step_has_none() -> None:
    choices = StepChoices((0, 10, 20, 30), 20, drawn=(0, 20), closely=(20,))
    assert choices.places(0) == ("step-0", "figure-0", "layer-20")
    assert choices.places(10) == ("step-10", "figure-0", "layer-20")
    assert choices.places(30) == ("step-30", "figure-20", "layer-20")
    assert StepChoices((3,), 3).places(3) == ("step-3",)


def test_pictures_that_move_have_the_values_of_the_trace(page: Page, spiked: Path) -> None:
    weights = np.asarray(open_trace(spiked)["weights/sequential/dense/kernel"], dtype=float)
    shape = " × ".join(map(str, weights.shape[1:]))
    slopes = []
    for step in (0, 37, 59):
        alt = f"kernel ({shape}) at step {step}"
        source = next(str(i["src"]) for i in page.attributes("img") if i["alt"] == alt)
        image = Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))
        shares = np.asarray(image, dtype=float) / 252  # the palette is the colour map
        assert image.size == weights.shape[1:][::-1]
        finite = (shares > 0) & (shares < 1)
        slope, middle = np.polyfit(weights[step][finite], shares[finite], 1)
        assert middle == pytest.approx(0.5, abs=0.01)
        wanted = np.clip(middle + slope * weights[step], 0, 1)
        np.testing.assert_allclose(shares, wanted, atol=0.02)
        slopes.append(slope)
    assert slopes == pytest.approx([slopes[0]] * 3, rel=0.02)  # one range for all steps


def test_every_layer_has_a_thumbnail_at_every_step_that_leads_to_its_section(page: Page) -> None:
    small = [image for image in page.attributes("img") if "kernel at step" in str(image["alt"])]
    assert [image["alt"] for image in small] == [
        f"sequential/{layer}/kernel at step {step}"
        for layer in ("dense", "dense_1")
        for step in (0, 37, 59)
    ]
    assert len({image["src"] for image in small}) == 6


def test_steps_layers_and_size_of_the_page_can_be_chosen(spiked: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    options = ["--steps", "5,40", "--layer", "dense_1", "--max-size", "0.4"]
    assert run(["report", str(spiked), "-o", str(output), *options]) == 0
    page = Page(output.read_text(encoding="utf-8"))
    assert [c["aria-label"] for c in page.attributes("input")] == [
        "Show figures at step 5",
        "Show figures at step 40",
    ]
    assert re.findall(r"<h3>(sequential/.*?)</h3>", page.html) == ["sequential/dense_1"]
    assert output.stat().st_size < 800_000
    with pytest.raises(StepNotRecordedError, match="step 99 is not recorded"):
        write_report(spiked, output, steps=[99])


def test_nothing_that_a_trace_says_becomes_markup(tmp_path: Path) -> None:
    arrays = {
        key.replace("net/dense", HOSTILE.replace("/", "|")): values
        for key, values in tiny_arrays().items()
        if not key.startswith("probe")
    }
    trace = make_trace(
        arrays,
        name=HOSTILE.replace("/", "|"),
        layers=(Layer(path=HOSTILE, name=HOSTILE, class_name=HOSTILE, activation=HOSTILE),),
        model=Model(name=HOSTILE, class_name=HOSTILE, parameters=1, trainable_parameters=1),
        missing=(Missing(kind="probe", path=HOSTILE, reason=HOSTILE),),
        events=(Event(time=HOSTILE, message=HOSTILE, step=1),),
        environment={HOSTILE: {HOSTILE: [HOSTILE]}},
        loss=HOSTILE,
        status="incomplete",
        status_reason=HOSTILE,
        run_id=HOSTILE,
    )
    page = Page(write_report(trace, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len([n for n, _ in page.tags if n == "script"]) == 1
    assert "alert" not in page.html[page.html.rindex("<script>") :]
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert len([n for n, _ in page.tags if n == "style"]) == 1
    assert all(str(image["src"]).startswith("data:") for image in page.attributes("img"))
    assert page.text.count(HOSTILE) >= 12


def test_layers_beyond_the_size_limit_are_named_instead_of_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_BYTES", 0)
    trace = make_trace(small_network(), layers=small_layers())
    page = Page(write_report(trace, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "steptrace plot weights run.zarr --layer net/conv" in page.text
    assert len(page.attributes("img")) == 2  # loss and gradients


def test_a_trace_of_scalars_alone_still_has_a_report(tmp_path: Path) -> None:
    arrays = {k: v for k, v in small_network().items() if k.startswith("scalars")}
    page = Page(write_report(make_trace(arrays), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Nothing unusual was found" in page.text
    assert len(page.attributes("img")) == 1


def test_a_figure_that_cannot_be_drawn_is_replaced_by_the_reason(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    arrays["weights/net/dense/kernel"] = arrays["weights/net/dense/kernel"][:2]
    arrays = {k: v for k, v in arrays.items() if k.startswith(("weights", "activations/net/dense"))}
    arrays["activations/net/dense/output"] = np.zeros((2, 3, 5), np.float32)
    trace = make_trace(arrays, steps={"weights": [0, 1], "activations": [7, 8]})
    page = Page(write_report(trace, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "not recorded at the steps of this page; recorded are 7-8" in page.text

    def damaged(step: int) -> Figure:
        msg = f"step {step} is damaged"
        raise StepNotRecordedError(msg)

    (shown,) = at_each("view", [3], layer_place, damaged, str).shown
    assert (shown.picture, shown.reason, shown.place) == (None, "step 3 is damaged", "layer-3")


@pytest.mark.long
def test_several_processes_draw_the_page_that_one_draws(
    report: Path, spiked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_FEW_LAYERS", 1)
    page = write_report(open_trace(spiked), tmp_path / "r.html", path=spiked, workers=2)
    assert page.read_bytes() == report.read_bytes()


def test_progress_is_told_from_none_to_all(tmp_path: Path) -> None:
    arrays = {k: v for k, v in small_network().items() if k.startswith("scalars")}
    told: list[tuple[int, int]] = []
    write_report(make_trace(arrays), tmp_path / "r.html", progress=lambda *done: told.append(done))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_the_report_is_named_after_the_trace_and_replaced_when_written_again(
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(["report", str(healthy_path), "--max-size", "0"]) == 0
        assert capsys.readouterr().out.startswith("run-report.html (")
    assert [path.name for path in tmp_path.iterdir()] == ["run-report.html"]


def build(**fields: Any) -> Page:
    """Build a page that holds little."""
    empty: dict[str, Any] = {
        "title": "title",
        "lead": "lead",
        "choices": StepChoices((), None),
        **dict.fromkeys(("summary", "findings", "sections", "whole"), ()),
        **dict.fromkeys(("policy", "optimizer", "environment"), ()),
        **dict.fromkeys(("kinds", "loss", "gradients", "layers", "missing", "events")),
    }
    return Page(build_page(Contents(**(empty | fields))))


def test_every_text_is_escaped_in_content_and_in_attributes() -> None:
    picture = Picture(source="data:,", alt='"><script>', width=1, height=1)
    page = build(title="<b>&</b>", summary=(Fact("a < b", "red\x1b[31m"),), loss=Shown(picture))
    assert "<h1>&lt;b&gt;&amp;&lt;/b&gt;</h1>" in page.html
    assert "<dt>a &lt; b</dt><dd>red\\x1b[31m</dd>" in page.html
    assert 'alt="&#34;&gt;&lt;script&gt;"' in page.html
    assert page.attributes("img")[0]["alt"] == '"><script>'


def test_a_table_sets_its_last_columns_flush_right_and_links_escape_their_text() -> None:
    table = Table(("name", "size"), ((Link("<a>", "layer-0"), "1"), ("b", "2")), numbers=1)
    page = build(layers=table)
    assert '<th class="number">size</th>' in page.html
    assert '<td><a href="#layer-0">&lt;a&gt;</a></td>' in page.html
    assert re.search(r'<td>b</td>\s*<td class="number">2</td>', page.html)


def test_the_command_that_draws_a_layer_names_the_trace_as_a_shell_reads_it(
    healthy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_BYTES", 0)
    place = tmp_path / "my runs" / "run.zarr"
    shutil.copytree(healthy_path, place)
    page = Page(write_report(place, tmp_path / "r.html").read_text(encoding="utf-8"))
    command = f"steptrace plot weights '{place}' --layer sequential/dense"
    assert command in page.text
    monkeypatch.chdir(tmp_path)
    assert run(shlex.split(command)[1:]) == 0


def test_a_colour_of_few_pixels_survives_in_a_picture() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.random.default_rng(0).normal(size=(100, 100)), cmap="viridis", aspect="auto")
    axes.plot(50, 50, "s", color="#ff00c8", markersize=3)
    source = pixel_picture(figure, "noise").source.partition("base64,")[2]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB"), dtype=int)
    assert image.shape == (300, 400, 3)
    assert np.abs(image - (0xFF, 0x00, 0xC8)).max(axis=-1).min() <= 8


def test_lines_are_drawn_as_svg_unless_they_are_too_many() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.add_subplot()
    axes.plot([1, 2, 3])
    assert line_picture(figure, "few").source.startswith("data:image/svg+xml;base64,")
    axes.scatter(*np.random.default_rng(0).random((2, 20_000)))
    assert line_picture(figure, "many").source.startswith("data:image/png;base64,")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_complaint_and_would_refuse_any_request(
    report: Path, tmp_path: Path
) -> None:
    shown, complaints = browse(report, tmp_path)
    for heading in ("Summary", "What happened", "Loss", "Gradients", "Layers"):
        assert f"<h2>{heading}</h2>" in shown
    assert complaints == []
    tampered = tmp_path / "tampered.html"
    html = report.read_text(encoding="utf-8")
    tampered.write_text(html.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    _, complaints = browse(tampered, tmp_path)
    assert ["Content Security Policy" in complaint for complaint in complaints] == [True]


def browse(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Open a page; return what the browser made of it and what its console says."""
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
