"""One array's rows on their way from records into the store, and what is learned of them there."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.scratch import Scratch
from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import ArraySpec, fill_value
from steptrace_schema.journal.alike import SmallArrays
from steptrace_schema.journal.fitting import refuse_misfit
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.statistics.describe import (
    compute_row_statistics,
    compute_statistics,
    has_statistics,
)
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, RowHasher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from steptrace_schema.journal.record import Record
    from steptrace_schema.store.array_writer import ArrayWriter

_IN_MEMORY: Final = 128 * 2**20
"""Bytes of rows that may be in memory at once, unless one array alone has more."""

_TOGETHER: Final = 2**20
"""Bytes of small arrays that one thread takes at once."""

_SCRATCH: Final = Scratch()

_NO_VALUE = "the step produced no value for this tensor"


@dataclasses.dataclass(frozen=True)
class MovedArray:
    """What was learned of an array's rows while they were in memory.

    Attributes
    ----------
    key
        The array's path in the store.
    missing
        The steps that have no value.
    statistics
        Dims (step, statistic); None where none are kept of the array.
    digests
        Dims (step,), int64, where there are statistics; -1 where there is no value, or only its
        statistics.
    updates
        Statistics of each row minus the one before, dims (step, statistic); NaN where one of them
        has no value; None where they were not asked for.
    last
        The last row, where updates were asked for and it has a value.
    """

    key: str
    missing: tuple[Missing, ...]
    statistics: npt.NDArray[np.float64] | None
    digests: npt.NDArray[np.int64]
    updates: npt.NDArray[np.float64] | None
    last: npt.NDArray[Any] | None


@dataclasses.dataclass(frozen=True)
class ArrayMove:
    """The rows of one array that are to be moved.

    Attributes
    ----------
    spec
        The array.
    writer
        Where they go; None where none is kept, or only their statistics are.
    start
        The row of the array that they begin at.
    records
        One for each row.
    updates
        Whether to describe each row minus the one before.
    before
        The row before the first, where there is one.
    kept
        Which of the rows are written; the others are only described.
    small
        What reads the small arrays of the records at once.
    """

    spec: ArraySpec
    writer: ArrayWriter | None
    start: int
    records: tuple[Record, ...]
    updates: bool
    before: npt.NDArray[Any] | None
    kept: tuple[bool, ...]
    small: SmallArrays | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        row = math.prod(self.spec.shape) * np.dtype(self.spec.dtype).itemsize
        return len(self.records) * row

    def run(self) -> MovedArray:
        """Read the rows once, write them, and describe them."""
        spec = self.spec
        if spec.holds_statistics:
            return self._run_statistics()
        shape = (len(self.records), *spec.shape)
        with _SCRATCH.array(shape, spec.dtype) as rows:
            return self._run_with(rows)

    def _run_with(self, rows: npt.NDArray[Any]) -> MovedArray:
        spec = self.spec
        smaller: dict[int, npt.NDArray[Any]] = {}
        absent: list[int] = []
        digests = _no_digests(len(rows)).view(np.uint64)
        has_digests = has_statistics(spec) and not spec.statistics_only
        hasher = RowHasher(rows.shape[1:], rows.dtype) if has_digests else None
        read = [] if self.small is None else self.small.read_rows(spec.key, rows)
        if hasher is not None:
            for row in read:
                digests[row] = hasher.digest(rows[row, ...])
        for row in sorted(set(range(len(rows))).difference(read)):
            record = self.records[row]
            if spec.key in record.keys and record.is_of(spec.key, spec.shape, rows.dtype):
                record.read_into(spec.key, rows[row, ...])
                if hasher is not None:
                    digests[row] = hasher.digest(rows[row, ...])
                continue
            rows[row] = fill_value(spec.dtype)
            if spec.key in record.keys:
                refuse_misfit(record.path, spec, record.shape(spec.key), record.dtype(spec.key))
                # A smaller row, of a last smaller batch, fills the leading corner.
                values = smaller[row] = record.read(spec.key)
                rows[row, ...][tuple(slice(0, extent) for extent in values.shape)] = values
                if hasher is not None:
                    digests[row] = hasher.digest(rows[row, ...])
            else:
                absent.append(row)
        if self.writer is not None:
            self.writer.write(self.start, rows if all(self.kept) else rows[list(self.kept)])
        steps = tuple(self.records[row].step for row in absent)
        missing = Missing(
            kind=spec.kind, path=spec.path, reason=spec.absent or _NO_VALUE, steps=steps
        )
        return MovedArray(
            spec.key,
            (missing,) if absent and spec.kind != "logged" and not spec.statistics_only else (),
            _describe(rows, smaller, absent) if has_statistics(spec) else None,
            digests.view(np.int64),
            self._describe_updates(rows, {*smaller, *absent}) if self.updates else None,
            rows[-1, ...].copy() if self.updates and len(rows) - 1 not in absent else None,
        )

    def _run_statistics(self) -> MovedArray:
        """Read the statistics of an array that is not recorded itself."""
        values = np.full((len(self.records), len(STATISTIC_NAMES)), np.nan)
        shape = (len(STATISTIC_NAMES),)
        described = dataclasses.replace(self.spec, shape=shape, dtype="float64", static=True)
        for row, record in enumerate(self.records):
            if self.spec.key in record.keys:
                found = record.read(self.spec.key)
                refuse_misfit(record.path, described, found.shape, found.dtype)
                values[row] = found
        return MovedArray(self.spec.key, (), values, _no_digests(len(values)), None, None)

    def _describe_updates(
        self, rows: npt.NDArray[Any], without: set[int]
    ) -> npt.NDArray[np.float64]:
        result = np.full((len(rows), len(STATISTIC_NAMES)), np.nan)
        result[1:] = compute_row_statistics(rows[1:], rows[:-1])
        if self.before is not None and self.before.shape == rows.shape[1:]:
            result[:1] = compute_row_statistics(rows[:1], self.before[np.newaxis])
        for row in without:
            result[row : row + 2] = np.nan
        return result


def _describe(
    rows: npt.NDArray[Any], smaller: dict[int, npt.NDArray[Any]], absent: Sequence[int]
) -> npt.NDArray[np.float64]:
    result = compute_row_statistics(rows)
    result[list(absent)] = np.nan
    for row, values in smaller.items():
        result[row] = compute_statistics(values)
    return result


def _no_digests(rows: int) -> npt.NDArray[np.int64]:
    return np.full(rows, UNKNOWN_DIGEST, np.int64)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one kind that are to be moved.

    Attributes
    ----------
    specs
        The kind's arrays.
    start, described
        Where the rows of its tensors begin, and those of its statistics.
    records
        One for each row of the statistics.
    kept
        Which of them are rows of the tensors too.
    """

    specs: tuple[ArraySpec, ...]
    start: int
    described: int
    records: tuple[Record, ...]
    kept: tuple[bool, ...]

    @functools.cached_property
    def small(self) -> SmallArrays:
        """What reads the small arrays of the records at once."""
        return SmallArrays(self.records)

    @functools.cached_property
    def steps(self) -> list[int]:
        """Steps of the records."""
        return [record.step for record in self.records]

    @functools.cached_property
    def kept_steps(self) -> list[int]:
        """Steps that keep their tensors."""
        return list(itertools.compress(self.steps, self.kept))


def move_arrays(moves: Sequence[ArrayMove], workers: int) -> Iterator[MovedArray]:
    """Move arrays, in any order, with so many threads, and yield what was learned of each.

    How much is in memory at a time is bounded.
    """
    if workers == 1:
        yield from (move.run() for move in moves)
        return
    running: dict[Future[list[MovedArray]], int] = {}
    with ThreadPoolExecutor(workers) as pool:
        for batch in _batches(moves):
            size = sum(move.nbytes for move in batch)
            while running and sum(running.values()) + size > _IN_MEMORY:
                yield from _finished(running)
            running[pool.submit(_run_all, batch)] = size
        while running:
            yield from _finished(running)


def _run_all(moves: Sequence[ArrayMove]) -> list[MovedArray]:
    return [move.run() for move in moves]


def _finished(running: dict[Future[list[MovedArray]], int]) -> Iterator[MovedArray]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        del running[future]
        yield from future.result()


def _batches(moves: Sequence[ArrayMove]) -> Iterator[list[ArrayMove]]:
    """Yield the largest first, each alone, and the small ones at the end, many at once."""
    batch: list[ArrayMove] = []
    for move in sorted(moves, key=lambda move: -move.nbytes):
        batch.append(move)
        if sum(m.nbytes for m in batch) >= _TOGETHER or len(batch) == 16:
            yield batch
            batch = []
    if batch:
        yield batch
