"""Whole columns of Parquet files, read without an engine in between: half the cost where nothing is filtered out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

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
                tables.append(_read(file, names, reach).select(list(names)))
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


def _read(file: pq.ParquetFile, names: Sequence[str], reach: Reach) -> pa.Table:
    count = file.metadata.num_row_groups
    column = file.schema_arrow.names.index(reach.column) if _flat(file) else None
    groups = [i for i in range(count) if column is None or _overlaps(file.metadata.row_group(i).column(column), reach)]
    if len(groups) == count:
        return file.read(columns=list(names))
    return file.read_row_groups(groups, columns=list(names))


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
