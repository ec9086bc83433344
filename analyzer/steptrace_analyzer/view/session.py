"""One page in one browser: what is chosen, and the views that follow it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.layouts import column

from steptrace_analyzer.plots.layer_arrays import layer_variables, sample_count, unit_count
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.view.activation_view import ActivationView
from steptrace_analyzer.view.choice import Choice, all_steps, nearest
from steptrace_analyzer.view.controls import Controls
from steptrace_analyzer.view.flow_view import FlowView
from steptrace_analyzer.view.look import BESIDE
from steptrace_analyzer.view.loss_view import LossView
from steptrace_analyzer.view.pane import Pane
from steptrace_analyzer.view.run import newer
from steptrace_analyzer.view.statistics_view import StatisticsView, described

if TYPE_CHECKING:
    from bokeh.document import Document

    from steptrace_analyzer.view.run import Run
    from steptrace_schema.names import Kind

_LOOK_AGAIN: Final = 1000  # milliseconds between two looks at a run that is recorded


class Session:
    """Builds the page's figures in a document and keeps them in step with what is chosen.

    Parameters
    ----------
    document
        Of bokeh; its roots are named as the page's template names them.
    runs
        The runs to look at; replaced as those that are recorded grow. Shared by all pages.
    """

    def __init__(self, document: Document, runs: list[Run]) -> None:
        self._document = document
        self._runs = runs
        self._seen = list(runs)
        first = runs[0]
        layer = first.first_layer
        self._choice = Choice(
            second=1 if len(runs) > 1 else 0,
            compare="beside" if len(runs) == 2 else "one",
            step=first.last_step,
            layer=layer,
        )
        self._pending = False
        self._stale: set[str] = set()
        self._player: Any = None
        self.controls = Controls(runs, self.change, self._play)
        self._loss = LossView(runs, self._go_to)
        self._flow = FlowView(lambda path: self.change(layer=path))
        self._statistics = StatisticsView(self._loss.figure.x_range)
        self._panes = tuple(Pane(name, lambda unit: self.change(unit=unit)) for name in ("a", "b"))
        self._activations = ActivationView("activation")
        self._choose_layer(layer)
        if runs[0].findings_known:
            self._show_findings()
        self._draw({"runs", "layer", "step"})
        document.title = f"{model_name(first.trace)} · steptrace"
        roots = {
            **self.controls.roots,
            "loss_card": self._loss.root,
            "flow_card": self._flow.root,
            "panes": column(
                [pane.root for pane in self._panes],
                stylesheets=[BESIDE],
                sizing_mode="stretch_width",
            ),
            "activation_card": self._activations.root,
            "statistics_card": self._statistics.root,
        }
        for name, root in roots.items():
            root.name = name
            document.add_root(root)
        document.add_next_tick_callback(self._find)
        if any(run.is_recording for run in runs):
            document.add_periodic_callback(self._follow, _LOOK_AGAIN)

    # What is chosen

    def change(self, **wanted: Any) -> None:
        """Choose something else; the figures follow once all that came in has been taken in."""
        before = self._choice
        layers = self._runs[wanted.get("first", before.first)].layers
        if wanted.get("layer", before.layer) not in layers:  # such as a finding's, of no layer
            wanted["layer"] = before.layer if before.layer in layers else next(iter(layers), None)
        after = dataclasses.replace(before, **wanted)
        if after == before:
            return
        self._choice = after
        if (after.first, after.second, after.compare) != (
            before.first,
            before.second,
            before.compare,
        ):
            self._stale |= {"runs", "layer", "step"}
        if after.layer != before.layer:
            self._choose_layer(after.layer)
            self._stale |= {"layer", "step"}
        if (after.variable, after.sample, after.unit, after.kind) != (
            before.variable,
            before.sample,
            before.unit,
            before.kind,
        ):
            self._stale |= {"layer", "step"}
        if after.step != before.step:
            self._stale.add("step")
        if not self._pending:
            # Moves of the slider that arrive while a step is drawn become one.
            self._pending = True
            self._document.add_next_tick_callback(self._catch_up)

    def _go_to(self, step: int) -> None:
        steps = self._steps
        if steps.size:
            self.change(step=int(steps[nearest(steps, step)]))

    @property
    def _steps(self) -> Any:
        return all_steps([self._runs[place].steps for place in self._choice.runs])

    @property
    def _shown(self) -> list[Run]:
        return [self._runs[place] for place in self._choice.runs]

    def _choose_layer(self, layer: str | None) -> None:
        """Choose the layer's first variable, and a sample, unit and kind that it has."""
        trace = self._runs[self._choice.first].trace
        names = layer_variables(trace, layer) if layer is not None else []
        kinds = described(trace, layer) if layer is not None else {}
        usual: Kind = "weights"
        kind = self._choice.kind if self._choice.kind in kinds else next(iter(kinds), usual)
        samples = sample_count(trace, layer) if layer is not None else 1
        self._choice = dataclasses.replace(
            self._choice,
            layer=layer,
            variable=names[0] if names else None,
            unit=None,
            kind=kind,
            sample=min(self._choice.sample, samples - 1),
        )

    # Drawing

    def _catch_up(self) -> None:
        self._pending = False
        stale, self._stale = self._stale, set()
        self._document.hold("combine")
        try:
            self._draw(stale)
        finally:
            self._document.unhold()

    def _draw(self, stale: set[str]) -> None:
        choice, runs = self._choice, self._shown
        if "runs" in stale:
            self._loss.show_runs(runs)
            self._flow.show_flow(runs[0].flow)
        if "layer" in stale:
            trace, layer = runs[0].trace, choice.layer
            self.controls.show_layer(
                choice,
                layers=runs[0].layers,
                variables=layer_variables(trace, layer) if layer else [],
                samples=sample_count(trace, layer) if layer else 1,
                units=unit_count(trace, layer, choice.variable) if layer else 0,
                kinds=list(described(trace, layer)) if layer else [],
            )
            self._flow.show_layer(layer)
            self._draw_panes()
            if layer is not None:
                self._activations.show_layer(runs, layer)
                paths = described(trace, layer).get(choice.kind, [])
                path = choice.variable if choice.variable in paths else next(iter(paths), None)
                self._statistics.show_tensor(runs, choice.kind, path)
        if "runs" in stale or "step" in stale:
            self._loss.show_step(choice.step)
            self._statistics.show_step(choice.step)
            self._flow.show_step(choice.step)
            if choice.layer is not None:
                self._activations.show_step(runs, choice.layer, choice.step, choice.unit)
            if "layer" not in stale:
                for pane in self._panes[: 2 if choice.compare == "beside" else 1]:
                    pane.show_step(choice)
            # The last one: whoever sees the step's number there has the figures of the step.
            self.controls.show_step(choice, self._steps, runs)

    def _draw_panes(self) -> None:
        choice, runs = self._choice, self._shown
        first, second = self._panes
        second.root.visible = choice.compare == "beside"
        if choice.compare == "difference":
            first.show_layer(runs, choice, f"{runs[1].name} less {runs[0].name}")
            return
        first.show_layer(runs[:1], choice, runs[0].name if len(runs) > 1 else "")
        if choice.compare == "beside":
            second.show_layer(runs[1:], choice, runs[1].name)

    # Playing

    def _play(self, milliseconds: int | None) -> None:
        if self._player is not None:
            self._document.remove_periodic_callback(self._player)
            self._player = None
        if milliseconds is None:
            return
        if self._steps.size and self._choice.step >= self._steps[-1]:
            self.change(step=int(self._steps[0]))
        self._player = self._document.add_periodic_callback(self._next, milliseconds)

    def _next(self) -> None:
        steps = self._steps
        place = int(np.searchsorted(steps, self._choice.step, side="right"))
        if self._pending:  # the last step is still being drawn
            return
        if place >= steps.size:
            self.controls.stop()
            return
        self.change(step=int(steps[place]))

    # What takes longer: findings, and runs that grow

    async def _find(self) -> None:
        for run in dict.fromkeys(self._runs):
            await asyncio.to_thread(getattr, run, "findings")
            self._document.add_next_tick_callback(self._show_findings)

    def _show_findings(self) -> None:
        run = self._runs[self._choice.first]
        if run.findings_known:
            self._loss.show_findings(run, run.findings)
            self.controls.show_findings(run.findings)

    async def _follow(self) -> None:
        grown = False
        for place, run in enumerate(self._runs):
            now = await asyncio.to_thread(newer, run)
            if now is not None:
                self._runs[place] = now
        for place, run in enumerate(self._runs):
            grown |= run is not self._seen[place]
        self._seen = list(self._runs)
        if grown:
            self._document.add_next_tick_callback(self._grow)

    def _grow(self) -> None:
        was_last = self.controls.is_last(self._choice.step)
        if self._choice.layer is None:
            self._choose_layer(self._runs[self._choice.first].first_layer)
        self._stale |= {"runs", "layer", "step"}
        steps = self._steps
        if was_last and steps.size:
            self._choice = dataclasses.replace(self._choice, step=int(steps[-1]))
        self._catch_up()
        if not any(run.is_recording for run in self._runs):
            self._document.add_next_tick_callback(self._find)
