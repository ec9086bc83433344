from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from plot_traces import small_trace
from steptrace_analyzer.plots import plot_loss, save_figure
from steptrace_analyzer.report import write_report
from steptrace_analyzer.trace.packing import pack, unpack
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITERS: dict[str, Callable[[Path, Any], object]] = {
    "report": lambda trace, output: write_report(trace, output),
    "figure": lambda _, output: save_figure(plot_loss(small_trace()), output),
    "pack": lambda trace, output: pack(trace, output, overwrite=True),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_output_that_is_a_folder_is_refused_with_a_file_in_it(
    write: Callable[[Path, Any], object], healthy_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run.svg.zip"
    folder.mkdir()
    with pytest.raises(TraceError, match=f"{folder} is a folder; give a file in it, such as"):
        write(healthy_path, folder)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_output_that_is_an_address_is_refused(
    write: Callable[[Path, Any], object],
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TraceError, match="is an address; give a local path"):
        write(healthy_path, "s3://bucket/run.svg.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_is_not_unpacked_into_an_address(healthy_path: Path, tmp_path: Path) -> None:
    packed = pack(healthy_path, tmp_path / "run.zarr.zip")
    with pytest.raises(TraceError, match="is an address; give a local path"):
        unpack(packed, "s3://bucket/run.zarr")
