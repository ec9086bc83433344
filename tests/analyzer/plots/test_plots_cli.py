from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from steptrace_analyzer.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VIEWS = ("loss", "weights", "parameters", "activations", "gradients", "maps")


@pytest.mark.parametrize(
    ("view", "name"),
    [
        ("loss", "run-loss.png"),
        ("weights", "run-weights-dense-step59.png"),
        ("parameters", "run-parameters-dense-step59.png"),
        ("activations", "run-activations-dense.png"),
        ("gradients", "run-gradients.png"),
        ("maps", "run-maps-dense-step59.png"),
    ],
)
def test_a_view_without_options_writes_a_file_named_after_what_it_shows(
    view: str,
    name: str,
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", view, str(healthy_path), "--dpi", "40"]) == 0
    assert capsys.readouterr().out == f"{name}\n"
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_step_of_the_biggest_anomaly_can_be_asked_for(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = write_run(input_scale={37: 100.0})
    assert run(["plot", "weights", str(trace), "--step", "anomaly", "--dpi", "40"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run-weights-dense-step37.png"]


def test_layer_step_and_output_are_followed(healthy_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "weights.svg"
    arguments = ["plot", "weights", str(healthy_path), "--layer", "dense_1", "--step", "-2"]
    assert run([*arguments, "-o", str(output)]) == 0
    assert "<!-- sequential · step 59 · sequential/dense_1 -->" in output.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss", "-o", "loss.gif"], "end the name in .png, .svg or .pdf"),
        (["weights", "--step", "99"], "step 99 of 'kernel' is not recorded; recorded are 0-60"),
        (["weights", "--step", "soon"], "'soon' is not a step; give a step's number"),
        (["weights", "--layer", "dens"], "did you mean"),
        (["parameters", "--step", "60"], "recorded are 0-59"),
        (["activations", "--layer", "dense_1"], "layers with one are sequential/dense"),
        (["maps", "--sample", "4"], "recorded are samples 0 to 3"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    arguments: list[str],
    message: str,
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    view, *options = arguments
    assert run(["plot", view, str(healthy_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_asking_for_an_anomaly_where_there_is_none_is_refused(
    healthy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plot", "weights", str(healthy_path), "--step", "anomaly"]) == 2
    assert "nothing unusual was found in run.zarr" in capsys.readouterr().err


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_help_with_an_example(view: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plot", view, "--help"]) == 0
    assert f"steptrace plot {view} run.zarr" in capsys.readouterr().out


def test_the_commands_are_imported_without_what_draws() -> None:
    code = (
        "import sys, steptrace_analyzer.cli.plot, steptrace_analyzer.cli.report\n"
        "print(sorted({'matplotlib', 'xarray', 'dask', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
