"""Whole columns of Parquet files, read without an engine in between: half the cost where nothing is filtered out.

Plain numbers and moments are read by polars, on all cores and into memory that the kernel hands out a page at a time; pyarrow's
pool asks for huge pages, and waiting for those costs more than decoding. Other columns are read by pyarrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError
from asof.instants import to_micros

if TYPE_CHECKING:
    from asof.offline.sources import Files


@dataclass(frozen=True, slots=True)
class Reach:
    """The moments of ``column`` that can matter, in microseconds UTC, both inclusive; None is unbounded."""

    column: str
    first: int | None
    last: int | None


def read_directly(files: Files, names: Sequence[str], reach: Reach) -> pa.Table | None:
    """The columns ``names`` of all rows, but for row groups that lie outside ``reach`` as a whole; in source order.

    Returns:
        None where the files need an engine: columns told by folder names, files that differ, names that are paths.

    Raises:
        SourceError: A file cannot be read.
    """
    if set(names) & set(files.partitions) or any("." in n for n in names):
        return None
    tables = []
    for path in files.paths:
        try:
            with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
                if not _alike(file.schema_arrow, files.schema, names):
                    return None
                tables.append(_read(file, path, names, reach))
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).partition("\n")[0]
            raise SourceError(f"source {files.source!r}: {path} cannot be read ({reason}); write it again") from None
    return pa.concat_tables(tables)


def _alike(schema: pa.Schema, expected: pa.Schema, names: Sequence[str]) -> bool:
    """Whether a file has the columns in the source's types, without dictionaries, which join and aggregate differently."""
    return all(
        schema.names.count(n) == 1
        and schema.field(n).type == expected.field(n).type
        and not pa.types.is_dictionary(schema.field(n).type)
        for n in names
    )


def _read(file: pq.ParquetFile, path: str, names: Sequence[str], reach: Reach) -> pa.Table:
    schema, groups = file.schema_arrow, _groups(file, reach)
    numbers = [n for n in names if _is_number(schema.field(n).type)] if len(set(schema.names)) == len(schema) else []
    found = _numbers(file, path, numbers, groups)
    others = [n for n in names if found is None or n not in numbers]
    columns = dict(zip(numbers, found.columns, strict=True)) if found is not None else {}
    if others:
        columns |= dict(zip(others, file.read_row_groups(groups, columns=others).select(others).columns, strict=True))
    return pa.table([columns[n] for n in names], names=list(names))


def _groups(file: pq.ParquetFile, reach: Reach) -> list[int]:
    """The row groups that have moments in reach, as far as statistics tell."""
    column = file.schema_arrow.names.index(reach.column) if _flat(file) else None
    every = range(file.metadata.num_row_groups)
    return [i for i in every if column is None or _overlaps(file.metadata.row_group(i).column(column), reach)]


def _is_number(stored: pa.DataType) -> bool:
    """Whether values are numbers, or moments that are stored as numbers, which polars and Arrow keep in the same way."""
    moment = pa.types.is_timestamp(stored) and stored.unit == "us" and stored.tz in {None, "UTC"}
    return bool(moment or pa.types.is_integer(stored) or stored in {pa.float32(), pa.float64(), pa.bool_()})


def _numbers(file: pq.ParquetFile, path: str, names: Sequence[str], groups: Sequence[int]) -> pa.Table | None:
    """Number columns of some row groups; None where there is nothing to read, or nothing that polars can read."""
    if not names or not groups:
        return None
    schema = pa.schema([(n, file.schema_arrow.field(n).type) for n in names])
    scan = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(names)
    try:
        runs = [scan.slice(*run).collect() for run in _runs(file, groups)]
    except pl.exceptions.PolarsError:
        return None
    return pa.concat_tables([run.to_arrow().cast(schema) for run in runs])


def _runs(file: pq.ParquetFile, groups: Sequence[int]) -> list[tuple[int, int]]:
    """First row and number of rows of each unbroken run of row groups."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    starts = list(accumulate(sizes, initial=0))
    firsts = [g for g in groups if g - 1 not in groups]
    lasts = [g for g in groups if g + 1 not in groups]
    return [(starts[a], starts[b + 1] - starts[a]) for a, b in zip(firsts, lasts, strict=True)]


def _flat(file: pq.ParquetFile) -> bool:
    """Whether columns and leaves are the same, so that statistics are found by position."""
    return bool(file.metadata.num_columns == len(file.schema_arrow.names))


def _overlaps(column: Any, reach: Reach) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    first, last = _micros(statistics.min), _micros(statistics.max)
    if first is None or last is None:
        return True
    return (reach.last is None or first <= reach.last) and (reach.first is None or last >= reach.first)


def _micros(moment: Any) -> int | None:
    if isinstance(moment, datetime):
        return to_micros(moment)
    return to_micros(datetime(moment.year, moment.month, moment.day)) if isinstance(moment, date) else None  # noqa: DTZ001
