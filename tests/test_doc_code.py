"""Every Python block of the documents runs, in order, on a small training and its traces."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]

STEPS = 50
"""Of the training: five epochs of ten batches."""

BAD_SAMPLE = 200
"""A sample of the seventh batch that is a thousand times too large."""

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^ *(?:```|~~~)(.*)$", re.MULTILINE)


def _documents() -> list[str]:
    """Return every Markdown file of the project with a fence, by its path."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.md")]
    found = {f.relative_to(ROOT).as_posix() for f in files if _FENCE.search(f.read_text("utf-8"))}
    return sorted(name for name in found if not name.startswith("."))


DOCUMENTS = _documents()


def _blocks(document: str) -> list[tuple[int, str]]:
    """Return the first line and the code of each Python block."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)) + 1, m.group(1)) for m in _BLOCK.finditer(text)]


def _training() -> dict[str, Any]:
    """Return what the documents take for granted: a model, its data, a loop, one bad sample."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(320, 6)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    x[BAD_SAMPLE] *= 1000

    def build_model() -> Any:
        keras.utils.set_random_seed(0)
        layers = [
            keras.Input((6,)),
            keras.layers.Dense(5, "relu", name="dense"),
            keras.layers.Dense(3, name="dense_1"),
        ]
        model = keras.Sequential(layers, name="sequential")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-4), loss, metrics=["accuracy"])
        return model

    model = build_model()

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        weights = model.trainable_weights
        model.optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    return {
        "model": model,
        "build_model": build_model,
        "x": x,
        "y": y,
        "batches": [(tf.constant(x[i : i + 32]), tf.constant(y[i : i + 32])) for i in (0, 32, 64)],
        "train_step": train_step,
        "temperature": 0.7,
    }


def _lines_not_run(code: str, document: Path, names: dict[str, Any]) -> list[int]:
    """Run `code`, and return the lines of its statements that were not run, as in empty loops."""
    tree = ast.parse(code)
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    ran: set[int] = set()
    for node in list(ast.walk(tree)):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                marked = [(ast.parse(f"_ran({s.lineno})").body[0], s) for s in block]
                setattr(node, field, [statement for pair in marked for statement in pair])
    names["_ran"] = ran.add
    exec(compile(tree, str(document), "exec"), names)
    return sorted(lines - ran)


def _record(name: str, names: dict[str, Any], x: Any) -> None:
    from steptrace_tracer import Tracer

    model = names["build_model"]()
    model.fit(x, names["y"], epochs=5, verbose=0, shuffle=False, callbacks=[Tracer(name)])


def _readme(names: dict[str, Any]) -> None:
    trace = names["trace"]
    assert isinstance(trace, xr.DataTree)
    assert trace["scalars"].sizes["step"] == STEPS
    assert names["kernel"].dims == ("step", "in", "out")
    kernel = names["kernel"].values
    np.testing.assert_array_equal(names["update"].values, kernel[1:] - kernel[:-1])
    loop = xr.open_datatree("loop.zarr", engine="zarr")
    assert np.asarray(loop["scalars/step"]).tolist() == [STEPS, STEPS + 1, STEPS + 2]
    assert np.asarray(loop["logged/temperature"]).tolist() == pytest.approx([0.7] * 3)


def _tracer(names: dict[str, Any]) -> None:
    steps = {
        name: xr.open_datatree(name, engine="zarr")["gradients/sequential/dense/kernel"].sizes
        for name in ("run.zarr", "tenth.zarr", "no-bias.zarr", "loop.zarr")
    }
    assert {name: sizes["step"] for name, sizes in steps.items()} == {
        "run.zarr": 10,
        "tenth.zarr": 1,
        "no-bias.zarr": 10,
        "loop.zarr": 9,
    }
    gradients = xr.open_datatree("no-bias.zarr", engine="zarr")["gradients/sequential/dense"]
    assert set(gradients.data_vars) == {"kernel"}


def _analyzer(names: dict[str, Any]) -> None:
    shown = "  # " + str(names["result"].first_difference)
    assert shown in (ROOT / "analyzer" / "README.md").read_text(encoding="utf-8")
    assert names["trace"]["scalars"].sizes["step"] == STEPS


def _diagnosis(names: dict[str, Any]) -> None:
    from steptrace_analyzer.anomalies.registry import _registered

    del _registered["loud_loss"]
    assert 16 in {finding.first_step for finding in names["found"].findings}
    assert 6 in [finding.first_step for finding in names["loud"].findings]


WITHOUT_TRACE = frozenset({"README.md", "tracer/README.md"})
"""Documents that record ``run.zarr`` themselves; the others find it there."""

CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": _readme,
    "tracer/README.md": _tracer,
    "analyzer/README.md": _analyzer,
    "docs/diagnosis.md": _diagnosis,
}
"""What a document's code must have done; every document with code has one."""


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if _blocks(name)])
def test_the_code_of_a_document_runs_in_its_order(
    document: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _training()
    healthy = names["x"].copy()
    healthy[BAD_SAMPLE] /= 1000
    _record("other.zarr", names, healthy)
    if document not in WITHOUT_TRACE:
        _record("run.zarr", names, names["x"])
    capsys.readouterr()
    for line, code in _blocks(document):
        padded = "\n" * (line - 1) + code  # so that a traceback shows the document's line
        assert _lines_not_run(padded, ROOT / document, names) == []
    CHECKS[document](names)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_block_of_a_document_is_in_a_form_that_would_be_skipped(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    opening = _FENCE.findall(text)[::2]
    assert {name.strip() for name in opening} <= {"python", "json", "mermaid"}
    assert len(_blocks(document)) == sum(name == "python" for name in opening)


def test_the_readmes_have_code() -> None:
    assert {"README.md", "tracer/README.md", "analyzer/README.md"} <= {
        name for name in DOCUMENTS if _blocks(name)
    }
    assert set(CHECKS) == {name for name in DOCUMENTS if _blocks(name)}


def test_the_readme_begins_with_two_commands_for_a_fresh_machine() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Two commands\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.+)$", section, re.MULTILINE)
    assert commands == [
        'pip install ".[tensorflow]" && steptrace demo',
        'pip install ".[dev]" && pytest',
    ]
    assert "```" not in text.partition("## Two commands\n")[0]


def test_a_loop_that_is_never_entered_is_a_line_that_was_not_run() -> None:
    code = "n = 0\nfor step in ():\n    n += 1\n"
    assert _lines_not_run(code, ROOT / "page.md", {}) == [3]
    assert _lines_not_run(code.replace("()", "(1,)"), ROOT / "page.md", {}) == []
