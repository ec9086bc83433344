"""Traces of a later minor version are read as far as this one knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from journals import attributes
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


def test_a_policy_of_ones_own_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Policy(colour="green")  # type: ignore[call-arg]
