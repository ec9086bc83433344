"""Traces of a later minor version are read as far as this one knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from journals import attributes
from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.store.opening import parse_attributes


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
