"""What a command puts in the place of a usual recording, for as long as it runs a script."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Substitute(Generic[T]):
    """One object that is there inside a context, and made when it is first asked for.

    The command that enters the context may not import TensorFlow yet; the object may need it.
    """

    def __init__(self) -> None:
        self._make: Callable[[], T] | None = None
        self._made: T | None = None

    @contextmanager
    def using(self, make: Callable[[], T]) -> Iterator[None]:
        """Have what `make` returns be there inside the context."""
        self._make = make
        try:
            yield
        finally:
            self._make = self._made = None

    def present(self) -> T | None:
        """Return the object, None outside of every context."""
        if self._make is not None and self._made is None:
            self._made = self._make()
        return self._made
