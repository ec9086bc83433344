"""Every command of the analyzer as on Windows, with layers of names that it cannot have."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from other_system import CODE
from steptrace_analyzer.cli.app import _COMMANDS
from steptrace_analyzer.cli.plot import app as plot_app
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.paths import unique_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.long

LAYERS: Final = ("con/a:b.", "nul.\\back\\" + "n" * 260)
"""Names of layers that are no names of files on Windows, and as paths longer than any there."""

COMMANDS: Final = (
    "info {0}/run.zarr",
    "info {0}/run.zarr.zip --json",
    "info {0}/killed.zarr",
    "validate {0}/run.zarr",
    "validate {0}/run.zarr.zip --json",
    "diff {0}/run.zarr {0}/run.zarr.zip",
    "diff {0}/run.zarr {0}/other.zarr --first",
    "diff {0}/run.zarr {0}/killed.zarr",
    "diff {0}/run.zarr --steps 2 5",
    "diff {0}/run.zarr {0}/other.zarr --noise {0}/run.zarr --noise {0}/run.zarr.zip",
    "fingerprint {0}/run.zarr -o {1}/run.fp.json",
    "diff {0}/other.zarr --golden {1}/run.fp.json",
    "compare {0}/run.zarr {0}/other.zarr {0}/run.zarr.zip",
    "anomalies {0}/run.zarr",
    "anomalies {0}/killed.zarr --json",
    "explain {0}/run.zarr --step 3",
    "plot weights {0}/run.zarr -o {1}/a.png",
    "plot weights {0}/run.zarr --steps 2:4 -o {1}",
    "plot parameters {0}/run.zarr -o {1}",
    "plot activations {0}/run.zarr -o {1}",
    "plot gradients {0}/run.zarr -o {1}",
    "plot loss {0}/run.zarr -o {1}",
    "plot maps {0}/run.zarr -o {1}",
    "plot flow {0}/run.zarr -o {1}",
    "plot sensitivity {0}/run.zarr -o {1}",
    "plot trajectory {0}/run.zarr -o {1}",
    "plot ridge {0}/run.zarr -o {1}",
    "plot statistics {0}/run.zarr --layer {2} -o {1}",
    "animate {0}/run.zarr --frames 2 -o {1}/a.gif",
    "animate {0}/run.zarr --view weights --frames 2 -o {1}/a.html",
    "report {0}/run.zarr -o {1}/a.html",
    "pack {0}/run.zarr -o {1}/a.zarr.zip",
    "pack {0}/run.zarr -o {1}/a.zarr.zip --overwrite",
    "pack {0}/run.zarr --profile compact -o {1}/b.zarr.zip",
    "unpack {1}/a.zarr.zip -o {1}/a.zarr",
    "view {0}/run.zarr {0}/other.zarr --no-browser",
    "recover {0}/killed.zarr",
    "validate {0}/killed.zarr",
)
MAY_FIND: Final = ("diff", "compare", "anomalies")
"""Commands whose exit status 1 says that something was found."""
NOT_SHOWN: Final = frozenset({"plot sensitivity"})
"""Views of what these traces do not hold, which say so in a sentence."""


@pytest.fixture(scope="module")
def ended(
    make_run: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, str]]:
    """Run all commands in one process, as on another system, and return how each ended."""
    folder = tmp_path_factory.mktemp("traces")
    paths = unique_paths(LAYERS)

    @dataclasses.dataclass(frozen=True)
    class Named(make_run):  # type: ignore[misc]
        """The run with other names of its layers."""

        def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for step, arrays in super().records():
                yield step, {_renamed(key, paths): array for key, array in arrays.items()}

        def attributes(self) -> TraceAttributes:
            text = super().attributes().model_dump_json()
            return TraceAttributes.model_validate_json(_renamed(text, paths))

    Named(steps=12).write(folder / "run.zarr")
    Named(steps=12, input_scale={6: 9.0}).write(folder / "other.zarr")
    Named(steps=12).write_journal(folder / "killed.zarr")
    pack(folder / "run.zarr", folder / "run.zarr.zip")
    out = folder / "out"
    out.mkdir()
    lines = [line.format(folder, out, paths[0]).split() for line in COMMANDS]
    program = [sys.executable, "-c", CODE, str(folder), json.dumps(lines)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {line: (*each,) for line, each in zip(COMMANDS, found, strict=True)}


def _renamed(text: str, paths: list[str]) -> str:
    return text.replace("sequential/dense_1", paths[1]).replace("sequential/dense", paths[0])


def test_every_command_is_among_them() -> None:
    plots = {f"plot {command.name or _name(command.callback)}" for command in _views()}
    known = {*_COMMANDS, *plots} - {"plot"}
    named = {" ".join(line.split()[: 1 + line.startswith("plot ")]) for line in COMMANDS}
    assert known - named == set()


def _views() -> Any:
    return plot_app.registered_commands


def _name(callback: Callable[..., Any] | None) -> str:
    assert callback is not None
    return callback.__name__.rstrip("_").replace("_", "-")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_needs_nothing_that_windows_does_not_have(
    ended: dict[str, tuple[int, str, str]], line: str
) -> None:
    code, out, err = ended[line]
    if " ".join(line.split()[:2]) in NOT_SHOWN:
        assert (code, err.count("\n")) == (2, 1), err
        assert "as on another system" not in err
        return
    assert code in ((0, 1) if line.split()[0] in MAY_FIND else (0,)), err
    assert "as on another system" not in out + err
    assert "Traceback" not in err


def test_what_the_names_became_are_names_that_windows_can_have(
    ended: dict[str, tuple[int, str, str]],
) -> None:
    _, out, _ = ended["info {0}/run.zarr.zip --json"]
    layers = {row["layer"] for row in json.loads(out)["coverage"] if row["layer"]}
    assert unique_paths(LAYERS)[0] == "con_/a_b_"
    assert set(unique_paths(LAYERS)) <= layers
