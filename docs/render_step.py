"""Draw docs/images/step.svg: the way of one step from the training to a report.

Run ``python docs/render_step.py`` after a change of the boxes; a test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_name("images") / "step.svg"

WIDTH, HEIGHT = 980, 560
_BOX, _LINE = 76, 20

_STYLE = """
  .page { fill: #ffffff } .lane { fill: #f3f5f8; stroke: #d5dae1 }
  text, tspan { font: 14px system-ui, sans-serif; fill: #1c2430 }
  .title { font-weight: 600 } .note { font-size: 12.5px; font-weight: 400; fill: #4b5666 }
  .room { font: 12.5px ui-monospace, monospace; fill: #0b5cad }
  .code { fill: #ffffff; stroke: #5b6b80 } .disk { fill: #fff3d6; stroke: #a87400 }
  .arrow { stroke: #33415c; stroke-width: 1.8; fill: none } .head { fill: #33415c }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .lane { fill: #161c25; stroke: #303a48 }
    text, tspan { fill: #e6edf3 } .note { fill: #a9b4c2 } .room { fill: #7fbcff }
    .code { fill: #202938; stroke: #8494aa } .disk { fill: #3d3113; stroke: #d9a72e }
    .arrow { stroke: #b9c6d8 } .head { fill: #b9c6d8 }
  }"""


class Box(NamedTuple):
    """One station of a step: its title, the rooms that do it, and a remark."""

    x: int
    y: int
    width: int
    title: str
    rooms: str
    note: str
    style: str = "code"

    def draw(self) -> str:
        """Return the box as SVG."""
        middle = self.x + self.width // 2
        lines = [("title", self.title), ("room", self.rooms), ("note", self.note)]
        shown = [(name, text) for name, text in lines if text]
        first = self.y + (_BOX - _LINE * len(shown)) // 2 + 15
        texts = "".join(
            f'<text class="{name}" x="{middle}" y="{first + _LINE * number}" '
            f'text-anchor="middle">{escape(text)}</text>'
            for number, (name, text) in enumerate(shown)
        )
        return (
            f'<rect class="{self.style}" x="{self.x}" y="{self.y}" width="{self.width}" '
            f'height="{_BOX}" rx="6"/>{texts}'
        )


LANES = (
    (16, 168, "Training process", "tracer, with TensorFlow"),
    (196, 168, "Recorder process", "schema, low priority, without TensorFlow"),
    (376, 168, "Any machine, any time", "analyzer, without TensorFlow"),
)
"""Top, height, name and remark of each lane."""

BOXES = (
    Box(36, 76, 180, "training step", "", "fit, or a custom loop"),
    Box(266, 76, 200, "taps", "capture/", "outputs, gradients, weights"),
    Box(516, 76, 180, "arrays of one step", "record/", "in a thread"),
    Box(746, 76, 200, "journal", "journal/", "a slot for each step", "disk"),
    Box(746, 256, 200, "a shard of steps", "moving/", "one array at a time"),
    Box(516, 256, 180, "statistics", "statistics/", "norms, percentiles"),
    Box(266, 256, 200, "chunks", "encoding/", "lossless, with checksums"),
    Box(36, 256, 180, "store", "store/ storage/", "Zarr v3, disk or s3://", "disk"),
    Box(36, 436, 180, "open_trace", "trace/", "store and journal together"),
    Box(266, 436, 200, "results", "anomalies/ differences/", "small dataclasses"),
    Box(516, 436, 180, "figures", "plots/", "matplotlib"),
    Box(746, 436, 200, "command line, report", "cli/ report/", "tables, JSON, one HTML page"),
)

ARROWS = (
    "M216 114 H260",
    "M466 114 H510",
    "M696 114 H740",
    "M846 152 V250",
    "M746 294 H702",
    "M516 294 H472",
    "M266 294 H222",
    "M126 332 V430",
    "M216 474 H260",
    "M466 474 H510",
    "M696 474 H740",
)


def render() -> str:
    """Return the picture."""
    lanes = "\n".join(
        f'<rect class="lane" x="16" y="{top}" width="{WIDTH - 32}" height="{height}" rx="8"/>'
        f'<text class="title" x="266" y="{top + 32}">{escape(name)}'
        f'<tspan class="note" dx="14">{escape(note)}</tspan></text>'
        for top, height, name, note in LANES
    )
    arrows = "\n".join(
        f'<path class="arrow" d="{path}" marker-end="url(#head)"/>' for path in ARROWS
    )
    boxes = "\n".join(box.draw() for box in BOXES)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>The way of a step: training, taps, journal, recorder, store, analyzer</title>
<style>{_STYLE}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7"
 orient="auto"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>
<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>
{lanes}
{arrows}
{boxes}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(render(), encoding="utf-8")
