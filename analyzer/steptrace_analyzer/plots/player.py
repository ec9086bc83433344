"""A page that plays pictures of steps: a slider, a button, and nothing from the network."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, StrictUndefined

from steptrace_analyzer.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_CSS: Final = """
:root { color-scheme: light dark; --page: #f6f7f9; --text: #1c2530; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --text: #e6ebf1; } }
body { margin: 0; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
.bar { display: flex; gap: .8rem; align-items: center; margin-bottom: .8rem; }
.bar input { flex: 1; min-width: 0; }
button { font: inherit; min-width: 5rem; padding: .2rem .8rem; }
output { min-width: 7rem; font-variant-numeric: tabular-nums; }
.frames { background: #ffffff; border-radius: .4rem; overflow-x: auto; }
.frames img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.frames img[hidden] { display: none; }
"""

_SCRIPT: Final = """
const frames = [...document.querySelectorAll(".frames img")];
const slider = document.querySelector("input"), button = document.querySelector("button");
const told = document.querySelector("output");
let timer = null;
function show() {
  const at = Number(slider.value);
  frames.forEach((frame, place) => { frame.hidden = place !== at; });
  told.textContent = "step " + frames[at].dataset.step;
}
function stop() { clearInterval(timer); timer = null; button.textContent = "Play"; }
function play() {
  if (Number(slider.value) === frames.length - 1) { slider.value = 0; show(); }
  button.textContent = "Pause";
  timer = setInterval(() => {
    if (Number(slider.value) === frames.length - 1) { stop(); return; }
    slider.value = Number(slider.value) + 1; show();
  }, Number(document.body.dataset.pause));
}
button.addEventListener("click", () => { if (timer === null) { play(); } else { stop(); } });
slider.addEventListener("input", () => { stop(); show(); });
show();
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ css | safe }}</style>
</head>
<body data-pause="{{ pause }}">
<h1>{{ title }}</h1>
<div class="bar">
<button type="button">Play</button>
<input type="range" min="0" max="{{ frames | length - 1 }}" value="0" aria-label="Step">
<output></output>
</div>
<div class="frames">
{% for step, source in frames %}
<img src="{{ source }}" alt="{{ title }}: step {{ step }}" data-step="{{ step }}"
{%- if not loop.first %} hidden{% endif %}>
{% endfor %}
</div>
<script>{{ script | safe }}</script>
</body>
</html>
"""


def player_page(
    title: str, steps: Sequence[int], pngs: Sequence[bytes], frames_per_second: float
) -> str:
    """Return a whole HTML document that shows one picture per step.

    Its policy allows the one script and the one style sheet that it contains, by their digests,
    and nothing from elsewhere.

    Parameters
    ----------
    title
        Of the page; text, never markup.
    steps, pngs
        The numbers of the steps, and a PNG of each.
    frames_per_second
        How fast it plays.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(_CSS)}'; "
        f"script-src 'sha256-{_digest(_SCRIPT)}'; base-uri 'none'; form-action 'none'"
    )
    sources = [f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in pngs]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    return template.render(
        title=printable(title),
        policy=policy,
        css=_CSS,
        script=_SCRIPT,
        frames=list(zip(steps, sources, strict=True)),
        pause=round(1000 / frames_per_second),
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
