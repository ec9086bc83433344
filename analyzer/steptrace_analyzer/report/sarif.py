"""What a comparison found as SARIF, which code hosts show beside a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_analyzer.text import printable
from steptrace_schema.json_ready import as_json
from steptrace_schema.version import PACKAGE_VERSION

if TYPE_CHECKING:
    from steptrace_analyzer.differences.divergence_result import Verdict
    from steptrace_analyzer.differences.result import DiffResult

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_RULES: Final[dict[Verdict, str]] = {
    "differs": "Two runs that should be equal differ.",
    "rounding-sized": "Two runs differ by no more than rounding makes.",
    "within noise": "Two runs differ by no more than repeats do.",
    "inconclusive": "Two runs could not be compared in all that matters.",
}


def sarif_document(result: DiffResult, *, fails: bool) -> dict[str, Any]:
    """Return the log of one comparison (SARIF 2.1.0, OASIS 2020).

    Parameters
    ----------
    result
        What :func:`steptrace_analyzer.diff` found.
    fails
        Whether this is an error to whoever asked; else it is a note. What is inconclusive is a
        warning, unless it fails.

    Returns
    -------
    dict
        JSON-ready. One result, at the second side's path, with the step, phase, tensor and unit as
        properties; none where the two are equal.

    Examples
    --------
    >>> sarif_document(diff("a.zarr", "b.zarr"), fails=True)["runs"][0]["results"]  # doctest: +SKIP
    """
    names = list(_RULES)
    results = []
    if result.verdict != "equal":
        level = "warning" if result.verdict == "inconclusive" else "note"
        results.append(
            {
                "ruleId": result.verdict.replace(" ", "-"),
                "ruleIndex": names.index(result.verdict),
                "level": "error" if fails else level,
                "message": {"text": printable(_message(result))},
                "locations": [_location(result)],
                "properties": _properties(result),
            }
        )
    driver = {
        "name": "steptrace diff",
        "version": PACKAGE_VERSION,
        "rules": [
            {"id": name.replace(" ", "-"), "shortDescription": {"text": text}}
            for name, text in _RULES.items()
        ],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    document: dict[str, Any] = as_json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})
    return document


def _message(result: DiffResult) -> str:
    said = [f"{result} ({result.coverage})"]
    found = result.divergence
    if found is not None:
        said += [text for text in (found.origin, *found.recognised) if text]
        said += found.not_compared if result.verdict == "inconclusive" else ()
    if result.noise is not None:
        said.append(str(result.noise))
    return ". ".join(said)


def _location(result: DiffResult) -> dict[str, Any]:
    from urllib.parse import quote

    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(result.b, safe="/:")},
            "region": {"startLine": 1},
        }
    }
    first = result.first_difference
    if first is not None:
        name = printable(f"{first.kind}/{first.path}")
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "member"}]
    return location


def _properties(result: DiffResult) -> dict[str, Any]:
    place = result.divergence.place if result.divergence is not None else None
    known = {"verdict": result.verdict, "coverage": result.coverage.share}
    if place is None:
        return known
    return {
        **known,
        "step": place.step,
        "phase": place.phase,
        "tensor": printable(place.name),
        "unit": place.unit,
        "sample": place.sample,
    }
