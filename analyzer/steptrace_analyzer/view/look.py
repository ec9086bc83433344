"""How the page looks: colours of figures and widgets, in light and in dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bokeh.plotting import figure

FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'

WIDGETS: Final = """
:host { color: var(--text); font-family: inherit !important; font-size: .85rem !important; }
.bk-input, .bk-btn, select, input {
  background-color: var(--card) !important; color: var(--text) !important;
  border-color: var(--line) !important; font: inherit; min-height: 2rem;
}
.bk-btn:hover { border-color: var(--accent) !important; }
.bk-btn.bk-active { background-color: var(--accent) !important;
  color: var(--on-accent) !important; }
.bk-input:focus, .bk-btn:focus-visible, .noUi-handle:focus-visible {
  outline: 3px solid var(--focus); outline-offset: 1px; box-shadow: none;
}
select { appearance: auto !important; background-image: none !important; }
label, .bk-slider-title { color: var(--soft); font-size: .85rem; }
.noUi-target, .noUi-base, .noUi-connects { background: var(--line) !important; border: 0;
  box-shadow: none; }
.noUi-connect { background: var(--accent) !important; }
.noUi-handle { background: var(--accent) !important; border: 2px solid var(--card) !important;
  border-radius: 50%; box-shadow: none; }
.noUi-handle::before, .noUi-handle::after { display: none; }
.bk-clearfix { overflow-wrap: anywhere; display: block !important; width: 100%; }
b { font-weight: 600; }
i { color: var(--soft); }
small { color: var(--soft); font-size: .8rem; }
.scale { display: flex; gap: .5rem; align-items: center; font-size: .8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.scale .bar { flex: 1; height: .5rem; border-radius: .25rem; min-width: 3rem; }
.told { border-left: .3rem solid #e69f00; background: var(--finding); padding: .4rem .7rem;
  border-radius: .3rem; margin: 0 0 .3rem; }
"""
"""Of what is no canvas on the page; the variables are those of ``report/colours.css``."""


BESIDE: Final = (
    ":host { display: grid !important; gap: 1.5rem; align-items: start; "
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }"
)
"""Of what stands beside each other where there is room."""


BARE: Final[dict[str, Any]] = {
    "toolbar_location": "above",
    "toolbar_inner": True,  # else the figures keep a row free for it
    "background_fill_color": None,
    "border_fill_color": None,
    "outline_line_color": None,
}
"""Of a plot that stands on the page as a picture does."""


def quiet_figure(made: figure) -> figure:
    """Give a figure the look of the page: its colours follow the theme by the page's variables."""
    made.toolbar.update(logo=None, autohide=True)
    made.update(**BARE)
    for axis in (*made.xaxis, *made.yaxis):
        _quiet_axis(axis)
    for grid in made.grid:
        grid.grid_line_color = "#8a949e"
        grid.grid_line_alpha = 0.25
    return made


def _quiet_axis(axis: Any) -> None:
    axis.axis_line_color = None
    axis.minor_tick_line_color = None
    axis.major_tick_line_color = None
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_text_font = axis.major_label_text_font = FONT
    axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    axis.axis_label_standoff = 4
