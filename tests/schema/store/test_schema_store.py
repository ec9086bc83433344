"""Journal to store: what goes in comes out, whatever happens in between."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from journals import attributes, random_steps, write_journal
from steptrace_schema.encoding.chunk_shapes import chunk_shape, shard_steps_for
from steptrace_schema.errors import (
    DamagedTraceError,
    NotATraceError,
    TraceError,
    TraceExistsError,
    UnsupportedVersionError,
)
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.format.retention import Retain, last
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.storage.locks import exclusive
from steptrace_schema.store.opening import read_attributes, refuse_existing
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

DTYPES = st.sampled_from(["float32", "float64", "float16", "int32", "uint8", "bool"])


def read_all(store: Path) -> dict[str, npt.NDArray[Any]]:
    group = zarr.open_group(store, mode="r")
    members = group.members(max_depth=None)
    return {key: np.asarray(a[...]) for key, a in members if isinstance(a, zarr.Array)}


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rows=st.integers(1, 20), shard_steps=st.sampled_from([1, 3, 8]))
def test_any_tensor_comes_back_bit_for_bit(
    data: st.DataObject, rows: int, shard_steps: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("t") / "run.zarr"
    dtype = data.draw(DTYPES)
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=5))
    values = data.draw(hnp.arrays(dtype, (rows, *shape)))
    steps = [(i, {"gradients/a/b": values[i]}) for i in range(rows)]
    write_journal(store, steps, shard_steps=shard_steps)
    recover(store)
    found = read_all(store)["gradients/a/b"]
    assert found.dtype == values.dtype
    assert found.tobytes() == np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_an_interruption_before_the_commit_changes_nothing(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = random_steps(20)
    plain, broken = tmp_path / "plain.zarr", tmp_path / "broken.zarr"
    for store in (plain, broken):
        write_journal(store, steps, shard_steps=4).close("complete", None, attributes())
    recover(plain)

    class Power(Exception):
        pass

    commit, calls = TraceWriter.commit, []

    def fail(self: TraceWriter, new: Any) -> None:
        calls.append(1)
        if len(calls) > moved:
            raise Power
        commit(self, new)

    with monkeypatch.context() as patched:
        patched.setattr(TraceWriter, "commit", fail)
        with pytest.raises(Power):
            recover(broken)
    assert read_attributes(broken).records == 4 * moved
    recover(broken)
    a, b = read_all(plain), read_all(broken)
    assert a.keys() == b.keys()
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)


@pytest.mark.parametrize(("retain", "left"), [("all", 0), (last(2), 1)])
def test_records_that_were_committed_and_not_deleted_do_not_stay_in_the_journal(
    tmp_path: Path, retain: Retain, left: int
) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(8)
    policy = Policy(retain=retain)
    writer = write_journal(store, steps, shard_steps=4, policy=policy)
    before = [path.read_bytes() for path in sorted(writer.directory.glob("*.safetensors"))]
    next(JournalMover(writer.directory, store).move_all())
    for number, content in enumerate(before):  # as if its answer had been lost on the way
        (writer.directory / f"{number:08d}.safetensors").write_bytes(content)
    JournalMover(writer.directory, store)
    assert writer.pending_records() == len(steps) - 4 + left
    del writer  # as if its process had been killed
    recover(store)
    assert read_all(store)["scalars/step"].tolist() == list(range(8))


def test_updates_have_statistics_across_shards(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    steps = random_steps(10)
    make_journal(steps, shard_steps=4)
    recover(tmp_path / "run.zarr")
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    kernels = [arrays["weights/dense/kernel"].astype(np.float64) for _, arrays in steps]
    expected = [np.linalg.norm(b - a) for a, b in itertools.pairwise(kernels)]
    values = np.asarray(group["statistics/updates/values"])
    assert values[:, 0, STATISTIC_NAMES.index("l2")] == pytest.approx(expected, rel=1e-6)
    assert np.asarray(group["statistics/updates/step"]).tolist() == list(range(10))


def test_gaps_between_weights_have_no_update(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    kernel = np.ones((2, 2), np.float32)
    make_journal([(s, {"weights/k": kernel * s}) for s in (0, 1, 5, 6, 9)], shard_steps=2)
    recover(tmp_path / "run.zarr")
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert np.asarray(group["statistics/updates/step"]).tolist() == [0, 5]


def test_a_smaller_last_batch_is_padded_with_nan(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    rows = [np.ones((4, 2), np.float32), np.full((1, 2), 3, np.float32)]
    make_journal([(i, {"activations/d/output": row}) for i, row in enumerate(rows)])
    recover(tmp_path / "run.zarr")
    found = read_all(tmp_path / "run.zarr")
    assert np.isnan(found["activations/d/output"][1, 1:]).all()
    assert (found["activations/d/output"][1, 0] == 3).all()
    assert found["statistics/activations/values"][1, 0, 0] == 3  # the mean leaves padding out


def test_a_tensor_absent_from_one_step_is_listed_as_missing_there(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    a = np.ones(2, np.float32)
    make_journal(
        [(0, {"gradients/a": a, "gradients/b": a}), (1, {"gradients/a": a})], shard_steps=1
    )
    recover(tmp_path / "run.zarr")
    (missing,) = read_attributes(tmp_path / "run.zarr").missing
    assert (missing.kind, missing.path, missing.steps) == ("gradients", "b", (1,))
    assert "no value" in missing.reason


def test_a_static_array_has_no_step(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    spec = ArraySpec("probe", "x", ("sample",), (3,), "float32", static=True)
    writer = JournalWriter.create(journal_path(store), Declaration(attributes(), (spec,)))
    writer.append(0, {"probe/x": np.arange(3, dtype=np.float32)})
    writer.close("complete", None, attributes())
    recover(store)
    array = zarr.open_group(store, mode="r")["probe/x"]
    assert np.asarray(array).tolist() == [0, 1, 2]
    assert getattr(array.metadata, "dimension_names", None) == ("sample",)


def test_recover_is_idempotent_and_removes_the_journal(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    make_journal(random_steps(5))
    store = tmp_path / "run.zarr"
    assert recover(store) == 6
    before = read_all(store)
    assert not journal_path(store).exists()
    assert recover(store) == 0
    assert read_all(store).keys() == before.keys()
    assert read_attributes(store).status == "incomplete"


def test_what_a_killed_writer_left_under_a_temporary_name_is_removed(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    journal = make_journal(random_steps(3)).directory
    (journal / ".tmpkkj5vZ").write_bytes(b"half a record")
    (journal / "00000004.partial").write_bytes(b"half a record")
    assert recover(tmp_path / "run.zarr") == 4
    assert not journal.exists()


def test_recover_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotATraceError, match="neither a trace"):
        recover(tmp_path / "none.zarr")


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"attributes": {"run_id": 3}, "arrays": []}']
)
def test_a_declaration_that_is_damaged_is_named_in_one_sentence(
    tmp_path: Path, make_journal: Callable[..., JournalWriter], content: str
) -> None:
    declaration = make_journal(random_steps(2)).directory / "declaration.json"
    declaration.write_text(content)
    with pytest.raises(DamagedTraceError) as caught:
        recover(tmp_path / "run.zarr")
    said = str(caught.value)
    assert said.startswith(f"{declaration} is not a readable journal declaration (")
    assert said.endswith(
        f"; put a copy of it back, or move {declaration.parent} away to continue with what the "
        "store has"
    )
    assert "\n" not in said


@pytest.mark.parametrize(
    "content", ["{", '{"status": "complete"}', '{"attributes": {"run_id": 3}}']
)
def test_a_damaged_end_of_a_run_can_be_moved_away(
    tmp_path: Path, make_journal: Callable[..., JournalWriter], content: str
) -> None:
    closed = make_journal(random_steps(2)).directory / "closed.json"
    closed.write_text(content)
    with pytest.raises(DamagedTraceError, match=r"closed\.json does not say.*move it away and run"):
        recover(tmp_path / "run.zarr")
    closed.rename(tmp_path / "away")
    assert recover(tmp_path / "run.zarr") == 3
    assert read_attributes(tmp_path / "run.zarr").status == "incomplete"


def test_a_journal_that_is_being_moved_is_left_alone(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    make_journal(random_steps(2))
    with (
        exclusive(journal_path(tmp_path / "run.zarr")),
        pytest.raises(TraceError, match="another process"),
    ):
        recover(tmp_path / "run.zarr")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_journal(tmp_path / "run.zarr", random_steps(2))
    record = journal_path(tmp_path / "run.zarr") / "00000001.safetensors"
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(DamagedTraceError, match=r"00000001\.safetensors"):
        recover(tmp_path / "run.zarr")


def test_plain_xarray_opens_the_store(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    steps = random_steps(20)
    make_journal(steps, shard_steps=8)
    recover(tmp_path / "run.zarr")
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=True)
    kernel = tree["weights/dense"].dataset["kernel"]
    assert kernel.dims[0] == "step"
    assert kernel.step.values.tolist() == list(range(21))
    assert tree["gradients"].step.size == 20
    for step, arrays in steps:
        assert np.array_equal(kernel.sel(step=step).values, arrays["weights/dense/kernel"])


class TestRefusal:
    def test_an_existing_trace_is_kept(
        self, tmp_path: Path, make_journal: Callable[..., JournalWriter]
    ) -> None:
        make_journal(random_steps(1))
        recover(tmp_path / "run.zarr")
        with pytest.raises(TraceExistsError, match="overwrite=True"):
            refuse_existing(tmp_path / "run.zarr", overwrite=False)
        refuse_existing(tmp_path / "run.zarr", overwrite=True)
        assert not (tmp_path / "run.zarr").exists()

    def test_a_folder_that_is_no_trace_is_never_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_text("cat")
        with pytest.raises(TraceExistsError, match="is not a trace"):
            refuse_existing(tmp_path / "photos", overwrite=True)
        assert (tmp_path / "photos" / "cat.jpg").exists()

    def test_a_journal_alone_is_a_trace_too(
        self, tmp_path: Path, make_journal: Callable[..., JournalWriter]
    ) -> None:
        make_journal(random_steps(1))
        with pytest.raises(TraceExistsError, match="journal"):
            refuse_existing(tmp_path / "run.zarr", overwrite=False)
        refuse_existing(tmp_path / "run.zarr", overwrite=True)
        assert not JournalReader(journal_path(tmp_path / "run.zarr")).exists


def test_other_versions_are_refused_or_read(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    make_journal(random_steps(1))
    store = tmp_path / "run.zarr"
    recover(store)
    metadata = json.loads((store / "zarr.json").read_text())
    metadata["attributes"]["steptrace"] |= {"version": "1.9", "later": [1]}
    (store / "zarr.json").write_text(json.dumps(metadata))
    assert read_attributes(store).model_extra == {"later": [1]}
    metadata["attributes"]["steptrace"]["version"] = "2.0"
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(UnsupportedVersionError, match=r"format 2\.0.*reads format 1\.x.*upgrade"):
        read_attributes(store)


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"attributes": {}}'])
def test_what_is_not_a_trace_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x.zarr"
    if content is not None:
        path.mkdir()
        (path / "zarr.json").write_text(content)
    with pytest.raises(NotATraceError, match=r"x\.zarr"):
        read_attributes(path)


@given(
    st.lists(st.integers(1, 3000), max_size=4).map(tuple),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([8, 64, 256]),
)
def test_chunks_keep_point_reads_cheap(shape: tuple[int, ...], itemsize: int, shard: int) -> None:
    chunk = chunk_shape(shape, itemsize, shard)
    chunk_bytes = int(np.prod(chunk)) * itemsize
    assert shard % chunk[0] == 0
    # More than eight steps, or units, only where chunks would be small otherwise.
    assert chunk[0] == 8 or chunk_bytes <= 256 * 2**10
    assert not shape or chunk[-1] <= 8 or chunk_bytes <= 256 * 2**10
    assert chunk_bytes <= 4 * 2**20 or all(n == 1 for n in chunk[1:-1])


def test_shards_gather_more_steps_of_small_models() -> None:
    assert shard_steps_for(61_000_000) == 8
    assert shard_steps_for(2_000_000) == 64
    assert shard_steps_for(100) == 256


def test_the_folder_can_be_moved(
    tmp_path: Path, make_journal: Callable[..., JournalWriter]
) -> None:
    make_journal(random_steps(3))
    recover(tmp_path / "run.zarr")
    shutil.move(tmp_path / "run.zarr", tmp_path / "elsewhere.zarr")
    assert read_attributes(tmp_path / "elsewhere.zarr").steps_recorded["weights"] == 4
