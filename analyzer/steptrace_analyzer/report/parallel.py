"""Drawing the layers of a trace in several processes: matplotlib draws in one thread only."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from steptrace_analyzer.report.layers import layer_figures
from steptrace_analyzer.trace.open import open_trace

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import xarray as xr

    from steptrace_analyzer.report.contents import Figures, StepChoices
    from steptrace_schema.storage.location import Location

_opened: list[xr.DataTree] = []  # one in each process that draws


def draw_layers(
    path: Location, layers: Sequence[str], choices: StepChoices, workers: int
) -> Generator[tuple[Figures, ...]]:
    """Yield the figures of each layer, in order, drawn ahead in `workers` processes.

    When the iterator is closed, what is not begun is not drawn.
    """
    # Not fork: dask's threads are running.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(layers)), mp_context=context, initializer=_open, initargs=(path,)
    )
    try:
        for future in [pool.submit(_draw, layer, choices) for layer in layers]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _open(path: Location) -> None:
    _opened.append(open_trace(path))


def _draw(layer: str, choices: StepChoices) -> tuple[Figures, ...]:
    return layer_figures(_opened[0], layer, choices)
