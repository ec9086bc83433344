"""The widgets of the page: step and play, runs, layer, variable, sample, unit, kind, findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bokeh.layouts import column, row
from bokeh.models import Button, Div, NumericInput, Select, Slider, Toggle

from steptrace_analyzer.view.choice import nearest
from steptrace_analyzer.view.look import WIDGETS
from steptrace_analyzer.view.page_text import html, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_analyzer.view.choice import Choice
    from steptrace_analyzer.view.run import Run
    from steptrace_schema.names import Kind

_SPEEDS: Final = {"2 a second": 500, "5 a second": 200, "10 a second": 100, "as fast as it can": 30}
_COMPARE: Final = (
    ("one", "one run"),
    ("beside", "side by side"),
    ("difference", "second less first"),
)
_ROW: Final = ":host { flex-wrap: wrap; gap: .6rem; align-items: end; }"
_MOST_FINDINGS: Final = 200


class Controls:
    """Widgets that call `change` with what is chosen, and show what is chosen elsewhere.

    Parameters
    ----------
    runs
        The runs there are.
    change
        Called with fields of :class:`Choice` by their names.
    play
        Called with the milliseconds between two steps to play, and with None to stop.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        change: Callable[..., None],
        play: Callable[[int | None], None],
    ) -> None:
        self._change, self._play = change, play
        self._steps: npt.NDArray[np.int64] | None = None
        self._quiet = False
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "stylesheets": [WIDGETS]}
        plain: dict[str, Any] = {"stylesheets": [WIDGETS]}
        self.slider = Slider(
            start=0, end=1, value=0, step=1, title="Step", show_value=False, name="step", **wide
        )
        self.slider.on_change("value", self._slid)
        self.back = Button(label="◀", width=42, name="back", **plain)
        self.forth = Button(label="▶", width=42, name="forth", **plain)
        self.back.on_click(lambda: self._move(-1))
        self.forth.on_click(lambda: self._move(1))
        self.play = Toggle(label="Play", width=72, name="play", **plain)
        self.play.on_change("active", lambda _a, _o, _n: self._toggle())
        self.speed = Select(
            title="Steps",
            options=list(_SPEEDS),
            value="5 a second",
            width=140,
            name="speed",
            **plain,
        )
        self.speed.on_change("value", lambda _a, _o, _n: self._toggle())
        self.status = Div(text="", name="status", **wide)
        names = [(str(place), shown(run.name, 60)) for place, run in enumerate(runs)]
        self.first = self._select("Run", names, "first", int, width=260)
        self.second = self._select("Second run", names, "second", int, width=260)
        self.compare = self._select("Compare", list(_COMPARE), "compare", str)
        self.layer = self._select("Layer", [], "layer", str, width=260)
        self.variable = self._select("Variable", [], "variable", str)
        self.sample = self._select("Sample", [], "sample", int, width=80)
        self.kind = self._select("Statistics of", [], "kind", str)
        self.unit = NumericInput(
            title="Unit (none: all)", mode="int", low=0, value=None, width=110, name="unit", **plain
        )
        self.unit.on_change("value", lambda _a, _o, new: self._chosen(unit=_whole(new)))
        self.finding = Select(
            title="Go to a finding", options=[("", "looking …")], value="", name="finding", **wide
        )
        self.finding.on_change("value", lambda _a, _o, new: self._to_finding(new))
        # Of one height, so that nothing moves while steps with and without findings pass.
        self.told = Div(text="", name="told", height=84, styles={"overflow": "hidden"}, **wide)
        self._findings: Sequence[Finding] = ()
        several = len(runs) > 1
        self._runs_row = row(
            self.first,
            self.compare,
            self.second,
            stylesheets=[_ROW],
            sizing_mode="stretch_width",
            visible=several,
        )
        self.roots: dict[str, Any] = {
            "runs_bar": self._runs_row,
            "step_bar": column(
                row(
                    self.back,
                    self.play,
                    self.forth,
                    self.speed,
                    stylesheets=[_ROW],
                    sizing_mode="stretch_width",
                ),
                self.slider,
                self.status,
                sizing_mode="stretch_width",
            ),
            "layer_bar": row(
                self.layer,
                self.variable,
                self.sample,
                self.unit,
                self.kind,
                stylesheets=[_ROW],
                sizing_mode="stretch_width",
            ),
            "finding_bar": column(self.finding, self.told, sizing_mode="stretch_width"),
        }

    # What the session shows

    def show_step(self, choice: Choice, steps: npt.NDArray[np.int64], runs: Sequence[Run]) -> None:
        """Show the step that is chosen, and how many there are."""
        self._steps = steps
        self._quiet = True
        try:
            count = len(steps)
            place = nearest(steps, choice.step)
            self.slider.update(end=max(count - 1, 1), value=place, disabled=count < 2)
            self.slider.title = f"Step {choice.step}"
            last = int(steps[-1]) if count else 0
            said = f"{place + 1:,} of {count:,} recorded steps, the last one is {last:,}"
            first = runs[0]
            if first.loss is not None:
                at = first.loss.steps.searchsorted(choice.step)
                if at < first.loss.steps.size and first.loss.steps[at] == choice.step:
                    said += f" · loss {first.loss.loss[at]:.4g}"
            if any(run.is_recording for run in runs):
                said += " · <b>recording</b>"
            self.status.text = said
            self.first.value, self.second.value = str(choice.first), str(choice.second)
            self.compare.value = choice.compare
            told = [f for f in self._findings if f.first_step <= choice.step <= f.last_step]
            self.told.text = "".join(f'<p class="told">{html(f.explanation)}</p>' for f in told[:1])
        finally:
            self._quiet = False

    def show_layer(
        self,
        choice: Choice,
        *,
        layers: Sequence[str] = (),
        variables: Sequence[str],
        samples: int,
        units: int,
        kinds: Sequence[Kind],
    ) -> None:
        """Show what is chosen of a layer, and what else there is."""
        self._quiet = True
        try:
            if layers:
                self.layer.options = [(path, shown(path, 60)) for path in layers]
            self.layer.value = choice.layer or ""
            inside = f"{choice.layer}/"
            self.variable.options = [(p, shown(p.removeprefix(inside), 60)) for p in variables]
            self.variable.update(value=choice.variable or "", visible=len(variables) > 1)
            self.sample.options = [(str(n), str(n)) for n in range(samples)]
            self.sample.update(value=str(choice.sample), visible=samples > 1)
            self.kind.options = [(kind, kind.replace("_", " ")) for kind in kinds]
            self.kind.value = choice.kind
            self.unit.update(high=max(units - 1, 0), value=choice.unit, visible=units > 1)
        finally:
            self._quiet = False

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """List what was found."""
        self._findings = findings
        listed = [
            (str(place), shown(f"step {f.first_step}, {f.severity}: {f.explanation}", 140))
            for place, f in enumerate(findings[:_MOST_FINDINGS])
        ]
        head = f"{len(findings)} findings" if findings else "nothing unusual was found"
        self.finding.options = [("", head), *listed]

    def is_last(self, step: int) -> bool:
        """Whether a step is the last one of those that are shown."""
        return self._steps is None or not self._steps.size or step >= self._steps[-1]

    def stop(self) -> None:
        """Stop playing."""
        self.play.active = False

    # What the user does

    def _select(
        self, title: str, options: list[tuple[str, str]], field: str, as_: Any, width: int = 150
    ) -> Select:
        select = Select(
            title=title, options=options, name=field, width=width, stylesheets=[WIDGETS]
        )
        select.on_change("value", lambda _a, _o, new: self._chosen(**{field: as_(new)}))
        return select

    def _chosen(self, **wanted: Any) -> None:
        if not self._quiet:
            self._change(**wanted)

    def _slid(self, _attribute: str, _old: object, new: float) -> None:
        if not self._quiet and self._steps is not None and self._steps.size:
            self._change(step=int(self._steps[min(int(new), self._steps.size - 1)]))

    def _move(self, by: int) -> None:
        if self._steps is not None and self._steps.size:
            place = int(self.slider.value) + by
            if 0 <= place < self._steps.size:
                self._change(step=int(self._steps[place]))

    def _toggle(self) -> None:
        self.play.label = "Pause" if self.play.active else "Play"
        self._play(_SPEEDS[str(self.speed.value)] if self.play.active else None)

    def _to_finding(self, value: str) -> None:
        if value and int(value) < len(self._findings):
            finding = self._findings[int(value)]
            self._change(step=finding.first_step, **_layer_of(finding))
            self.finding.value = ""


def _layer_of(finding: Finding) -> dict[str, str]:
    """Return the layer of the tensor that a finding names, as a field of the choice."""
    if finding.tensor is None:
        return {}
    _, _, path = finding.tensor.partition("/")
    layer = path.rpartition("/")[0]
    return {"layer": layer} if layer else {}


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
