"""Reads the rows of a source that can matter to entity rows, with keys coded and times as integers.

Plain columns of whole files are read by :mod:`asof.offline.parquet_columns`. DuckDB reads where rows have to be filtered one by
one (by key, or by a hash of the key), and where files differ or are partitioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from asof.errors import SchemaError
from asof.offline.arrow_columns import conform, micros, plain_type, sql_moment
from asof.offline.duckdb_engine import asking, quoted
from asof.offline.keys import cast_like, codes
from asof.offline.parquet_columns import AT_ONCE, ParquetRows, TimeBounds
from asof.offline.sources import SourceFiles, check_read
from asof.windows import Events, Questions

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from asof.contract import View
    from asof.offline.duckdb_engine import Engine

Ints = NDArray[np.int64]

_MANY, _FEW = 4, 64
"""Rows of other keys are filtered out while reading if the source has more than ``_FEW`` times the entity rows, never below ``_MANY`` times."""
_SAMPLE = 8192
"""In between, so many rows are sampled; filtering saves time if at most one in ``_MANY`` has the key of an entity row."""
_ORDER = ("file_index", "file_row_number")
"""DuckDB's names for a row's place in the source; unusable if the source has a column of that name."""


@dataclass(frozen=True)
class EntityRows:
    """Entity rows: their key columns under the names of the request, and their moments in microseconds UTC."""

    table: pa.Table
    at: Ints


@dataclass(frozen=True)
class SourceColumns:
    """Value columns of a source, under the source's names, in source order; large ones are read on first use.

    Attributes:
        table: Columns that were read already.
        rows: Where the others are.
        kept: Positions of the rows that count; None for all.
    """

    table: pa.Table
    rows: ParquetRows | None
    kept: Ints | None

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """One column of the rows that count."""
        known = self.rows is None or name in self.table.column_names
        column = self.table[name] if known else next(self.rows.blocks([name]))[name]  # type: ignore[union-attr]
        return column if self.kept is None else column.take(pa.array(self.kept))

    def blocks(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of all rows, few at a time where they are large."""
        known = [n for n in names if self.rows is None or n in self.table.column_names]
        if known:
            yield self.table.select(known)
        if self.rows is not None:
            yield from self.rows.blocks([n for n in names if n not in known])


@dataclass(frozen=True)
class SourceRows:
    """Rows of a source and the questions to it, with shared key codes.

    Attributes:
        columns: Value columns of the rows.
        events: The rows' keys and moments; without value columns.
        questions: The entity rows.
    """

    columns: SourceColumns
    events: Events
    questions: Questions


@dataclass(frozen=True)
class KeyPartition:
    """One of ``partitions`` disjoint sets of keys, by hash."""

    number: int
    partitions: int


def read_source(
    view: View,
    files: SourceFiles,
    columns: Sequence[str],
    entity_rows: EntityRows,
    engine: Engine,
    *,
    knowledge: bool,
    partition: KeyPartition | None = None,
) -> SourceRows:
    """Read the columns needed, the event times that can matter, and, where it saves time, only the keys of the entity rows.

    Args:
        view: The view.
        files: Its source.
        columns: Value columns, in the source's spelling.
        entity_rows: The entity rows.
        engine: Filters rows one by one where that is needed; started only then.
        knowledge: Whether a row is hidden until its knowledge time.
        partition: The keys to read; None for all. ``entity_rows`` must hold no others.

    Raises:
        SchemaError: The entity rows lack a key, or its type does not go with the source's.
        SourceError: The source cannot be read.
    """
    keys = stored_keys(view, files)
    asked_keys = [
        _asked_key(entity_rows.table, k.request, stored) for k, (_, stored) in zip(view.join_keys, keys, strict=True)
    ]
    times = [view.source.timestamp_field, view.source.created_timestamp_column or view.source.timestamp_field]
    names = list(dict.fromkeys([*(n for n, _ in keys), *times, *columns]))
    bounds = _time_bounds(view, entity_rows.at)
    with _among(files, keys, asked_keys, engine) as among:
        rows = None if among or partition else ParquetRows.of(files, names, bounds)
        if rows is None:
            filters = [
                *_time_filter(files, bounds),
                *_key_filters(key_sql(keys, files, engine.connection), partition, among),
            ]
            table = _read(engine.connection, files, names, filters, ordered=bool(among))
        else:
            small = rows.count * 8 * len(names) <= AT_ONCE
            table = rows.read(names if small else list(dict.fromkeys([*(n for n, _ in keys), *times])), whole=not small)
    table = _typed_partitions(view, files, table)
    return code_rows(table, rows, [n for n, _ in keys], times, columns, asked_keys, entity_rows.at, knowledge=knowledge)


def stored_keys(view: View, files: SourceFiles) -> list[tuple[str, pa.DataType]]:
    """The view's key columns in the source's spelling, and the plain types that they are compared in."""
    return [(view.source.column(k.column), _plain(view, files, k.column, k.dtype)) for k in view.join_keys]


def _plain(view: View, files: SourceFiles, column: str, dtype: str) -> pa.DataType:
    name = view.source.column(column)
    stored = files.schema.field(name).type
    if name in files.partitions and pa.types.is_null(stored):
        return conform(pa.array([], pa.string()), dtype, name).type
    return plain_type(stored)


def key_sql(keys: Sequence[tuple[str, pa.DataType]], files: SourceFiles, engine: DuckDBPyConnection) -> list[str]:
    """Key columns of the source as SQL, in their types; DuckDB reads columns from folder names as text."""

    def sql(name: str, stored: pa.DataType) -> str:
        if name not in files.partitions:
            return quoted(name)
        with asking(f"column {name!r} of source {files.source!r}"):
            (kind,) = engine.from_arrow(pa.table({"k": pa.array([], stored)})).types
        return f"TRY_CAST({quoted(name)} AS {kind})"

    return [sql(*key) for key in keys]


def _asked_key(table: pa.Table, name: str, stored: pa.DataType) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise SchemaError(f"entity rows have no column {name!r}; they have {', '.join(table.column_names)}")
    return cast_like(table[name], stored, name)


def _time_bounds(view: View, at: Ints) -> TimeBounds:
    """The event times that can matter to moments ``at``: excludes rows after the last, and rows already expired at the first."""
    name = view.source.timestamp_field
    if not len(at):
        return TimeBounds(name, None, None)
    first = int(at.min())
    if view.windowed:
        # With a ttl, an old event is still the difference between withheld and nothing known.
        return TimeBounds(name, None if view.ttl else first - view.horizon, int(at.max()))
    return TimeBounds(name, first - view.ttl if view.ttl else None, int(at.max()))


def _worth_filtering(
    files: SourceFiles, keys: Sequence[tuple[str, pa.DataType]], asked: Sequence[pa.ChunkedArray]
) -> bool:
    """Whether to filter out rows of other keys while reading: always for few entity rows, else if a sample says so."""
    if files.rows > _FEW * len(asked[0]):
        return True
    sample = _sample(files, [name for name, _ in keys])
    if sample is None:
        return True
    columns = [cast_like(sample[name], stored, name) for name, stored in keys]
    ours, theirs = codes(columns, asked, (sample.num_rows, len(asked[0])))
    hits = np.isin(ours[ours >= 0], theirs).sum()
    return bool(hits * _MANY <= sample.num_rows)


def _sample(files: SourceFiles, names: Sequence[str]) -> pa.Table | None:
    """The first rows of the columns ``names``; None if the first file does not have them."""
    try:
        with pq.ParquetFile(files.paths[0], memory_map=True, pre_buffer=False) as file:
            return pa.Table.from_batches([next(file.iter_batches(_SAMPLE, columns=list(names)))]).select(list(names))
    except (OSError, StopIteration, KeyError, pa.ArrowException):
        return None


def _time_filter(files: SourceFiles, bounds: TimeBounds) -> list[str]:
    if bounds.column in files.partitions:
        return []
    stored = files.schema.field(bounds.column).type
    limits = [("<=", None if bounds.last is None else bounds.last + 1), (">=", bounds.first)]
    constants = [(op, sql_moment(bound, stored)) for op, bound in limits if bound is not None]
    return [f"{quoted(bounds.column)} {op} {constant}" for op, constant in constants if constant]


def _key_filters(keys: Sequence[str], partition: KeyPartition | None, among: str | None) -> list[str]:
    joined = ", ".join(keys)
    parted = [f"hash({joined}) % {partition.partitions} = {partition.number}"] if partition and keys else []
    return [*parted, *([f"({joined}) IN (SELECT * FROM {among})"] if among else [])]


@contextmanager
def _among(
    files: SourceFiles, keys: Sequence[tuple[str, pa.DataType]], asked: Sequence[pa.ChunkedArray], engine: Engine
) -> Iterator[str | None]:
    """The name of a table of the entity rows' keys; None if filtering by them would not save time."""
    nameless = set(_ORDER) & set(files.schema.names)
    if not keys or nameless or files.rows <= _MANY * len(asked[0]) or not _worth_filtering(files, keys, asked):
        yield None
        return
    columns = [f"k{i}" for i in range(len(keys))]
    distinct = pa.table(list(asked), names=columns).group_by(columns).aggregate([])
    with asking("the keys of the entity rows"):
        engine.connection.register("asked_keys", distinct)
    yield "asked_keys"
    with asking("the keys of the entity rows"):
        engine.connection.unregister("asked_keys")  # after an error the connection is closed


def _read(
    engine: DuckDBPyConnection, files: SourceFiles, names: Sequence[str], filters: Sequence[str], *, ordered: bool
) -> pa.Table:
    chosen = ", ".join([*(quoted(n) for n in names), *(_ORDER if ordered else ())])
    where = f" WHERE {' AND '.join(filters)}" if filters else ""
    with asking(f"source {files.source!r}"):
        table = engine.sql(f"SELECT {chosen} FROM {files.scan}{where}").to_arrow_table()
    check_read(files, table.schema, {name: name for name in names})
    if not ordered:
        return table
    place = table["file_index"].to_numpy().astype(np.int64) << 40 | table["file_row_number"].to_numpy()
    table = table.select(list(names))
    return table if (place[1:] > place[:-1]).all() else table.take(pa.array(np.argsort(place)))


def _typed_partitions(view: View, files: SourceFiles, table: pa.Table) -> pa.Table:
    """Partition columns come as text; give them the type of the Delta table, else the declared one."""
    dtypes = {view.source.column(k.column): k.dtype for k in view.join_keys}
    dtypes |= {view.source.column(f.name): f.dtype for f in view.features}
    for name in files.partitions:
        if name in table.column_names:
            stored = files.schema.field(name).type
            column = table[name]
            typed = (
                conform(column, dtypes.get(name, "string"), name) if pa.types.is_null(stored) else _told(column, stored)
            )
            table = table.set_column(table.column_names.index(name), name, typed)
    return table


def _told(column: pa.ChunkedArray, stored: pa.DataType) -> pa.ChunkedArray:
    """Values from folder names, in the type of the Delta table; folder names write moments without their zone, which is UTC."""
    if pa.types.is_timestamp(stored) and stored.tz:
        return column.cast(pa.timestamp(stored.unit)).cast(stored)
    return column.cast(stored)


def code_rows(
    table: pa.Table,
    rows: ParquetRows | None,
    keys: Sequence[str],
    times: Sequence[str],
    columns: Sequence[str],
    asked: Sequence[pa.ChunkedArray],
    at: Ints,
    *,
    knowledge: bool,
) -> SourceRows:
    """The rows of ``table`` that have a key and an event time, with keys as codes and times as integers."""
    ts, missing = micros(table[times[0]], f"column {times[0]!r}")
    kt, unknown = (ts, None) if times[1] == times[0] else micros(table[times[1]], f"column {times[1]!r}")
    if unknown is not None:
        kt = np.where(unknown, ts, kt)
    stored = [cast_like(table[k], a.type, k) for k, a in zip(keys, asked, strict=True)]
    stored_codes, asked_codes = codes(stored, asked, (len(ts), len(at)))
    table = table.select([n for n in dict.fromkeys(columns) if n in table.column_names])
    usable = stored_codes >= 0 if missing is None else (stored_codes >= 0) & ~missing
    kept = None if usable.all() else np.flatnonzero(usable)
    if kept is not None:
        stored_codes, ts, kt = stored_codes[kept], ts[kept], kt[kept]
    timed_twice = times[1] != times[0]
    late = knowledge and timed_twice and bool((kt > ts).any())
    arrival = np.maximum(ts, kt) if late else ts
    events = Events(stored_codes, ts, arrival, kt, {}, late=late, kt_differs=timed_twice)
    return SourceRows(SourceColumns(table, rows, kept), events, Questions(asked_codes, at))


SEAMS = {"codes": "which keys are equal", "code_rows": "when a row is known"}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
