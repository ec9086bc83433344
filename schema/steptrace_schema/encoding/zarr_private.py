"""The names of zarr that its documentation does not list, each with what it is needed for.

``zarr.core.sync.sync``
    Waits for what a store returns as a coroutine: packed traces and traces in object stores.
``Array.metadata.encode_chunk_key``
    Names the file of a chunk: every direct read, and the message that names a damaged file.

Each is looked for when it is first needed, and its absence is an error that says so. Beside these
names, `Encoding.of` needs `Array.metadata.to_dict`, which is public, to state codecs as the file
does; where it does not, whoever opens the trace warns that reading is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import UnsupportedLibraryError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import zarr

_CHUNK_KEY: Final = "Array.metadata.encode_chunk_key"
_SYNC: Final = "zarr.core.sync.sync"


def chunk_keys(array: zarr.Array[Any]) -> Callable[[tuple[int, ...]], str]:
    """Return what names the stored object at a position of the array's grid, below the array.

    Raises
    ------
    UnsupportedLibraryError
        If this zarr has no such name.
    """
    try:
        return array.metadata.encode_chunk_key
    except AttributeError as error:
        raise _missing(_CHUNK_KEY, "finds the files of an array") from error


def waiting() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return what runs a coroutine of a zarr store, in zarr's own thread, and waits for it.

    Raises
    ------
    UnsupportedLibraryError
        If this zarr has no such name.
    """
    try:
        from zarr.core.sync import sync
    except ImportError as error:
        raise _missing(_SYNC, "reads packed traces and traces in object stores") from error
    return sync


def _missing(name: str, purpose: str) -> UnsupportedLibraryError:
    import zarr

    return UnsupportedLibraryError(
        f"zarr {zarr.__version__} has no '{name}', with which steptrace {purpose}; the trace "
        "cannot be read with it: install a version of zarr that steptrace's requirements allow"
    )
