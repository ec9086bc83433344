"""What a stranger could send: changed metadata and chunks, with checksums that are right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from journals import random_steps, write_journal
from steptrace_schema.encoding.codecs import checksum
from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.recover import recover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MARK = "must stay as it is"


def killed_journal(store: Path, steps: int = 9, **fields: Any) -> Path:
    """Write a journal whose training is dead, and return its folder."""
    writer = write_journal(store, random_steps(steps), **{"shard_steps": 8, **fields})
    writer._release()
    return journal_path(store)


def finished_trace(store: Path, steps: int = 9, **fields: Any) -> Path:
    """Write a small finished trace."""
    writer = write_journal(store, random_steps(steps), **{"shard_steps": 8, **fields})
    writer.close("complete", None, writer_attributes(writer.directory))
    recover(store)
    return store


def writer_attributes(journal: Path) -> Any:
    """Return the attributes that a journal declares."""
    from steptrace_schema.journal.reader import JournalReader

    return JournalReader(journal).declaration().attributes


def edit_declaration(journal: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a journal declares."""
    path = journal / "declaration.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def edit_metadata(
    store: Path, key: str, change: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Change the metadata of a group or array, in its file and in the root, with its checksum."""
    root_path = store / "zarr.json"
    root = json.loads(root_path.read_bytes())
    if not key:
        change(root)
        root_path.write_bytes(sealed(root))
        return dict(root)
    path = store / key / "zarr.json"
    metadata = json.loads(path.read_bytes())
    change(metadata)
    path.write_text(json.dumps(metadata))
    entries = root.get("consolidated_metadata", {}).get("metadata", {})
    if key in entries:
        entries[key] = metadata
        root_path.write_bytes(sealed(root))
    return dict(metadata)


def with_checksum(content: bytes) -> bytes:
    """Return a chunk's content with the checksum that a reader compares."""
    return content + checksum(content)


def shard_of(chunks: list[bytes], counts: tuple[int, ...]) -> bytes:
    """Return a shard of chunks that have their checksums already, with a right index."""
    index = np.full((len(chunks), 2), 2**64 - 1, "<u8")
    offset = 0
    for number, chunk in enumerate(chunks):
        index[number] = offset, len(chunk)
        offset += len(chunk)
    return b"".join(chunks) + with_checksum(index.reshape(*counts, 2).tobytes())


def files_below(folder: Path) -> dict[str, bytes]:
    """Return everything that is in a folder, to compare before and after."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
