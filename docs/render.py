"""Render the tables of the specification from the code, between markers in SPEC.md.

Run ``python docs/render.py`` after a change of the tables; the tests compare.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from steptrace_schema.format.array_table import ARRAYS
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.names import KINDS
from steptrace_schema.statistics.describe import DEFINITIONS
from steptrace_schema.validate import RULES

SPEC = Path(__file__).parents[1] / "schema" / "SPEC.md"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


SCHEMA: Final = TraceAttributes.model_json_schema(mode="validation")

OBJECTS: Final = {
    "`missing[]`": "Missing",
    "`model`": "Model",
    "`layers[]`": "Layer",
    "`optimizer`": "Optimizer",
    "`losses[]`": "TargetLoss",
    "`phases[]`": "Phase",
    "`phases[].optimizers[]`": "PhaseOptimizer",
    "`intervals[]`": "Interval",
    "`worker`": "Worker",
    "`events[]`": "Event",
    "`proofs[]`": "Proof",
    "`incidents[]`": "Incident",
    "`final`": "FinalWeights",
    "`policy.retain`, the last steps": "RetainLast",
    "`policy.retain`, around triggers": "RetainAround",
}
"""Objects of section 6 by where they stand: what the code calls them."""

POLICY: Final = {
    "kinds": "kinds to record; `scalars` always is",
    "every": "steps whose number is a multiple of it",
    "max_slowdown": "how much longer the training may take for the recording, as a part of its "
    "time; `intervals` says what that came to",
    "windows": "only steps in these ranges: from the first number on, and before the second; empty "
    "means all",
    "epochs": "only steps of these epochs; null means all",
    "samples": "how many samples of a batch, the first ones; or the ids of those that are kept",
    "include": "shell patterns; a path that none of them matches is left out",
    "exclude": "shell patterns; a path that one of them matches is left out",
    "precision": "bits of the mantissa that are kept, by kind; `bfloat16` keeps 7",
    "statistics_only": "kinds of which only the statistics are recorded",
    "sample_statistics": "whether `inputs/sample_statistics` is recorded",
    "step_bytes": "most bytes of a step, before encoding",
    "total_bytes": "most bytes of all steps, before encoding",
    "disk_limit": "most bytes of store and journal together",
    "probe_gradients_every": "the probe is differentiated at every so-many-th recorded step; "
    '"auto" stands for few steps and few layers',
    "probe_unit": "unit that is differentiated; null means the one of the largest mean activation",
    "profile": "how arrays are encoded (section 7)",
    "durability": "what recorded steps survive: the death of the process, or a loss of power",
    "retain": "which steps keep their tensors: all, the `steps` last ones and every `every`-th one "
    "of those before them, or those from `before` to `after` around the `triggers`",
}
"""What each field of the policy means."""


def _type(schema: dict[str, Any]) -> str:
    """Return what a JSON schema allows, in words."""
    if "$ref" in schema:
        return _type(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return "kind" if values == [*KINDS] else " or ".join(_code(json.dumps(v)) for v in values)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(map(_type, schema['prefixItems']))}]"
        each = _type(schema["items"])
        return f"list of ({each})" if " or " in each else f"list of {each}"
    of = schema.get("additionalProperties")
    return f"object: kind to {_type(of)}" if isinstance(of, dict) else str(schema["type"])


def _rows(name: str) -> list[tuple[str, str, str | None]]:
    """Return field, type and default of an object of the root attributes, None without one."""
    found = SCHEMA["$defs"][name]
    return [
        (
            _code(field),
            _type(schema),
            None
            if field in found.get("required", ()) or "const" in schema
            else json.dumps(schema.get("default", {})),
        )
        for field, schema in found["properties"].items()
    ]


def _fields_of_objects() -> list[tuple[str, ...]]:
    return [
        (
            where,
            ", ".join(f"{field} ({kind})" for field, kind, default in _rows(name) if not default),
            ", ".join(
                f"{field} ({kind}; {default})" for field, kind, default in _rows(name) if default
            ),
        )
        for where, name in OBJECTS.items()
    ]


def _fields_of_policy() -> list[tuple[str, ...]]:
    return [
        (field, kind, default or "", POLICY[field.strip("`")])
        for field, kind, default in _rows("Policy")
    ]


TABLES: dict[str, str] = {
    "arrays": _table(
        ("array", "dims", "dtype", "unit", "required", "row t holds"),
        [
            (
                _code(f"{a.kind}/{a.name}"),
                _code(a.dims),
                a.dtype,
                _code(a.unit),
                a.required,
                a.meaning,
            )
            for a in ARRAYS
        ],
    ),
    "statistics": _table(
        ("statistic", "definition"), [(_code(k), v) for k, v in DEFINITIONS.items()]
    ),
    "fields": _table(("object", "has (type)", "may have (type; default)"), _fields_of_objects()),
    "policy": _table(("field", "type", "default", "meaning"), _fields_of_policy()),
    "rules": _table(("rule", "text"), [(f"**{k}**", v) for k, v in RULES.items()]),
}
"""Each table by the name of its marker."""


def render(text: str) -> str:
    """Return `text` with every table between its markers replaced by the one from the code."""
    for name, table in TABLES.items():
        text = re.sub(
            rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)",
            lambda match, table=table: f"{match.group(1)}{table}\n{match.group(2)}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    SPEC.write_text(render(SPEC.read_text(encoding="utf-8")), encoding="utf-8")
