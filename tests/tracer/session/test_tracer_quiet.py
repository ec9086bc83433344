"""What is printed when a trace is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keras_models import mlp, vectors
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


def printed(path: Path, capsys: pytest.CaptureFixture[str], *, progress: bool) -> list[list[str]]:
    """Return the lines that each of two fits with one tracer prints."""
    model, tracer, (x, y) = mlp(), Tracer(path, on_error="raise", progress=progress), vectors(8)
    found = []
    for _ in range(2):
        model.fit(x, y, verbose=0, callbacks=[tracer])
        said = capsys.readouterr()
        assert said.out == ""
        found.append(said.err.splitlines())
    return found


def test_several_fits_say_one_line_each_after_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = printed(tmp_path / "run.zarr", capsys, progress=True)
    assert "steptrace info" in first[-1]
    assert any(line.startswith("  the first step took ") for line in first)
    assert [line.partition(" in ")[0] for line in second] == ["steptrace: 1 steps recorded"]


@pytest.mark.parametrize("progress", [True, False])
def test_a_quiet_recording_prints_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    progress: bool,
) -> None:
    monkeypatch.setenv("STEPTRACE_QUIET", "1" if progress else "")
    assert printed(tmp_path / "run.zarr", capsys, progress=progress) == [[], []]
