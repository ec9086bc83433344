"""Some changed inputs of each kind in every test run; `tests/fuzzing.py` runs any number."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import TARGETS, Material, one
from steptrace_schema.encoding import chunk_shapes

if TYPE_CHECKING:
    from pathlib import Path

CORPUS: Final = (
    ("zips", 0, 4),
    ("journals", 1, 8839),
    ("metadata", 1, 1919),
    ("metadata", 2, 664),
)
"""Target, seed and number of every input that has ever ended in another way than it may."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    before = chunk_shapes._SMALL_CHUNK
    try:
        return Material(tmp_path_factory.mktemp("material"))
    finally:
        chunk_shapes._SMALL_CHUNK = before


@pytest.mark.sampled(2)  # `fuzzing.py` tries all of them, in `.ci/run` too
@pytest.mark.parametrize("target", TARGETS)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(changes=st.randoms(use_true_random=False))
def test_what_a_stranger_sends_ends_in_a_result_or_in_one_sentence(
    target: str,
    changes: random.Random,
    material: Material,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    _run(target, changes, material, tmp_path_factory.mktemp("input"))


@pytest.mark.parametrize(("target", "seed", "number"), CORPUS)
def test_what_once_ended_otherwise_does_not_any_more(
    target: str, seed: int, number: int, material: Material, tmp_path: Path
) -> None:
    _run(target, random.Random(f"{target}-{seed}-{number}"), material, tmp_path)


def _run(target: str, changes: random.Random, material: Material, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that overflow, as damaged ones do
        one(target, changes, material, folder)
