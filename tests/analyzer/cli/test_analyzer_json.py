"""What a command prints with ``--json`` is what its published schema says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.cli._documents import DOCUMENTS
from steptrace_analyzer.differences.result import TensorDiff
from steptrace_schema.json_ready import as_json, json_schema

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMAS = Path(__file__).parents[3] / "docs" / "json"


def _schema(command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{command}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def _strict(schema: Any) -> Any:
    """Return a schema that allows nothing which it does not name."""
    if isinstance(schema, dict):
        strict = {name: _strict(part) for name, part in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            strict["additionalProperties"] = False
        return strict
    return [_strict(part) for part in schema] if isinstance(schema, list) else schema


def _printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert app.run([*map(str, arguments), "--json"]) in (0, 1)
    out = capsys.readouterr().out
    assert out.isascii()
    return json.loads(out, parse_constant=refuse)


@pytest.mark.parametrize("command", DOCUMENTS)
@pytest.mark.parametrize("fields", [{}, {"poison": (30,)}, {"input_scale": {40: 40.0}}])
def test_the_json_of_a_command_follows_its_schema(
    capsys: pytest.CaptureFixture[str],
    write_run: Callable[..., Path],
    healthy_path: Path,
    command: str,
    fields: dict[str, Any],
) -> None:
    others = [healthy_path] if command in ("diff", "compare") else []
    printed = _printed(capsys, command, write_run(**fields), *others)
    schema = _schema(command)
    jsonschema.validate(printed, _strict(schema))
    assert set(printed) == set(schema["properties"])


def test_the_json_of_a_broken_trace_follows_its_schema(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "run.zarr"
    shutil.copytree(healthy_path, broken)
    shutil.rmtree(broken / "gradients" / "sequential" / "dense")
    printed = _printed(capsys, "validate", broken)
    assert printed["problems"]
    jsonschema.validate(printed, _strict(_schema("validate")))


def test_a_schema_refuses_what_is_not_a_result(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    printed = _printed(capsys, "info", healthy_path)
    for change in ({"stored_bytes": "many"}, {"kinds": [{"kind": "weights"}]}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(printed | change, _strict(_schema("info")))


def test_numbers_that_json_does_not_have_are_null_and_allowed_to_be() -> None:
    numbers = (math.nan, math.inf, -math.inf, 0.5, None)
    tensor = TensorDiff("weights", "a", 1, 1, *numbers, None, None, None, 0, 0, 0)
    fields = as_json(tensor)
    names = ("max_abs", "mean_abs", "max_rel", "mean_rel", "cosine")
    assert [fields[name] for name in names] == [None, None, None, 0.5, None]
    json.dumps(fields, allow_nan=False)
    jsonschema.validate(fields, json_schema(TensorDiff))
