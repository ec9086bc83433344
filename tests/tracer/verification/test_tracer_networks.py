"""Well-known networks are trained to the same bits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from steptrace_schema.errors import UnknownNameError
from steptrace_tracer.commands import cli
from steptrace_tracer.verification import networks
from steptrace_tracer.verification.networks import Row
from steptrace_tracer.verification.state import State
from steptrace_tracer.verification.verify import Verification, compare, verify_network

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("MobileNetV2", "MobileNetV2 64"),
        ("InceptionV3 64", "InceptionV3 75"),
        ("vit 96 xla", "vit 96 xla"),
        ("lstm", "lstm"),
    ],
)
def test_a_row_says_what_is_trained(text: str, row: str) -> None:
    assert str(Row.of(text)) == row
    assert Row.of(row) == Row.of(text)


@pytest.mark.parametrize("text", ["", "AlexNet 64"])
def test_an_unknown_network_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(UnknownNameError, match=r"there are MobileNetV2, .*wgan$"):
        Row.of(text)


def test_every_row_is_named_once() -> None:
    rows = networks.rows()
    assert len(rows) == len(set(map(str, rows))) > 40
    assert {row.name for row in rows} == {*networks.APPLICATIONS, *networks._OWN}


@pytest.mark.parametrize(
    ("second", "status"), [("identical", 0), ("different", 1), ("not deterministic", 0)]
)
def test_the_command_verifies_the_networks_that_are_named(
    second: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verified(row: str, *, policy: Policy | None = None, seed: int = 0) -> Verification:
        assert (policy, seed) == (None, 4)
        return Verification("identical" if row == "unet 64" else second, 1, 6, 3)  # type: ignore[arg-type]

    monkeypatch.setattr("steptrace_tracer.verification.verify.verify_network", verified)
    assert cli._verify_networks(["unet", "gru"], 4, as_json=True) == status
    found = json.loads(capsys.readouterr().out)
    assert [(name, each["verdict"]) for name, each in found.items()] == [
        ("unet 64", "identical"),
        ("gru", second),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("row", networks.rows(), ids=str)
def test_a_network_is_trained_to_the_same_bits(row: Row) -> None:
    found = verify_network(str(row))
    if found.verdict == "not deterministic":
        pytest.skip(str(found))
    assert found.verdict == "identical", str(found)
    assert found.steps == networks.STEPS


@pytest.mark.parametrize(
    ("repeats", "verdict"),
    [("aab", "not deterministic"), ("aaab", "not deterministic"), ("aaaa", "different")],
)
def test_a_training_that_is_the_same_twice_by_chance_is_not_said_to_be_changed(
    repeats: str, verdict: str
) -> None:
    def states(digest: str) -> list[State]:
        return [State(0, 1, (("dense/kernel", digest),))]

    runs = iter(repeats)
    found = compare(lambda: states(next(runs)), lambda: states("c"))
    assert found.verdict == verdict
    assert not list(runs)
