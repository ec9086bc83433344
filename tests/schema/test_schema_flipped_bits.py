"""A flipped bit anywhere in a chunk is named, and everything else stays readable."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from journals import attributes, random_steps, write_journal
from steptrace_analyzer.open import open_trace
from steptrace_schema.compact import recover
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

FLIPS = 40
SHARD_STEPS = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("whole") / "run.zarr"
    steps = random_steps(21)
    writer = write_journal(store, steps, shard_steps=SHARD_STEPS)
    writer.close("complete", None, attributes(shard_steps=SHARD_STEPS))
    recover(store)
    return store


def _chunks(store: Path) -> list[Path]:
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "zarr.json")
    return sorted(path.relative_to(store) for path in files)


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def _values(tree: xr.DataTree, key: str) -> bytes:
    found = tree[key]
    assert isinstance(found, xr.DataArray)
    return found.to_numpy().tobytes()


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_bit_is_named_with_its_array_chunk_and_steps(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    store = tmp_path / "run.zarr"
    shutil.copytree(whole, store)
    chunk = chance.choice(_chunks(store))
    _flip(store / chunk, chance)
    key, _, place = chunk.as_posix().rpartition("/c/")
    problems = [p for p in validate(store) if p.rule != "R11"]  # these have few scalars
    assert {(p.path, p.rule) for p in problems} == {(key, "R18")}
    assert f"c/{place}" in problems[0].found
    assert "steps" in problems[0].found or key.endswith("step")
    if key.endswith("/step"):  # without its steps a kind cannot be told apart by step
        with pytest.raises(DamagedTraceError, match=f"'{key}'"):
            open_trace(store)
        return
    tree, sound = open_trace(store), open_trace(whole)
    with pytest.raises(DamagedTraceError, match=f"'{key}'"):
        _values(tree, key)
    others = {"weights/dense/kernel", "gradients/dense/kernel", "scalars/loss"} - {key}
    for other in others:
        assert _values(tree, other) == _values(sound, other)
    if key in ("weights/dense/kernel", "gradients/dense/kernel"):
        row = SHARD_STEPS * int(place.partition("/")[0])
        for start in {0, 8, 16} - {row}:
            left = tree[key].isel(step=slice(start, start + SHARD_STEPS)).to_numpy()
            right = sound[key].isel(step=slice(start, start + SHARD_STEPS)).to_numpy()
            assert np.array_equal(left, right)
