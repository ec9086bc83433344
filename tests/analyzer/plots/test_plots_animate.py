from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from plot_traces import make_trace, small_layers, small_network, small_trace
from steptrace_analyzer import animate
from steptrace_analyzer.cli.app import run
from steptrace_analyzer.plots.animate import VIEWS, drawing, frame_steps
from steptrace_analyzer.plots.player import player_page
from steptrace_schema.errors import StepNotRecordedError, TraceError

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert(1)</script>"


def frames(path: Path) -> list[Any]:
    opened: Any = Image.open(path)
    shown = []
    with opened as image:
        for place in range(image.n_frames):
            image.seek(place)
            shown.append(np.asarray(image.convert("RGB")).astype(int))
    return shown


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_moves_with_one_frame_per_step(view: Any, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    output = animate(
        small_trace(),
        tmp_path / "run.gif",
        view,
        steps=[0, 2, 4],
        dpi=40,
        progress=lambda a, b: done.append((a, b)),
    )
    shown = frames(output)
    assert len(shown) == 3
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(shown))
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("view", VIEWS)
def test_every_frame_has_the_same_axes_and_colours(view: Any) -> None:
    trace = small_trace()
    draw = drawing(trace, view, None, [0, 1, 4])
    seen = []
    for step in (0, 1, 4):
        figure = draw(step)
        assert f"step {step}" in figure.get_suptitle()
        seen.append(
            [
                (axes.get_xlim(), axes.get_ylim(), *(image.get_clim() for image in axes.images[:1]))
                for axes in figure.axes
                if "values" not in axes.get_ylabel()
            ]
        )
    assert seen[0] == seen[1] == seen[2]


def test_of_many_steps_some_are_taken_evenly(tmp_path: Path) -> None:
    output = animate(small_trace(), tmp_path / "run.html", dpi=30, most=3)
    assert re.findall(r'data-step="(\d+)"', output.read_text()) == ["0", "2", "4"]


def test_a_step_that_is_not_recorded_is_refused() -> None:
    with pytest.raises(StepNotRecordedError, match="has no step 77"):
        frame_steps(small_trace(), "weights", "dense", [0, 77])


def test_mp4_without_ffmpeg_and_other_suffixes_get_one_sentence(
    healthy_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(["animate", str(healthy_path), "-o", "run.mp4"]) == 2
    assert "MP4 needs the program ffmpeg, which is not installed" in capsys.readouterr().err
    with pytest.raises(TraceError, match=r"end the name in \.gif, \.html or \.mp4"):
        animate(small_trace(), "run.png")


def test_the_command_writes_a_file_named_after_what_it_shows(
    healthy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--view", "weights", "--layer", "dense", "--steps", "0:40:20", "--dpi", "30"]
    assert run(["animate", str(healthy_path), *options]) == 0
    assert len(frames(tmp_path / "run-weights-dense.gif")) == 3


def test_the_player_has_no_markup_of_a_trace_and_asks_for_nothing() -> None:
    page = player_page(HOSTILE, [1, 2], [b"a", b"b"], 5.0)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src &#39;none&#39;" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_plays_the_page_without_complaint(tmp_path: Path) -> None:
    trace = make_trace(small_network(), layers=small_layers())
    page = animate(trace, tmp_path / "run.html", dpi=30, most=3, frames_per_second=20)
    # The page's own button is pressed by a script beside it, which the policy must be told of.
    html = page.read_text(encoding="utf-8")
    pressed = re.sub(r"script-src &#39;.*?&#39;", "script-src 'unsafe-inline'", html)
    press = "<script>document.querySelector('button').click();</script></body>"
    (tmp_path / "pressed.html").write_text(pressed.replace("</body>", press), encoding="utf-8")
    for name, last in (("run.html", "step 0"), ("pressed.html", "step 4")):
        result = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--enable-logging=stderr",
                "--virtual-time-budget=3000",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                (tmp_path / name).as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert f"<output>{last}</output>" in result.stdout
        assert [line for line in result.stderr.splitlines() if ":CONSOLE" in line] == []
