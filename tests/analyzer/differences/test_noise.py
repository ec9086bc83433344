"""Runs that add in another order are within noise; runs with a small fault are not."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import compare_with_noise
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., Path]

HEALTHY = 10
FAULTS: tuple[dict[str, Any], ...] = (
    {"learning_rates": {10: 0.303}},
    {"hidden_rate": {20: 1.01}},
    {"hidden_rate": {5: 1.001}},
    {"input_scale": {30: 1.01}},
)


@pytest.fixture
def write(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a run whose batches are added up in an order by chance."""
    names = make_run.records.__globals__  # several modules are called conftest
    in_order = names["_pass"]
    numbers = iter(range(1000))

    def build(seed: int, **fields: Any) -> Path:
        rng = np.random.default_rng(seed)

        def in_other_order(weights: Any, x: Any, y: Any, rate: float) -> Any:
            order = rng.permutation(len(x))
            return in_order(weights, x[order], y[order], rate)

        @dataclasses.dataclass(frozen=True)
        class Noisy(make_run):  # type: ignore[misc]
            def records(self) -> Iterator[tuple[int, Any]]:
                with monkeypatch.context() as patch:
                    patch.setitem(names, "_pass", in_other_order)
                    yield from list(super().records())

        run = Noisy(**{"steps": 40, "learning_rate": 0.3, **fields})
        path: Path = run.write(tmp_path / f"run{next(numbers)}.zarr")
        return path

    return build


def test_repeats_are_within_noise_and_small_faults_are_not(write: Write) -> None:
    repeats = [write(seed) for seed in (100, 101, 102)]
    healthy = [write(seed) for seed in range(HEALTHY)]
    for one, other in itertools.pairwise(healthy):
        assert compare_with_noise(one, other, repeats).verdict == "within noise"
    for seed, fields in enumerate(FAULTS):
        found = compare_with_noise(healthy[0], write(200 + seed, **fields), repeats)
        assert found.verdict == "differs", fields
        (begin,) = next(iter(fields.values())).keys()
        assert found.step in (begin, begin + 1)


def test_a_run_is_equal_to_itself_whatever_the_noise(write: Write) -> None:
    path, repeats = write(0), [write(1), write(2)]
    assert compare_with_noise(path, path, repeats).verdict == "equal"


def test_equal_repeats_leave_room_for_rounding_alone(write_run: Write) -> None:
    path = write_run()
    found = compare_with_noise(path, write_run(hidden_rate={40: 1.5}), [path, path])
    assert (found.verdict, found.step) == ("differs", 41)
    assert found.ratio == np.inf
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_repeat_shows_no_noise(write_run: Write) -> None:
    with pytest.raises(UnknownNameError, match="at least 2 repeats of a run, and 1 given"):
        compare_with_noise(write_run(), write_run(), [write_run()])


def test_the_command_says_how_far_two_runs_are_apart(
    capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    a, b, r, s = (str(write(seed)) for seed in range(4))
    noise = ["--noise", r, "--noise", s]
    assert app.run(["diff", a, b, *noise]) == 0
    assert f"{a} and {b}: within noise; at most at step " in capsys.readouterr().out
    other = str(write(9, **FAULTS[0]))
    assert app.run(["diff", a, other, *noise, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["noise"]["step"] == 10
