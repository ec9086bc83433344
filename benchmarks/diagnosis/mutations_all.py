"""All mutations by their name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from diagnosis.mutations import FIRST
from diagnosis.mutations_rules import MORE

if TYPE_CHECKING:
    from diagnosis.mutations import Mutation

MUTATIONS: Final[dict[str, Mutation]] = {**FIRST, **MORE}
"""Faults and healthy variants."""
