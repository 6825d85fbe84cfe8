"""Reads whole columns of Parquet files without DuckDB, which costs about half as much if no row is filtered out.

polars reads plain numbers and moments, on all cores; pyarrow reads all other columns. ``python -m benchmarks.offline.reading``
measures the readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError
from asof.instants import to_micros

if TYPE_CHECKING:
    from asof.offline.sources import SourceFiles

AT_ONCE = 24 << 20
"""Bytes of columns that are read together; more are read one set of columns after another."""


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """The moments of ``column`` that can matter, in microseconds UTC, both inclusive; None is unbounded."""

    column: str
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class _ParquetFile:
    """The row groups of one file that can matter; ``runs`` are (first row, number of rows) of the unbroken runs of them."""

    path: str
    stamp: tuple[int, int, int]
    footer: pq.FileMetaData
    schema: pa.Schema
    groups: tuple[int, ...]

    @property
    def whole(self) -> bool:
        return bool(len(self.groups) == self.footer.num_row_groups)

    @property
    def count(self) -> int:
        return sum(self.footer.row_group(i).num_rows for i in self.groups)

    def runs(self) -> list[tuple[int, int]]:
        """First row and number of rows of each unbroken run of row groups."""
        sizes = [self.footer.row_group(i).num_rows for i in range(self.footer.num_row_groups)]
        starts = list(accumulate(sizes, initial=0))
        chosen = set(self.groups)
        firsts = [g for g in self.groups if g - 1 not in chosen]
        lasts = [g for g in self.groups if g + 1 not in chosen]
        return [(starts[a], starts[b + 1] - starts[a]) for a, b in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class ParquetRows:
    """Rows of a source, in source order; a column is read on first use."""

    source: str
    files: tuple[_ParquetFile, ...]

    @classmethod
    def of(cls, files: SourceFiles, names: Sequence[str], bounds: TimeBounds) -> ParquetRows | None:
        """All rows, but for row groups that lie outside ``bounds`` as a whole; ``names`` are the columns that may be read.

        Returns:
            None if DuckDB has to read them: columns from folder names, files with different columns, column names with dots.

        Raises:
            SourceError: A file cannot be read.
        """
        if set(names) & set(files.partitions) or any("." in n for n in names):
            return None
        parts = []
        for path in files.paths:
            part = _opened(files.source, path, bounds)
            if not _alike(part.schema, files.schema, names):
                return None
            parts.append(part)
        return cls(files.source, tuple(parts))

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(p.count for p in self.files)

    def read(self, names: Sequence[str], *, whole: bool = False) -> pa.Table:
        """The columns ``names``; ``whole`` to have numbers in one chunk.

        Raises:
            SourceError: A file cannot be read, or is not the one that it was.
        """
        schema = self.files[0].schema
        unique = all(len(set(p.schema.names)) == len(p.schema) for p in self.files)
        numbers = [n for n in names if unique and _is_number(schema.field(n).type)]
        found = self._numbers(pa.schema([(n, schema.field(n).type) for n in numbers]), whole) if numbers else None
        columns = dict(zip(numbers, found.columns, strict=True)) if found is not None else {}
        if others := [n for n in names if n not in columns]:
            tables = [_read_others(self.source, p, others) for p in self.files]
            columns |= dict(zip(others, pa.concat_tables(tables).columns, strict=True))
        self._check()
        return pa.table([columns[n] for n in names], names=list(names))

    def blocks(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The columns ``names``, as many at once as fit :data:`AT_ONCE`."""
        width = max(AT_ONCE // (8 * max(self.count, 1)), 1)
        for first in range(0, len(names), width):
            yield self.read(names[first : first + width])

    def _numbers(self, schema: pa.Schema, whole: bool) -> pa.Table | None:
        """Columns of numbers; None where there are no rows, or polars cannot read them."""
        parts = [p for p in self.files if p.groups]
        if not parts:
            return None
        try:
            if all(p.whole for p in parts):
                found = [_scan([p.path for p in parts], schema).collect()]
            else:
                found = [_scan([p.path], schema).slice(*run).collect() for p in parts for run in p.runs()]
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None  # pyarrow reads them, or says what is wrong with the file
        if whole:
            # Of one frame, ``concat(rechunk=True)`` leaves the chunks as they are.
            found = [pl.concat(found).rechunk()]
        return pa.concat_tables([f.to_arrow().cast(schema) for f in found])

    def _check(self) -> None:
        """Columns that were read at different times must be of the same rows."""
        for part in self.files:
            if _stamp(self.source, part.path) != part.stamp:
                raise SourceError(f"source {self.source!r}: {part.path} was replaced while it was read; ask again")


def _opened(source: str, path: str, bounds: TimeBounds) -> _ParquetFile:
    stamp = _stamp(source, path)
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(source, path, error) from None
    schema = footer.schema.to_arrow_schema()
    # Statistics are found by position, so columns and leaves must be the same.
    flat = footer.num_columns == len(schema.names)
    column = schema.names.index(bounds.column) if flat and bounds.column in schema.names else None
    every = range(footer.num_row_groups)
    groups = tuple(i for i in every if column is None or _overlaps(footer.row_group(i).column(column), bounds))
    return _ParquetFile(path, stamp, footer, schema, groups)


def _stamp(source: str, path: str) -> tuple[int, int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _unreadable(source, path, error) from None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(source: str, path: str, error: Exception) -> SourceError:
    reason = str(error).partition("\n")[0]
    return SourceError(f"source {source!r}: {path} cannot be read ({reason}); write it again")


def _alike(schema: pa.Schema, expected: pa.Schema, names: Sequence[str]) -> bool:
    """Whether a file has the columns in the source's types, without dictionaries and views, of which Arrow can do less."""
    return all(
        schema.names.count(n) == 1
        and schema.field(n).type == expected.field(n).type
        and not pa.types.is_dictionary(schema.field(n).type)
        and "_view" not in str(schema.field(n).type)
        for n in names
    )


def _is_number(stored: pa.DataType) -> bool:
    """Whether values are numbers, or moments that are stored as numbers, which polars and Arrow keep in the same way."""
    moment = pa.types.is_timestamp(stored) and stored.unit == "us" and stored.tz in {None, "UTC"}
    return bool(moment or pa.types.is_integer(stored) or stored in {pa.float32(), pa.float64(), pa.bool_()})


def _scan(paths: list[str], schema: pa.Schema) -> pl.LazyFrame:
    return pl.scan_parquet(paths, glob=False, hive_partitioning=False, extra_columns="ignore").select(schema.names)


def _read_others(source: str, part: _ParquetFile, names: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(part.path, metadata=part.footer, memory_map=True, pre_buffer=False) as file:
            return file.read_row_groups(list(part.groups), columns=list(names)).select(list(names))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(source, part.path, error) from None


def _overlaps(column: Any, bounds: TimeBounds) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    try:
        first, last = _micros(statistics.min), _micros(statistics.max)
    except (OverflowError, ValueError):
        return True  # beyond the years 1 to 9999
    if first is None or last is None:
        return True
    return (bounds.last is None or first <= bounds.last) and (bounds.first is None or last >= bounds.first)


def _micros(moment: Any) -> int | None:
    if isinstance(moment, datetime):
        return to_micros(moment)
    return to_micros(datetime(moment.year, moment.month, moment.day)) if isinstance(moment, date) else None  # noqa: DTZ001
