"""Reading and writing exactly as many bytes as were asked for."""

from __future__ import annotations

import os
from typing import Final

_MOST_BUFFERS: Final = 512  # of one system call; the limit is 1024 on Linux


def write_all(descriptor: int, buffers: list[memoryview]) -> None:
    """Write everything; a system call may write less than it was given."""
    for start in range(0, len(buffers), _MOST_BUFFERS):
        pending = buffers[start : start + _MOST_BUFFERS]
        while pending:
            written = os.writev(descriptor, pending)
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]


def read_bytes(descriptor: int, begin: int, target: memoryview) -> None:
    """Fill `target` with the bytes of an open file from position `begin` on.

    Raises
    ------
    ValueError
        If the file ends before.
    """
    done = 0
    while done < len(target):  # a system call may read less than it was asked for
        count = os.preadv(descriptor, [target[done:]], begin + done)
        if count == 0:
            msg = f"it ends after {begin + done} bytes"
            raise ValueError(msg)
        done += count
