"""What the tracer's commands print with ``--json`` is what their published schemas say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from steptrace_schema.format.policy import Policy
from steptrace_tracer.planning.document import PlannedTensors
from steptrace_tracer.planning.plan import Plan
from steptrace_tracer.verification.verify import Difference, Verification

SCHEMAS = Path(__file__).parents[3] / "docs" / "json"

ROW = PlannedTensors("weights", "net/dense", 2, 80, 60.5)
PLAN = Plan(Policy(every=2), (ROW,), (), 10, 5, 0.1, 0.2, budget=900, fitting=Policy(every=4))


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("plan", PLAN),
        ("plan", Plan(Policy(), (ROW,), (), None, None, 0.1, 0.2)),
        ("verify", Verification("identical", 1, 10, 4)),
        ("verify", Verification("different", 1, 10, 4, Difference(0, -1, None))),
    ],
)
def test_the_json_of_a_command_follows_its_schema(command: str, result: Any) -> None:
    schema = json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8"))
    printed = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    jsonschema.validate(printed, schema)
    assert set(printed) == set(schema["properties"]) == set(schema["required"])


def test_a_plan_prints_what_it_computes() -> None:
    printed = PLAN.to_dict()
    assert printed["tensors"] == [
        {
            "kind": "weights",
            "layer": "net/dense",
            "tensors": 2,
            "step_bytes": 80,
            "stored_bytes": 60.5,
        }
    ]
    assert printed["stored_bytes"] == round(60.5 * 6)
    assert printed["run_bytes"] == 80 * 5 + 80  # steps 0, 2, 4, 6 and 8, and the last weights
    assert printed["slow_down"] == pytest.approx(2)
    assert printed["fitting"] == "Tracer('run.zarr', every=4)"
