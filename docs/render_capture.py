"""Write docs/capture.md: what is captured in which way of training, and which test shows it.

Run ``python docs/render_capture.py`` after a change of tests/capture_matrix.py; a test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).with_name("capture.md")
TESTS = Path(__file__).parents[1] / "tests"

_HEAD = """# What is captured, whatever the training looks like

Generated from the tests by `python docs/render_capture.py`. Every row is a test that trains twice,
with and without the tracer, from one seed, and finds all weights bit-identical (column
*unchanged*), and that compares what was recorded with a separate computation: a second gradient
tape, NumPy, or a formula; a resumed run is compared with one that was never interrupted. "no" has
its reason below the table.

Validation losses, values logged by `tracer.log`, per-sample losses, sample weights and ids come
from callbacks and from the loss rather than from how the step runs;
`tests/tracer/capture/test_tracer_kinds.py` compares them, compiled, eagerly and with XLA. What a
policy leaves out or rounds is compared in `tests/tracer/session/test_tracer_policy.py`. The same is
done for the statistics of every sample in `tests/tracer/session/test_tracer_sample_statistics.py`,
for steps that loss scaling skips in `tests/tracer/capture/test_tracer_loss_scale.py`, and for steps
that are kept as a whole in `tests/tracer/session/test_tracer_incidents.py`.

"""


def render() -> str:
    """Return the page."""
    sys.path.insert(0, str(TESTS))
    from capture_matrix import COLUMNS, ROWS

    reasons: dict[str, int] = {}
    lines = [
        "| training | unchanged | " + " | ".join(f"`{kind}`" for kind in COLUMNS) + " |",
        "| --- " * (len(COLUMNS) + 2) + "|",
    ]
    for row in ROWS:
        cells = []
        for kind in COLUMNS:
            reason = row.lacks.get(kind)
            number = reasons.setdefault(reason, len(reasons) + 1) if reason else 0
            cells.append(f"no ({number})" if reason else "yes")
        test = row.test.partition("::")[0]
        lines.append(f"| [{row.style}](../tests/tracer/{test}) | yes | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}." for reason, number in reasons.items()]
    return _HEAD + "\n".join([*lines, "", "Why not:", "", *notes, ""])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
