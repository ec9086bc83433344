"""Results as JSON, and the JSON schema of each.

JSON has no NaN and no infinity: where a result has one, its JSON has null.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_json(result: object) -> Any:
    """Return a dataclass, or a model of pydantic, as values that JSON has.

    Examples
    --------
    >>> as_json(Change(value=math.nan, usual=1.0, z=3.0))  # doctest: +SKIP
    {'value': None, 'usual': 1.0, 'z': 3.0, 'ratio': None}
    """
    kind: Any = type(result)
    plain = _adapter(kind).dump_python(result, mode="json")
    return to_jsonable_python(plain, inf_nan_mode="null")


def json_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of what :func:`as_json` makes of a result."""
    schema: dict[str, Any] = _adapter(kind).json_schema(
        mode="serialization", schema_generator=_Written
    )
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


class _Written(GenerateJsonSchema):
    """Describes what is written: every field, and null for a float that is NaN or infinite."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True

    def float_schema(self, schema: Any) -> dict[str, Any]:
        return {**super().float_schema(schema), "type": ["number", "null"]}
