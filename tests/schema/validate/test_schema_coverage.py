"""Declared against recorded."""

from __future__ import annotations

from steptrace_schema.format.attributes import Layer, Missing, TraceAttributes
from steptrace_schema.format.policy import Policy
from steptrace_schema.validate.coverage import Coverage, coverage, summarize

ATTRIBUTES = TraceAttributes(
    run_id="a",
    created="",
    producer="",
    policy=Policy(),
    layers=tuple(Layer(path=p, name=p, class_name="Dense") for p in ("net", "net/a", "net/a/cell")),
    declared={
        "gradients": ("net/a/cell/kernel", "net/a/bias"),
        "inputs": ("x", "x_gradient"),
        "weights": ("net/a/cell/kernel", "net/a/bias", "net/a/scale"),
    },
    missing=(
        Missing(kind="inputs", path="x_gradient", reason="x is not floating point"),
        Missing(kind="gradients", path="net/a/bias", reason="of a second step", steps=(3,)),
    ),
)
ARRAYS = {
    "inputs/x",
    "gradients/net/a/bias",
    "gradients/net/a/cell/kernel",
    "weights/net/a/cell/kernel",
    "weights/net/a/scale",
    "weights/undeclared",
}


def test_every_declared_tensor_counts_once_for_its_innermost_layer() -> None:
    assert coverage(ATTRIBUTES, ARRAYS) == (
        Coverage("weights", "net/a/cell", 1, 1, 0),
        Coverage("weights", "net/a", 2, 1, 0),
        Coverage("gradients", "net/a/cell", 1, 1, 0),
        Coverage("gradients", "net/a", 1, 1, 0),
        Coverage("inputs", "", 2, 1, 1),
    )


def test_what_has_neither_data_nor_reason_is_said_to_have_none() -> None:
    found = coverage(ATTRIBUTES, ARRAYS)
    assert [row.unexplained for row in found] == [0, 1, 0, 0, 0]
    assert summarize(found) == (
        "5 of 7 declared tensors recorded, 1 missing with a reason, 1 missing without one"
    )


def test_a_reason_for_some_steps_does_not_explain_a_tensor_without_data() -> None:
    found = coverage(ATTRIBUTES, ARRAYS - {"gradients/net/a/bias"})
    assert [row.unexplained for row in found if row.kind == "gradients"] == [0, 1]
