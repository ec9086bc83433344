"""With durability="fsync", what was acknowledged is on the disk, whenever the power goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from journals import attributes, random_steps, write_journal
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.ring import Ring, RingSize, Slot
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import JournalMover

if TYPE_CHECKING:
    from collections.abc import Iterable

STEPS = random_steps(4)
RUN = "runs/today/run.zarr"
"""Below folders that the journal makes, and that have to last as it does."""


class SimulatedDisk:
    """What would be left of a folder: contents and names as of the last fsync of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._sync = os.fsync
        self._held: dict[int, int] = {}
        self.states = 0

    def fsync(self, descriptor: int) -> None:
        self._sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        number = os.fstat(descriptor).st_ino
        if number not in self._held:  # so that no other file ever gets the number
            self._held[number] = os.dup(descriptor)
        if path.is_dir():
            found = [(entry, entry.stat()) for entry in path.iterdir()]
            self._names[number] = {e.name: (status.st_ino, e.is_dir()) for e, status in found}
        else:
            self._contents[number] = path.read_bytes()

    def release(self) -> None:
        """Close what was held open."""
        for descriptor in self._held.values():
            os.close(descriptor)

    def restore(self, target: Path) -> None:
        """Write below `target` what the disk holds for certain."""
        self._restore(self._folder.stat().st_ino, target)
        self.states += 1

    def restore_names(self, target: Path) -> None:
        """Write below `target` what it holds if names got there that nobody waited for."""
        for path in (self._folder, *self._folder.rglob("*")):
            place = target / path.relative_to(self._folder)
            if path.is_dir():
                place.mkdir()
            else:
                place.write_bytes(self._contents.get(path.stat().st_ino, b""))

    def _restore(self, number: int, target: Path) -> None:
        target.mkdir()
        for name, (inner, is_folder) in self._names.get(number, {}).items():
            if is_folder:
                self._restore(inner, target / name)
            else:
                (target / name).write_bytes(self._contents.get(inner, b""))


def _holds(folder: Path, acknowledged: int) -> bool:
    kernel = open_trace(folder / RUN)["weights/dense"].dataset["kernel"].to_numpy()
    rows = [arrays["weights/dense/kernel"] for _, arrays in STEPS[:acknowledged]]
    return bool(np.array_equal(kernel[:acknowledged], np.stack(rows)))


@pytest.mark.parametrize("ring", [None, RingSize(3, 4096)], ids=["files", "ring"])
def test_acknowledged_steps_survive_a_loss_of_power_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: RingSize | None
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = SimulatedDisk(folder)
    lost: list[tuple[Path, int]] = []
    acknowledged = 0

    def check() -> None:
        if acknowledged:
            target, names = tmp_path / f"after-{disk.states}", tmp_path / f"names-{disk.states}"
            disk.restore_names(names)
            disk.restore(target)
            lost.extend((f, acknowledged) for f in (target, names) if not _holds(f, acknowledged))

    unlink = Path.unlink

    def unlink_after_a_loss(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".safetensors":  # the last moment at which a loss would show
            check()
        unlink(self, missing_ok=missing_ok)

    release = Ring.release

    def release_after_a_loss(self: Ring, slots: Iterable[Slot]) -> None:
        check()
        release(self, slots)

    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(Path, "unlink", unlink_after_a_loss)
    monkeypatch.setattr(Ring, "release", release_after_a_loss)
    store = folder / RUN
    writer = write_journal(
        store, [], specify_for=STEPS, ring=ring, shard_steps=2, policy=Policy(durability="fsync")
    )
    mover = JournalMover(writer.directory, store)
    for step, arrays in STEPS:
        writer.append(step, arrays)
        acknowledged += 1
        check()
        mover.move_ready()
        check()
    writer.close("complete", None, attributes(policy=Policy(durability="fsync"), shard_steps=2))
    mover.finish("complete", None)
    assert not journal_path(store).exists()
    check()
    disk.release()
    assert lost == []
    assert disk.states >= 2 * len(STEPS)


@pytest.mark.parametrize("ring", [None, RingSize(3, 4096)], ids=["files", "ring"])
def test_without_it_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: RingSize | None
) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    store = tmp_path / "run.zarr"
    writer = write_journal(store, STEPS, ring=ring, shard_steps=2)
    JournalMover(writer.directory, store).finish("complete", None)
    assert waits == []
