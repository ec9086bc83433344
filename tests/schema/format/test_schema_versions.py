"""Traces of a later minor version are read as far as this one knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from journals import attributes
from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.store.opening import parse_attributes
from steptrace_schema.version import FORMAT_VERSION


def test_what_a_later_minor_version_adds_is_left_out() -> None:
    fields = attributes().model_dump(mode="json")
    fields["version"] = "1.99"
    fields["policy"] |= {"colour": "green", "kinds": ["weights", "dreams"]}
    fields["declared"] = {"weights": ["dense/kernel"], "dreams": ["dense/sheep"]}
    fields["steps_recorded"] = {"weights": 3, "dreams": 2}
    fields["missing"] = [
        {"kind": "dreams", "path": "a", "reason": "asleep"},
        {"kind": "weights", "path": "dense/kernel", "reason": "lost"},
    ]
    found = parse_attributes(Path("run.zarr"), fields)
    assert found.policy.kinds == ("weights",)
    assert found.declared == {"weights": ("dense/kernel",)}
    assert found.steps_recorded == {"weights": 3}
    assert [m.path for m in found.missing] == ["dense/kernel"]


def test_the_losses_of_the_targets_are_kept_and_unknown_where_a_trace_does_not_say_them() -> None:
    fields = attributes().model_dump(mode="json")
    fields["losses"] = [{"target": "y_0", "name": "huber", "config": {"delta": 2.0}, "weight": 0.5}]
    (found,) = parse_attributes(Path("run.zarr"), fields).losses
    assert (found.function, found.config, found.weight) == (None, {"delta": 2.0}, 0.5)
    del fields["losses"]
    assert parse_attributes(Path("run.zarr"), fields).losses == ()


def test_a_weight_of_a_loss_that_is_no_number_is_refused() -> None:
    fields = attributes().model_dump(mode="json")
    fields["losses"] = [{"target": "y_0", "name": "huber", "weight": None}]
    with pytest.raises(TraceError, match=r"losses\.0\.weight"):
        parse_attributes(Path("run.zarr"), fields)


def test_a_policy_of_ones_own_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Policy(colour="green")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("capture", {"weights": "above", "gradients": "inside"}, {"gradients": "inside"}),
        ("proofs", [{"step": 0, "time": "", "way": "above", "identical": True}], ()),
    ],
)
def test_a_value_that_a_later_minor_version_adds_is_left_out(
    name: str, value: object, left: object
) -> None:
    fields = attributes().model_dump(mode="json") | {"version": "1.99", name: value}
    assert getattr(parse_attributes(Path("run.zarr"), fields), name) == left
    with pytest.raises(TraceError, match=name):
        parse_attributes(Path("run.zarr"), fields | {"version": FORMAT_VERSION})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("profile", "dense"),
        ("retain", {"mode": "now and then"}),
        ("retain", {"mode": "around", "triggers": ["boredom"]}),
        ("statistics_only", ["optimizer"]),
        ("precision", {"dreams": 5}),
        ("precision", {"weights": "tf32"}),
    ],
)
def test_of_a_policy_with_a_later_value_the_rest_is_read(name: str, value: object) -> None:
    fields = attributes().model_dump(mode="json") | {"version": "1.99"}
    fields["policy"] |= {name: value, "shard": 1, "every": 3}
    found = parse_attributes(Path("run.zarr"), fields).policy
    assert found == Policy(**{name: getattr(Policy(), name), "every": 3})


def test_what_is_wrong_in_a_trace_of_a_later_minor_version_is_still_refused() -> None:
    fields = attributes().model_dump(mode="json") | {"version": "1.99"}
    for name, value in (("status", "paused"), ("records", -1), ("events", [{"step": 1}])):
        with pytest.raises(TraceError, match=name):
            parse_attributes(Path("run.zarr"), fields | {name: value})
