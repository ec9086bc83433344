"""The pictures of one layer of one run, or of the difference of two."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bokeh.layouts import column
from bokeh.models import Div

from steptrace_analyzer.plots.layer_arrays import Subject, read, subjects
from steptrace_analyzer.plots.pictures import make_frame, make_image, measured_limits, step_limits
from steptrace_analyzer.plots.subject import layer_classes
from steptrace_analyzer.trace.select import get_tensor
from steptrace_analyzer.view.look import WIDGETS
from steptrace_analyzer.view.page_text import html
from steptrace_analyzer.view.picture_view import PictureView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from steptrace_analyzer.plots.layer_arrays import Slot
    from steptrace_analyzer.plots.pictures import Frame, Image
    from steptrace_analyzer.view.choice import Choice
    from steptrace_analyzer.view.run import Run

    Values = npt.NDArray[np.float64]

_SLOTS: tuple[tuple[Slot, ...], ...] = (
    ("weights", "update", "gradient"),
    ("input", "input_gradient", "output", "backward"),
)
_GRID = (
    ":host { display: grid !important; gap: 1rem; align-items: start; "
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); }"
)
_MOST_READ = 5


@dataclasses.dataclass
class _Shown:
    subject: Subject
    classes: tuple[str, ...]
    frame: Frame | None = None


class Pane:
    """A title and seven pictures, each of which is there where its array is.

    Parameters
    ----------
    name
        Begins the names of its figures in the document.
    on_unit
        Called with the output unit of a weight that is clicked on.
    """

    def __init__(self, name: str, on_unit: Callable[[int], None]) -> None:
        self._title = Div(
            text="", name=f"{name}-title", sizing_mode="stretch_width", stylesheets=[WIDGETS]
        )
        self._name, self._on_unit = name, on_unit
        self._views: dict[Slot, PictureView] = {}
        self._shown: dict[Slot, _Shown] = {}
        self._runs: tuple[Run, ...] = ()
        self._rows = tuple(
            column(children=[], stylesheets=[_GRID], sizing_mode="stretch_width") for _ in _SLOTS
        )
        self.root = column(self._title, *self._rows, sizing_mode="stretch_width")

    def show_layer(self, runs: Sequence[Run], choice: Choice, title: str) -> None:
        """Show a layer: of one run, or of a second one less the first.

        Parameters
        ----------
        runs
            One run, or two for their difference.
        choice
            Layer, variable, step, sample and unit.
        title
            Above the pictures; may be empty.
        """
        self._runs = tuple(runs)
        self._title.text = f"<b>{html(title)}</b>" if title else ""
        self._title.visible = bool(title)
        self._shown.clear()
        self._make_views()
        if choice.layer is not None:
            trace = runs[0].trace
            classes = layer_classes(trace, choice.layer)
            for subject in subjects(trace, choice.layer, choice.variable):
                self._shown[subject.slot] = _Shown(subject, classes)
        for slot, view in self._views.items():
            if slot not in self._shown:
                view.hide()
        self._draw(choice, fresh=True)

    def show_step(self, choice: Choice) -> None:
        """Show another step of the same layer."""
        self._draw(choice, fresh=False)

    def _make_views(self) -> None:
        """Make the figures when they are first needed: it takes longer than all else."""
        if self._views:
            return
        for slots, row in zip(_SLOTS, self._rows, strict=True):
            for slot in slots:
                on_unit = self._on_unit if slot in _SLOTS[0] else None
                self._views[slot] = PictureView(f"{self._name}-{slot}", on_unit)
            row.children = [self._views[slot].root for slot in slots]

    def _draw(self, choice: Choice, *, fresh: bool) -> None:
        for slot, shown in self._shown.items():
            values, missing = self._read(shown.subject, choice)
            begins = fresh or (shown.frame is None and values is not None)
            if begins:
                shown.frame = self._frame(shown, choice, values)
            image: Image | None = None
            if values is not None and shown.frame is not None:
                image = make_image(values, shown.frame, shown.subject, shown.classes)
            if begins:
                self._views[slot].frame(shown.subject.title, shown.frame, image, missing)
            else:
                self._views[slot].show(image, missing)

    def _read(self, subject: Subject, choice: Choice) -> tuple[Values | None, str]:
        found = []
        for run in self._runs:
            values = read(run.rows, subject, choice.step, choice.sample, choice.unit)
            if values is None:
                where = f" of {run.name}" if len(self._runs) > 1 else ""
                return None, f"not recorded at step {choice.step}{where}"
            found.append(values)
        if len(found) == 1:
            return found[0], ""
        before, after = found
        if before.shape != after.shape:
            sizes = [" × ".join(map(str, values.shape)) for values in found]
            return None, f"of another shape in the two runs: {sizes[0]} and {sizes[1]}"
        return _less(after, before), ""

    def _frame(self, shown: _Shown, choice: Choice, values: Values | None) -> Frame | None:
        """Lay the subject out, by the values of this step, or of another one that it has."""
        subject, run = shown.subject, self._runs[0]
        tensor = get_tensor(run.trace, subject.kind, subject.path)
        steps = [int(step) for step in tensor.coords["step"].to_numpy()]
        if values is None:
            values = next(
                (
                    v
                    for step in steps[-1:]
                    if (v := self._at(shown.subject, choice, step)) is not None
                ),
                None,
            )
            if values is None:
                return None
        if len(self._runs) > 1:
            places = {round(i * (len(steps) - 1) / (_MOST_READ - 1)) for i in range(_MOST_READ)}
            some = [*(steps[place] for place in sorted(places)), choice.step]
            limits = measured_limits(
                lambda step: self._at(subject, choice, step), subject, shown.classes, some
            )
        else:
            limits = step_limits(run.trace, run.rows, subject, shown.classes, steps)
        dims = [str(dim) for dim in tensor.dims[1:]]
        if subject.of_sample:
            dims = dims[1:]
        return make_frame(values, subject, dims, shown.classes, limits)

    def _at(self, subject: Subject, choice: Choice, step: int) -> Values | None:
        return self._read(subject, dataclasses.replace(choice, step=step))[0]


def _less(after: Values, before: Values) -> Values:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # infinite less infinite is NaN
        return np.asarray(after - before)
