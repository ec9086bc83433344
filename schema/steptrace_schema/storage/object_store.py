"""Addresses in an object store."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from steptrace_schema.errors import TraceError, UnreachableError
from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.names import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import RetryConfig


SCHEME: Final = "s3://"
"""What the address of a trace in an object store begins with."""


_RETRIES: Final[RetryConfig] = {
    "max_retries": 3,
    "retry_timeout": datetime.timedelta(seconds=10),
    "backoff": {
        "init_backoff": datetime.timedelta(seconds=0.1),
        "max_backoff": datetime.timedelta(seconds=2),
        "base": 2,
    },
}


@final
@dataclasses.dataclass(frozen=True)
class Remote:
    """An address in an object store.

    Attributes
    ----------
    url
        ``s3://bucket/path``.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        """The address without its last part."""
        return Remote(self.url.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return Path(self.name).suffix

    def absolute(self) -> Remote:
        """Return the address, which is absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is a Zarr group at the address."""
        from obstore import head

        with object_store_errors(self):
            try:
                head(self.objects, METADATA_FILE)
            except FileNotFoundError:
                return False
            return True

    @property
    def objects(self) -> Any:
        """The object store below the address; credentials are those of the ``AWS_*`` variables."""
        return _objects(self.url)


@functools.cache
def _objects(url: str) -> Any:
    from obstore.store import S3Store

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return S3Store.from_url(url, client_options={"allow_http": plain}, retry_config=_RETRIES)
    except Exception as error:  # the package has one type for each way in which this is wrong
        msg = f"{url} is not an address of an object store ({str(error).splitlines()[0]})"
        raise TraceError(msg) from error


@contextlib.contextmanager
def object_store_errors(location: Path | Remote) -> Iterator[None]:
    """Turn what goes wrong on the way to an object store into one sentence.

    Raises
    ------
    UnreachableError
        If the object store does not answer, or refuses.
    """
    if isinstance(location, Path):
        yield
        return
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = str(error).splitlines()[0]
        msg = (
            f"{location} cannot be reached ({reason}); check the address, the network, and "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        raise UnreachableError(msg) from error


def write_object(location: Remote, name: str, content: bytes) -> None:
    """Write one file of the trace in an object store; it is there whole, or not at all.

    Raises
    ------
    UnreachableError
        If the object store does not answer.
    """
    from obstore import put

    with object_store_errors(location):
        put(location.objects, inside(location, name), content)
