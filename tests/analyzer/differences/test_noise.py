"""Runs that add in another order are within noise; runs with a small fault are not."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import (
    compare_with_noise,
    compare_with_reference,
    compare_with_rounding,
    diff,
)
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


@pytest.mark.long
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
    said = "within noise; nothing is farther apart than rounding alone may make it"
    assert f"{a} and {b}: {said}" in capsys.readouterr().out
    other = str(write(9, **FAULTS[0]))
    assert app.run(["diff", a, other, *noise, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["noise"]["step"] == 10


@pytest.fixture
def rounded(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run whose inputs are changed by one representable number at each step."""
    names = make_run.records.__globals__
    as_it_is = names["_pass"]

    def changed(weights: Any, x: Any, y: Any, rate: float) -> Any:
        return as_it_is(weights, (x.view("u4") ^ 1).view("f4"), y, rate)

    with monkeypatch.context() as patch:
        patch.setitem(names, "_pass", changed)
        path: Path = make_run(steps=40, learning_rate=0.3).write(tmp_path / "rounded.zarr")
    return path


def test_another_order_of_additions_is_within_what_rounding_makes(
    write: Write, write_run: Write, rounded: Path
) -> None:
    base = write_run(steps=40, learning_rate=0.3)
    for seed in range(5):
        found = compare_with_rounding(base, write(seed), rounded)
        assert (found.verdict, found.basis, found.repeats) == ("within noise", "rounding", 1), found
    for fields in FAULTS:
        found = compare_with_rounding(base, write(9, **fields), rounded)
        assert found.verdict == "differs", fields
        (begin,) = next(iter(fields.values())).keys()
        assert found.step in (begin, begin + 1)
        assert "as a change by rounding makes it" in str(found) or found.ratio == np.inf


def shaken(make_run: Any, path: Path, scale: float, seed: int) -> Path:
    """Write the healthy run with every weight changed by a random part of itself."""
    rng = np.random.default_rng(seed)

    class Shaken(make_run):  # type: ignore[misc]
        def records(self) -> Iterator[tuple[int, Any]]:
            for step, arrays in super().records():
                copied = dict(arrays)
                for key in [key for key in copied if key.startswith("weights/")]:
                    noise = rng.normal(0, scale, copied[key].shape)
                    copied[key] = (copied[key] + noise).astype("f4")
                yield step, copied

    written: Path = Shaken().write(path)
    return written


def test_two_runs_are_compared_by_their_distances_to_a_third(
    healthy_path: Path, make_run: Any, tmp_path: Path
) -> None:
    near, also = (shaken(make_run, tmp_path / f"{n}.zarr", 1e-4, n) for n in (1, 2))
    far = shaken(make_run, tmp_path / "far.zarr", 1e-2, 3)
    names = ("near", "other")
    same = compare_with_reference(near, also, healthy_path, kinds=("weights",), names=names)
    assert (same.verdict, same.basis) == ("within noise", "reference")
    assert same.ratio is not None
    assert 1 <= same.ratio < 3
    found = compare_with_reference(near, far, healthy_path, kinds=("weights",), names=names)
    assert (found.verdict, found.farther, found.step) == ("differs", "other", 0)
    assert found.ratio == pytest.approx(100, rel=0.8)
    turned = compare_with_reference(far, near, healthy_path, kinds=("weights",), names=names)
    assert (turned.verdict, turned.farther) == ("differs", "near")
    assert "times as far from the reference in near as in the other" in str(turned)


def test_noise_decides_the_verdict_of_a_comparison(
    capsys: pytest.CaptureFixture[str], write: Write, write_run: Write, rounded: Path
) -> None:
    base, other = write_run(steps=40, learning_rate=0.3), write(1)
    assert diff(base, other).verdict == "differs"
    within = diff(base, other, rounding=rounded)
    assert within.verdict == "within noise"
    assert within.noise is not None
    assert "differ within noise" in str(within)
    arguments = ["diff", str(base), str(other), "--noise-from-rounding", str(rounded)]
    assert app.run(arguments) == 0
    out = capsys.readouterr().out
    assert "within noise; nothing is farther apart than rounding" in out
    assert ": within noise, steps 0-40" in out
    assert ": differs" not in out
    assert app.run([*arguments, "--reference", str(base)]) == 2
    assert "only one of them" in capsys.readouterr().err
    fault = str(write(9, **FAULTS[1]))
    assert app.run(["diff", str(base), fault, "--reference", str(base), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["noise"]["basis"]) == ("differs", "reference")


def test_what_is_damaged_makes_a_comparison_with_noise_inconclusive(
    write: Write, tmp_path: Path
) -> None:
    a, b, r, s = (write(seed) for seed in range(4))
    for chunk in (r / "gradients/sequential/dense/kernel").glob("c*"):
        chunk.write_bytes(chunk.read_bytes()[:40])
    found = compare_with_noise(a, b, [r, s])
    assert found.verdict == "inconclusive"
    assert "gradients/sequential/dense/kernel" in found.not_compared[0]


def test_noise_is_not_compared_at_shifted_steps_or_under_other_names(write_run: Write) -> None:
    path = write_run()
    more: Any
    for more in ({"shift": 1}, {"align": True}, {"renamed": {"sequential/dense": "a"}}):
        with pytest.raises(UnknownNameError, match="compare without a shift, an alignment or a"):
            diff(path, path, noise=[path, path], **more)
