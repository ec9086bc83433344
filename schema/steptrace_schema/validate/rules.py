"""The numbered rules of the specification, and what a violation of one looks like."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

Level = Literal["attributes", "hierarchy", "data"]
"""How deep to look: the root attributes; also every array's metadata; also every chunk."""

LEVELS: Final[tuple[Level, ...]] = ("attributes", "hierarchy", "data")

RULES: Final[dict[str, str]] = {
    "R1": "The root MUST be a Zarr v3 group.",
    "R2": "Every zarr.json MUST be valid JSON; NaN and Infinity are not.",
    "R3": "The root attribute 'steptrace' MUST declare a supported version.",
    "R4": "The root attributes MUST have the fields and types of section 6.",
    "R5": "A trace that is not being recorded MUST say when it finished, and one that is "
    "incomplete MUST say why.",
    "R6": "Every array MUST name all its dimensions.",
    "R7": "Every group and array name MUST be a safe path segment.",
    "R8": "Every kind with rows MUST have an int64 coordinate 'step' with dims (step,).",
    "R9": "Arrays of one kind that have a step dimension MUST have it first, and have as many "
    "rows as 'steps_recorded' says.",
    "R10": "A dimension MUST have one size within a group and its ancestor groups.",
    "R11": "'scalars' MUST have every required array of section 7, where it has a row.",
    "R12": "Fill values MUST be NaN, -1, the largest unsigned value, or false, by type.",
    "R13": "Statistics MUST be float64 (step, tensor, statistic) with the names of both as "
    "attributes.",
    "R14": "Whatever is declared MUST be recorded, or be listed as missing with a reason.",
    "R15": "Steps MUST be non-negative and strictly increasing.",
    "R16": "A complete trace that records weights MUST have the weights after its last step.",
    "R17": "Every chunk of a recorded row MUST be stored.",
    "R18": "Every stored chunk MUST decode, with its checksum.",
    "R19": "From version 1.2 on, the root's zarr.json MUST have the checksum that it states.",
    "R20": "From version 1.2 on, every zarr.json MUST be, as JSON, what the consolidated metadata "
    "in the root say, where there are any.",
    "R21": "Digests, where there are any, MUST be int64 (step, tensor), one for each tensor of the "
    "statistics beside them.",
    "R22": "Every digest that is not -1 MUST be that of the recorded tensor, where the tensor is "
    "recorded.",
    "R23": "Every incident that the root lists MUST have its arrays, those that its arguments name "
    "among them.",
    "R24": "Every array that the root lists under 'final' MUST be there, with the shape and type "
    "of a row of the weight of the same path.",
    "R25": "'inputs/sample_statistics' MUST have one column for each name that the root lists "
    "under 'sample_statistics'.",
}
"""Every rule of the specification that a program can check, by number."""


MOST_PROBLEMS: Final = 1000
"""So many are looked for: what a trace claims may lack millions of files."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One violation of a rule.

    Attributes
    ----------
    path
        Array or group inside the trace, ``/`` for the root.
    rule
        Number of the rule, a key of :data:`RULES`.
    expected, found
        What the rule asks for and what is there.
    remedy
        What to do about it.
    """

    path: str
    rule: str
    expected: str
    found: str
    remedy: str


COPY: Final = "copy the trace again from its source"
"""Remedy for a trace that is not whole."""
RESTORE: Final = (
    "copy the trace again from its source; a program that changes the root on purpose has to state "
    "the checksum again"
)
"""Remedy for a root that is not what was written."""
REWRITE: Final = "the program that wrote the trace must be corrected"
"""Remedy for a trace that was never right."""
