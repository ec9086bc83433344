from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import xarray as xr

from steptrace_analyzer.cli import _commands, app
from steptrace_analyzer.cli._errors import Settings, guarded
from steptrace_schema.errors import TraceError
from steptrace_schema.storage.location import locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = (
    "info",
    "validate",
    "diff",
    "compare",
    "fingerprint",
    "anomalies",
    "explain",
    "report",
    "pack",
    "unpack",
    "recover",
)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = app.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _trouble(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must fail with one sentence and no more; return the sentence."""
    code, out, err = _run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def test_info_shows_model_kinds_and_status(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    code, out, err = _run(capsys, "info", healthy_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{healthy_path}: complete"
    assert any(line.split()[:4] == ["weights", "4", "0-60", "12.9"] for line in lines)
    assert any(line.startswith("sequential/dense ") and " 35" in line for line in lines)


def test_info_prints_json(capsys: pytest.CaptureFixture[str], healthy_path: Path) -> None:
    code, out, _ = _run(capsys, "info", healthy_path, "--json")
    assert code == 0
    assert json.loads(out)["model"]["parameters"] == 53
    rows = {(row["kind"], row["layer"]): row for row in json.loads(out)["coverage"]}
    assert rows["weights", "sequential/dense"]["recorded"] == 2


def test_validate_exits_with_1_where_a_rule_is_violated(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    assert _run(capsys, "validate", healthy_path)[0] == 0
    broken = tmp_path / "run.zarr"
    shutil.copytree(healthy_path, broken)
    shutil.rmtree(broken / "gradients" / "sequential" / "dense")
    code, out, _ = _run(capsys, "validate", broken, "--json")
    assert code == 1
    assert any("gradients" in problem["path"] for problem in json.loads(out)["problems"])
    rows = {(row["kind"], row["layer"]): row for row in json.loads(out)["coverage"]}
    expected = {"declared": 2, "recorded": 0, "explained": 0}
    assert rows["gradients", "sequential/dense"].items() >= expected.items()
    assert rows["gradients", "sequential/dense_1"]["recorded"] == 2
    code, out, err = _run(capsys, "validate", broken)
    assert code == 1
    assert "remedy" in out.splitlines()[0]
    assert "problem" in err


def test_diff_exits_with_0_for_equal_traces(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    code, out, err = _run(capsys, "diff", healthy_path, healthy_path)
    assert code == 0
    assert out == f"{healthy_path} and {healthy_path} are equal: 25 tensors, steps 0-60\n"
    assert err == ""


def test_diff_names_where_two_runs_part_and_exits_with_1(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    other = write_run(input_scale={31: 40.0})
    code, out, _ = _run(capsys, "diff", healthy_path, other)
    assert code == 1
    assert out.startswith(f"{healthy_path} and {other} differ, first in inputs/x at step 31\n")
    code, out, _ = _run(capsys, "diff", healthy_path, other, "--kind", "weights", "--json")
    result = json.loads(out)
    assert code == 1
    assert {tensor["first_step"] for tensor in result["tensors"]} == {32}
    assert result["first_difference"]["path"] == "sequential/dense/kernel"


def test_diff_compares_two_steps(capsys: pytest.CaptureFixture[str], healthy_path: Path) -> None:
    code, out, err = _run(capsys, "diff", healthy_path, "--steps", "10", "-1")
    assert code == 1
    assert out.startswith("run.zarr step 10 and run.zarr step 59 differ, first in inputs/x\n")
    assert "weights/sequential/dense/kernel" in out
    assert "not compared" not in err


def test_diff_with_a_tolerance_may_find_nothing(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    arguments = ("diff", healthy_path, "--steps", "10", "11", "--kind", "weights")
    assert _run(capsys, *arguments)[0] == 1
    assert _run(capsys, *arguments, "--atol", "1")[0] == 0


@pytest.mark.parametrize("extra", [[], ["OTHER", "--steps", "1", "2"]])
def test_diff_wants_either_a_trace_or_steps(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, extra: list[str]
) -> None:
    code, _, err = _run(capsys, "diff", healthy_path, *extra)
    assert code == 2
    assert "give either a second trace or --steps" in err


def test_anomalies_explains_what_it_found_and_exits_with_1(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    path = write_run(input_scale={40: 40.0})
    code, out, _ = _run(capsys, "anomalies", path)
    assert code == 1
    first, second = out.splitlines()[:2]
    assert first.startswith(
        "warning, step 40: at step 40 the batch's inputs were 38 times as large"
    )
    assert second.startswith("  -> at step 40 the update of sequential/dense/kernel was ")
    code, out, _ = _run(capsys, "anomalies", path, "--json")
    batch, jump = json.loads(out)["findings"][:2]
    assert (code, batch["rule"], batch["first_step"]) == (1, "bad_batch", 40)
    assert (jump["rule"], jump["first_step"], jump["cause_kind"]) == ("update_jump", 40, "batch")


def test_anomalies_runs_chosen_rules_with_other_thresholds(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    path = write_run(input_scale={40: 40.0})
    jumps = ("anomalies", path, "--rules", "update_jump")
    code, out, _ = _run(capsys, *jumps, "--json")
    assert (code, [f["rule"] for f in json.loads(out)["findings"]]) == (1, ["update_jump"])
    assert _run(capsys, *jumps, "--set", "update_jump.z=40")[0] == 0
    assert _run(capsys, *jumps, "--fail-on", "error")[0] == 0
    assert _run(capsys, *jumps, "--to", "39")[0] == 0
    assert _run(capsys, *jumps, "--from", "39")[0] == 1
    assert "no rule 'jumps'" in _trouble(capsys, "anomalies", path, "--rules", "jumps")
    wrong = _trouble(capsys, *jumps, "--set", "update_jump.size=1")
    assert "'update_jump' has no threshold 'size'; it has z" in wrong
    assert "'x' is no number" in _trouble(capsys, *jumps, "--set", "update_jump.z=x")
    assert "it has no '='" in _trouble(capsys, *jumps, "--set", "update_jump.z")
    assert "no severity 'bad'" in _trouble(capsys, *jumps, "--fail-on", "bad")


def test_explain_says_what_happened_at_a_step(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    path = write_run(input_scale={40: 40.0})
    code, out, err = _run(capsys, "explain", path, "--step", "40", "--tensor", "dense/kernel")
    assert (code, err) == (0, "")
    assert out.startswith("step 40: loss ")
    assert "; inputs 38 times as large as usual" in out.splitlines()[0]
    assert "the update of sequential/dense/kernel was" in out
    *_, update, samples = out.splitlines()
    assert "the trace does not hold the configuration of SGD" in update
    assert "or does not hold, what sequential/dense takes at step 40" in samples
    code, out, _ = _run(capsys, "explain", path, "--step", "-1", "--json")
    found = json.loads(out)
    assert (code, found["step"], len(found["updates"])) == (0, 59, 4)
    assert "step 99 of 'scalars'" in _trouble(capsys, "explain", path, "--step", "99")


def test_anomalies_says_what_it_could_not_judge(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    path = write_run(steps=25)
    _, out, err = _run(capsys, "anomalies", path, "--json")
    reasons = {entry["rule"]: entry["reason"] for entry in json.loads(out)["not_judged"]}
    assert reasons["dead_units"] == "gradients are recorded at no more than 30 steps"
    assert err == ""
    assert "dead_units" in _run(capsys, "anomalies", path)[2]


def test_anomalies_exits_with_0_for_a_healthy_run(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    code, out, _ = _run(capsys, "anomalies", healthy_path)
    assert (code, out) == (0, f"{healthy_path}: nothing unusual found\n")


def test_json_has_no_nan(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path], healthy_path: Path
) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    path = write_run(poison=(30,))
    for arguments in (
        ("info", path),
        ("anomalies", path),
        ("diff", path, healthy_path),
    ):
        _, out, _ = _run(capsys, *arguments, "--json")
        json.loads(out, parse_constant=refuse)


def test_pack_and_unpack_from_the_command_line(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    packed, folder = tmp_path / "a.zarr.zip", tmp_path / "b.zarr"
    code, out, _ = _run(capsys, "pack", healthy_path, "-o", packed)
    assert code == 0
    assert out.startswith(f"{packed} (")
    assert _run(capsys, "unpack", packed, "-o", folder)[:2] == (0, f"{folder}\n")
    assert _run(capsys, "diff", healthy_path, folder)[0] == 0


def test_recover_finishes_a_killed_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    make_run: Callable[..., Any],
    write_run: Callable[..., Path],
) -> None:
    path = tmp_path / "killed.zarr"
    make_run(steps=12).write_journal(path)
    assert "is not finished" in _trouble(capsys, "pack", path)
    said = _trouble(capsys, "validate", path)
    assert f"its steps are in {path}.journal" in said
    assert f"'steptrace recover {path}' finishes the trace" in said
    code, out, _ = _run(capsys, "recover", path)
    assert code == 0
    assert out == (
        f"{path}: moved 13 records of the journal into the store; 12 steps, status incomplete\n"
    )
    assert _run(capsys, "diff", path, write_run(steps=12))[0] == 0
    assert "nothing to recover" in _run(capsys, "recover", path)[1]


@pytest.mark.parametrize("command", ["info", "diff", "anomalies", "validate", "pack", "recover"])
def test_a_path_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    path = tmp_path / "missing.zarr"
    extra = ["--steps", "1", "2"] if command == "diff" else []
    message = _trouble(capsys, command, path, *extra)
    assert str(path) in message


def test_what_is_not_a_trace_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder.zarr"
    folder.mkdir()
    assert "is not a trace" in _trouble(capsys, "info", folder)
    file = tmp_path / "text.zarr.zip"
    file.write_text("hello")
    assert "is not a trace" in _trouble(capsys, "info", file)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (folder / "zarr.json").write_text(json.dumps(group))
    assert "is a Zarr group but not a trace" in _trouble(capsys, "anomalies", folder)


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_newer_format_is_refused_with_the_way_to_upgrade(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    path = _copy(healthy_path, tmp_path / "newer.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["steptrace"]["version"] = "2.0"
    (path / "zarr.json").write_text(json.dumps(metadata))
    message = _trouble(capsys, "info", path)
    assert f"{path} is a trace of format 2.0" in message
    assert "pip install --upgrade steptrace" in message


def test_a_truncated_chunk_is_named(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    path = _copy(healthy_path, tmp_path / "cut.zarr")
    chunk = path / "weights" / "sequential" / "dense" / "kernel" / "c.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    message = _trouble(capsys, "plot", "weights", path, "--layer", "dense", "--step", "0")
    assert str(path) in message
    assert "weights/sequential/dense/kernel" in message
    code, out, err = _run(capsys, "diff", healthy_path, path, "--kind", "weights")
    assert code == 2
    assert out == f"{healthy_path} and {path}: inconclusive\n"
    assert f"not compared: damaged, {path}: array 'weights/sequential/dense/kernel'" in err
    assert "verdict: inconclusive; compared 100 % of what is declared" in err  # by digests


def test_an_unknown_kind_lists_the_kinds(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    message = _trouble(capsys, "diff", healthy_path, healthy_path, "--kind", "weight")
    assert message.startswith("there is no kind of data 'weight'; the kinds are scalars, weights")


def test_an_unknown_layer_suggests_near_names(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    target = tmp_path / "weights.png"
    message = _trouble(capsys, "plot", "weights", healthy_path, "--layer", "dense_2", "-o", target)
    assert "no layer 'dense_2'" in message
    assert "did you mean 'sequential/dense_1'" in message
    assert not target.exists()


def test_a_step_that_is_not_recorded_says_which_are(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    message = _trouble(capsys, "diff", healthy_path, "--steps", "10", "99")
    assert message == "step 99 of 'scalars' is not recorded; recorded are 0-59"


def test_strings_of_a_trace_are_neither_markup_nor_control(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    path = _copy(healthy_path, tmp_path / "evil.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    attributes = metadata["attributes"]["steptrace"]
    attributes["model"]["name"] = "[red]m[/red]\x1b[31m"
    attributes["layers"][0]["class_name"] = "[/nonsense]\x1b]0;title\x07"
    (path / "zarr.json").write_text(json.dumps(metadata))
    code, out, _ = _run(capsys, "info", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "'[red]m[/red]\\x1b[31m'" in out
    assert "[/nonsense]\\x1b]0;title\\x07" in out


def test_an_unexpected_error_is_one_sentence_and_debug_shows_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        msg = "two\nlines \x1b[31m"
        raise ValueError(msg)

    assert guarded(fail, Settings()) == 2
    err = capsys.readouterr().err
    assert err == (
        "error: unexpected ValueError: two lines \\x1b[31m "
        "('steptrace --debug ...' shows where it comes from)\n"
    )
    assert guarded(fail, Settings(debug=True)) == 2
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_known_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = _run(capsys, "--debug", "info", tmp_path / "missing.zarr")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_an_interrupt_ends_as_shells_expect() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupt, Settings()) == 130


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = _run(capsys, command, "--help")
    assert code == 0
    assert f"    steptrace {command} run.zarr" in out


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, "inof")
    assert code == 2
    assert "No such command 'inof'" in err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("anomalis", "anomalies"), ("plott", "plot"), ("valdiate", "validate"), ("recrod", "record")],
)
def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(
    capsys: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    code, _, err = _run(capsys, typed, "run.zarr")
    assert code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'" in err
    code, _, err = _run(capsys, "plot", "weigths")
    assert code == 2
    assert "Did you mean 'weights'" in err


@pytest.mark.parametrize("group", [(), ("plot",)], ids=["steptrace", "plot"])
def test_no_summary_of_a_command_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = _run(capsys, *group, "--help")
    assert code == 0
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, "plot weights"])
def test_help_names_its_arguments_plainly(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = _run(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Usage: steptrace {command} [OPTIONS] TRACE" in out
    assert "<Any>" not in out
    assert "{" not in out


def test_the_second_trace_is_looked_up_as_the_first_is(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def open_trace(path: object) -> xr.DataTree:
        opened.append(path)
        return healthy

    healthy = xr.open_datatree(healthy_path, engine="zarr", chunks={})
    monkeypatch.setattr("steptrace_analyzer.trace.open.open_trace", open_trace)
    _run(capsys, "diff", healthy_path, "s3://bucket/run.zarr")
    assert opened == [healthy_path, locate("s3://bucket/run.zarr")]


def test_pack_onto_a_file_that_is_there_names_the_option_that_replaces_it(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "run.zarr.zip"
    packed.write_text("mine")
    said = _trouble(capsys, "pack", healthy_path, "-o", packed)
    assert said == (
        f"{packed} exists; replace it with --overwrite, or choose another name with --output"
    )
    assert packed.read_text() == "mine"
    assert _run(capsys, "pack", healthy_path, "-o", packed, "--overwrite")[0] == 0
    assert packed.stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("report",), "run-report.html"),
        (("pack",), "run.zarr.zip"),
        (("plot", "loss"), "run-loss.png"),
        (("plot", "weights"), "run-weights-dense-step59.png"),
    ],
    ids=["report", "pack", "loss", "weights"],
)
def test_an_output_that_is_a_folder_is_written_into(
    capsys: pytest.CaptureFixture[str],
    healthy_path: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    name: str,
) -> None:
    code, out, err = _run(capsys, *command, healthy_path, "-o", tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith(str(tmp_path / name))
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "command",
    [("report",), ("pack",), ("plot", "loss"), ("unpack",)],
    ids=["report", "pack", "plot", "unpack"],
)
def test_an_output_that_is_an_address_is_refused(
    capsys: pytest.CaptureFixture[str],
    healthy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = _trouble(capsys, *command, healthy_path, "-o", "s3://bucket/out.zip.svg.zip")
    assert "s3://bucket/out.zip.svg.zip is an address; give a local path" in said
    assert list(tmp_path.iterdir()) == []


def _added(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    entry = EntryPoint(name, value, "steptrace.commands")
    monkeypatch.setattr(_commands, "_added", lambda group: {name: entry})


def test_another_package_adds_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(name: str) -> None:
        """Say hello."""
        print(f"hello {name}")

    module = ModuleType("added_command")
    module.greet = greet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "added_command", module)
    _added(monkeypatch, "greet", "added_command:greet")
    assert _run(capsys, "greet", "you")[:2] == (0, "hello you\n")
    assert "greet        Say hello." in _run(capsys, "--help")[1]


def test_an_added_command_that_cannot_be_imported_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _added(monkeypatch, "lost", "no_such_module:run")
    message = _trouble(capsys, "lost")
    assert message == (
        "command 'lost' cannot be loaded from no_such_module:run: No module named 'no_such_module'"
    )
    assert _run(capsys, "--help")[0] == 0


def test_an_added_command_does_not_replace_one_of_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, healthy_path: Path
) -> None:
    _added(monkeypatch, "info", "no_such_module:run")
    assert _run(capsys, "info", healthy_path)[0] == 0


def test_a_trace_error_of_a_command_is_its_own_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        msg = "run.zarr is broken; mend it"
        raise TraceError(msg)

    assert guarded(fail, Settings()) == 2
    assert capsys.readouterr().err == "error: run.zarr is broken; mend it\n"


def _process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steptrace_analyzer", *(str(a) for a in arguments)]
    return subprocess.run(command, text=True, check=False, timeout=60, **options)


def test_the_module_is_the_command() -> None:
    result = _process("--version", capture_output=True)
    assert result.returncode == 0
    assert result.stdout.startswith("steptrace ")
    assert "trace format 1.3" in result.stdout


def test_a_reader_that_has_gone_ends_the_command_quietly(healthy_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    result = _process("info", healthy_path, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert result.returncode == 141
    assert result.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from steptrace_analyzer.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        "names = 'numpy xarray zarr dask matplotlib pandas pydantic rich tensorflow keras'\n"
        "sys.stderr.write(' '.join(name for name in names.split() if name in sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Commands:" in result.stdout
    assert result.stderr == ""


def test_diff_says_what_made_two_runs_part_within_80_columns(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    other = write_run(input_scale={31: 40.0})
    code, out, _ = _run(capsys, "diff", healthy_path, other)
    assert code == 1
    lines = out.splitlines()
    assert lines[1].startswith("step 31, batch, inputs/x, sample 0, unit ")
    assert lines[2] == "other data: none of the 16 samples of step 31 is in the second run's batch"
    table = [line for line in lines[4:] if "─" not in line]
    assert table[0].split() == "tensor differ max abs max rel max ULP since".split()
    assert max(map(len, table)) <= 80
    assert len(table) == len({line.split()[0] for line in table})  # each name is still its own
    _, wide, _ = _run(capsys, "diff", healthy_path, other, "--wide")
    assert "gradients/sequential/dense_1/kernel" in wide
    assert "worst step" in wide
    _, one, _ = _run(capsys, "diff", healthy_path, other, "--tensor", "scalars/loss")
    assert "first step       31" in one.splitlines()
    said = _trouble(capsys, "diff", healthy_path, other, "--tensor", "kernel")
    assert said.startswith("'kernel' means several tensors: weights/sequential/dense/kernel")


def test_diff_first_reads_digests_and_exits_by_its_verdict(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    other = write_run(learning_rates={20: 0.06})
    code, out, err = _run(capsys, "diff", healthy_path, other, "--first")
    assert code == 1
    assert out.splitlines()[0] == f"{healthy_path} and {other}: differs, steps 0-60"
    assert out.splitlines()[1].startswith("step 20, update, scalars/learning_rate: other hyper-par")
    assert "compared 100 % of what is declared; 25 tensors are in both" in err
    assert _run(capsys, "diff", healthy_path, healthy_path, "--first")[0] == 0
    code, out, _ = _run(capsys, "diff", healthy_path, other, "--shift", "1000", "--json")
    assert code == 2
    assert json.loads(out)["divergence"]["verdict"] == "inconclusive"
    for option, said in (
        (("--map", "dense"), "write OLD=NEW"),
        (("--map", "sequential/dance=x"), "did you mean 'sequential/dense'?"),
        (("--fail-on", "never"), "there is no verdict 'never'"),
    ):
        assert said in _trouble(capsys, "diff", healthy_path, other, *option)
