"""Commands on traces that are sound for a checksum, and hold what no training writes."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from forked_commands import command
from hostile_traces import GOLDEN, TRACES
from steptrace_analyzer.differences.golden import write_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def good(write_run: Callable[..., Path]) -> Path:
    return write_run(steps=20)


def copied(good: Path, folder: Path, name: str) -> Path:
    """Return a copy of a sound trace that has been changed in one way."""
    store = folder / "run.zarr"
    shutil.copytree(good, store)
    TRACES[name](store)
    return store


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", TRACES)
def test_a_hostile_trace_ends_in_a_result_or_in_one_sentence(
    good: Path, tmp_path: Path, name: str
) -> None:
    store = copied(good, tmp_path, name)
    out = tmp_path / "out"
    out.mkdir()
    for arguments in (
        ("info", store),
        ("validate", store, "--json"),
        ("anomalies", store),
        ("explain", store, "--step", "3"),
        ("diff", store, good),
        ("diff", good, store, "--first"),
        ("compare", good, store),
        ("fingerprint", store, "-o", out / "run.fp.json"),
    ):
        ended = command(*arguments)
        assert not ended.problem, (arguments, ended)
    assert {path.name for path in tmp_path.iterdir()} == {"run.zarr", "out"}


DRAWN = (
    *("loss", "weights", "parameters", "activations", "gradients", "maps", "flow"),
    *("sensitivity", "trajectory", "ridge", "statistics"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_pages_pictures_and_files_of_a_hostile_trace_end_the_same_way(
    good: Path, tmp_path: Path, name: str
) -> None:
    store = copied(good, tmp_path, name)
    out = tmp_path / "out"
    out.mkdir()
    for number, arguments in enumerate(
        (
            *(("plot", view, store, "-o", out / f"{view}.png") for view in DRAWN),
            ("plot", "weights", store, "--steps", "0:20:5", "-o", out / "strip.png"),
            *(
                ("animate", store, "--view", view, "--frames", "3", "-o", out / f"{view}.html")
                for view in ("flow", "weights", "parameters", "activations")
            ),
            ("report", store, "-o", out / "report.html"),
            ("diff", store, good, "--html", out / "diff.html", "--sarif", out / "a.sarif"),
            ("diff", good, store, "--junit", out / "a.xml", "--json"),
            ("diff", store, "--steps", "1", "2"),
            ("compare", good, store, "--json"),
            ("anomalies", store, "--json"),
            ("explain", store, "--step", "3", "--json"),
            ("pack", store, "-o", out / "run.zarr.zip"),
            ("recover", store),
        )
    ):
        ended = command(*arguments)
        assert not ended.problem, (number, arguments, ended)
    for page in out.glob("*.html"):
        assert "<script>alert(1)" not in page.read_text()
        assert "<img src=x" not in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run.zarr", "out"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", GOLDEN)
def test_a_hostile_golden_file_ends_in_a_result_or_in_one_sentence(
    good: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "golden.fp.json"
    write_fingerprint(good, path)
    fields: dict[str, Any] = json.loads(path.read_text())
    GOLDEN[name](fields)
    path.write_text(json.dumps(fields))
    for more in ((), ("--json",), ("--ulp", "3")):
        ended = command("diff", good, "--golden", path, *more)
        assert not ended.problem, (more, ended)


@pytest.mark.parametrize("content", ["", "[" * 200_000, '{"a":' * 100_000, "\x00" * 10_000, "null"])
def test_what_is_no_golden_file_is_named(good: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "golden.fp.json"
    path.write_text(content)
    ended = command("diff", good, "--golden", path)
    assert not ended.problem, ended
    assert ended.code == 2
    assert "is no fingerprint of a run" in ended.err


def test_of_thousands_of_layers_as_many_are_printed_as_can_be_read(
    good: Path, tmp_path: Path
) -> None:
    store = copied(good, tmp_path, "a_chain_of_layers")
    ended = command("info", store)
    assert "net/l990" in ended.out
    assert "net/l1000" not in ended.out
    assert "and 4,003 more rows, which --json has" in ended.out
    assert len(json.loads(command("info", store, "--json").out)["layers"]) == 5003
