"""The explorer's page over traces of many kinds, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kinds_of_traces import TRACES
from steptrace_analyzer.plots.subject import read_step
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.view.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

pytest.importorskip("bokeh")

from bokeh.document import Document

from steptrace_analyzer.view.session import Session


def session_of(*traces: xr.DataTree) -> tuple[Session, Any]:
    document = Document()
    runs = [Run(f"run {n}", Path(f"run{n}.zarr"), trace) for n, trace in enumerate(traces)]
    return Session(document, runs), document


def pictures(document: Any, pane: str = "a") -> Iterator[tuple[str, Any]]:
    """Yield slot and values, the first row at the top, of every picture that is shown."""
    for slot in ("weights", "update", "gradient", "input", "input_gradient", "output", "backward"):
        figure = document.get_model_by_name(f"{pane}-{slot}")
        if figure is not None:
            values = figure.renderers[0].data_source.data["value"]
            if len(values):
                yield slot, values[0][::-1]


@pytest.mark.parametrize("name", TRACES)
def test_every_layer_of_every_kind_of_trace_can_be_looked_at(name: str) -> None:
    trace = TRACES[name]()
    session, document = session_of(trace)
    run = session._runs[0]
    steps = run.steps[[0, len(run.steps) // 2, -1]]
    for layer in run.layers[:6]:
        for step in steps:
            session.change(layer=layer, step=int(step))
            session._catch_up()
        session.change(unit=0)
        session._catch_up()
        for kind in ("gradients", "activations", "updates"):
            session.change(kind=kind)
            session._catch_up()
        session.change(unit=None)
        session._catch_up()
    assert session.controls.slider.title == f"Step {steps[-1]}"
    document.validate()
    assert document.to_json()


def test_a_matrix_is_shown_as_it_is() -> None:
    trace = TRACES["small"]()
    session, document = session_of(trace)
    session.change(layer="net/dense", step=2)
    session._catch_up()
    shown = dict(pictures(document))
    for slot, kind in (("weights", "weights"), ("update", "updates"), ("gradient", "gradients")):
        wanted = read_step(trace, kind, "net/dense/kernel", 2)  # type: ignore[arg-type]
        np.testing.assert_allclose(shown[slot], wanted, rtol=1e-6)


def test_runs_whose_layers_have_other_shapes_say_so() -> None:
    first, second = TRACES["small"](), TRACES["dense 512 x 64"]()
    session, _ = session_of(first, second)
    session.change(compare="difference", layer="net/dense")
    session._catch_up()
    view = session._panes[0]._views["weights"]
    assert "of another shape in the two runs: 12 × 5 and 512 × 64" in view._title.text


def test_a_layer_that_only_the_first_run_has_is_not_of_the_second() -> None:
    first, second = TRACES["small"](), TRACES["LSTM"]()
    session, document = session_of(first, second)
    session.change(layer="net/conv")
    session._catch_up()
    assert [slot for slot, _ in pictures(document, "b")] == []
    session.change(first=1, second=0)
    session._catch_up()
    assert session._choice.layer in trace_layers(second)


def trace_layers(trace: xr.DataTree) -> list[str]:
    return [layer.path for layer in trace_attributes(trace).layers]


def test_a_move_that_changes_nothing_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = session_of(TRACES["small"]())
    drawn: list[set[str]] = []
    monkeypatch.setattr(session, "_draw", drawn.append)
    session.change(step=session._choice.step)
    session._catch_up()
    assert drawn == [set()]
    for step in (0, 1, 2):  # moves that arrive together are drawn once
        session.change(step=step)
    session._catch_up()
    assert drawn == [set(), {"step"}]


def test_playing_ends_with_the_last_step_and_begins_again() -> None:
    session, _ = session_of(TRACES["small"]())
    session.change(step=int(session._steps[-1]))
    session._catch_up()
    session.controls.play.active = True
    session._catch_up()
    assert session._choice.step == session._steps[0]
    assert session.controls.play.label == "Pause"
    for _ in session._steps:
        session._next()
        session._catch_up()
    assert session._choice.step == session._steps[-1]
    assert not session.controls.play.active
    assert session._player is None
