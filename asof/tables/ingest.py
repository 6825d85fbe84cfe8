"""Adds rows of files to a table: reads and checks them, leaves out duplicates, and appends the rest in one commit.

Every row that is read is added, is a duplicate, or goes to quarantine with the reason. Ingesting a file again adds nothing; two
ingests at once add each row once; a killed ingest leaves the table as it was. The rows of one call are held in memory
(about 200 bytes a row).

A row is a duplicate if the table, or an earlier row of the same ingest, has its id; the first one stays. A table without an id
compares whole rows instead: of n equal rows, those beyond the number that the table already holds are new.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asof.console import progress
from asof.errors import SourceError
from asof.offline.duckdb_engine import asking
from asof.quantities import counted
from asof.rendering import Rendered
from asof.repo import Repo
from asof.tables import delta, quarantine, reading
from asof.tables.checking import BadRow, Checked, check, layout
from asof.tables.declarations import declarations
from asof.tables.schema import Column, TableDeclaration

if TYPE_CHECKING:
    from deltalake import DeltaTable

IN_MEMORY = "(in memory)"
"""Stands for the file name of rows that come from memory."""


@dataclass(frozen=True, repr=False)
class IngestReport(Rendered):
    """What an ingest did.

    Attributes:
        table: Name of the table.
        rows_read: Rows that were read: the sum of the next three.
        rows_added: Rows that are new.
        duplicates: Rows that the table had already.
        quarantined: Rows that went to quarantine.
        reasons: Reason -> number of quarantined rows.
        ignored: Columns that the table does not have.
        files: Number of files read.
        version: The table's version afterwards; None while it has none.
        most_quarantined: The share of read rows that the table's tag ``asof.quarantine`` allows; None for no limit.
    """

    table: str
    rows_read: int
    rows_added: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    ignored: tuple[str, ...]
    files: int
    version: int | None
    most_quarantined: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether no greater share of the rows was quarantined than the table allows."""
        return self.most_quarantined is None or self.quarantined <= self.most_quarantined * self.rows_read

    @property
    def exit_code(self) -> int:
        """1 if more rows were quarantined than the table allows."""
        return 0 if self.accepted else 1

    def parts(self) -> Iterator[str]:
        """What was read and where it went."""
        version = f"version {self.version}" if self.version is not None else "no version yet"
        yield (
            f"{self.table}: read {counted(self.rows_read, 'row')}, added {self.rows_added:,}, "
            f"{counted(self.duplicates, 'duplicate')}, {self.quarantined:,} in quarantine; {version}"
        )
        for reason, count in self.reasons.items():
            yield f"  quarantined {count:,}: {reason}"
        if not self.accepted:
            yield (
                f"  {self.quarantined / self.rows_read:.1%} of the rows are in quarantine, the table's tag asof.quarantine allows "
                f"{self.most_quarantined:.1%}; the good rows were added"
            )
        if self.ignored:
            yield f"  columns that the table does not have were left out: {', '.join(self.ignored)}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return asdict(self)


def ingest(
    repo: Repo,
    table: str,
    source: Path | Sequence[Path] | pa.Table,
    *,
    now: int | None = None,
) -> IngestReport:
    """Add rows to a table.

    Args:
        repo: The feature repo.
        table: Name of the table (its Feast source), or of a push source that feeds it.
        source: Parquet or CSV files, folders of them, or rows in memory.
        now: The wall clock; by default the real one.

    Raises:
        NotFoundError: There is no such table.
        SourceError: A file is missing, empty, truncated, or nothing is declared yet.
        SchemaError: A file lacks a column, or a column has a type that does not fit.
        TableError: The table cannot be written; it is as it was.
    """
    declaration = declarations(repo).table(table)
    path = delta.folder(repo, declaration)
    clock = time.time_ns() // 1_000 if now is None else now
    with progress("reading rows") as line:
        checked, columns = examine(declaration, path, source, clock, line.advance)
    return commit(repo, declaration, columns, checked, clock, files=0 if isinstance(source, pa.Table) else len(checked))


def examine(
    declaration: TableDeclaration,
    path: Path,
    source: Path | Sequence[Path] | pa.Table,
    now: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Checked], tuple[Column, ...]]:
    """Read and check every file, without writing; ``advance`` is called with the number of rows of each.

    Raises:
        SourceError: A file is missing, empty or truncated.
        SchemaError: A file lacks a column, or a column has a type that does not fit.
    """
    held = delta.open_table(path)
    wanted = [c.name for c in declaration.columns] or (delta.schema(held).names if held is not None else [])
    columns: tuple[Column, ...] = ()
    checked = []
    for rows in _read(source, wanted):
        columns = columns or layout(declaration, delta.schema(held) if held is not None else None, rows)
        checked.append(check(rows.with_missing(columns, declaration.missing), declaration, columns, now))
        advance(rows.read)
    if not any(c.good.num_rows or c.bad for c in checked):
        raise SourceError(f"there are no rows to add to table {declaration.name!r}; expected at least one")
    return checked, columns


def commit(
    repo: Repo,
    declaration: TableDeclaration,
    columns: Sequence[Column],
    checked: Sequence[Checked],
    now: int,
    *,
    files: int,
) -> IngestReport:
    """Add the new rows in one commit, and the bad ones to the quarantine.

    Raises:
        TableError: The table cannot be written; it is as it was.
    """
    path = delta.folder(repo, declaration)
    good = pa.concat_tables([c.good for c in checked])
    bad = [row for c in checked for row in c.bad]
    with delta.locked(path):
        if bad:
            quarantine.set_aside(repo, declaration.name, bad, now, again=files > 0)
        held = delta.open_table(path)
        fresh = new_rows(held, good, declaration.id)
        version = held.version() if held is not None else None
        if fresh.num_rows:
            version = delta.append(path, fresh, _notes(bad, good, fresh, files), held)
    return IngestReport(
        table=declaration.name,
        rows_read=good.num_rows + len(bad),
        rows_added=fresh.num_rows,
        duplicates=good.num_rows - fresh.num_rows,
        quarantined=len(bad),
        reasons=dict(Counter(row.reason for row in bad).most_common()),
        ignored=tuple(sorted({name for c in checked for name in c.ignored})),
        files=files,
        version=version,
        most_quarantined=declaration.most_quarantined,
    )


def new_rows(held: DeltaTable | None, rows: pa.Table, key: str | None) -> pa.Table:
    """The rows that the table does not have yet, each once."""
    if key is None:
        return _new_by_content(held, rows)
    once = _first(rows[key])
    fresh = rows if len(once) == rows.num_rows else rows.take(once)
    if held is None or not fresh.num_rows:
        return fresh
    ids = pc.cast(fresh[key], delta.schema(held).field(key).type)
    known = delta.scan(held, [key], key, ids.unique())[key]
    return fresh.filter(pc.invert(pc.is_in(ids, value_set=known))) if len(known) else fresh


def _read(source: Path | Sequence[Path] | pa.Table, wanted: Sequence[str]) -> Iterable[reading.Rows]:
    if isinstance(source, pa.Table):
        return [reading.in_memory(source, wanted, IN_MEMORY)]
    paths = [source] if isinstance(source, Path) else list(source)
    return (reading.read(file, wanted) for file in reading.files([p.resolve() for p in paths]))


def _first(ids: pa.ChunkedArray) -> np.ndarray:
    """Positions, in order, of the first row of each id."""
    if pa.types.is_integer(ids.type):
        codes = ids.to_numpy()
    else:
        codes = pc.dictionary_encode(ids.combine_chunks()).indices.to_numpy()
    if len(codes) < 2 or bool((codes[1:] > codes[:-1]).all()):
        return np.arange(len(codes))
    return np.sort(np.unique(codes, return_index=True)[1])


def _new_by_content(held: DeltaTable | None, rows: pa.Table) -> pa.Table:
    import duckdb

    columns = [f"c{i}" for i in range(rows.num_columns)]  # a column may have any name
    names = ", ".join(columns)
    same = " and ".join(f"n.{name} is not distinct from h.{name}" for name in columns)
    given = rows.rename_columns(columns).append_column("__position", pa.array(np.arange(rows.num_rows)))
    known = _shared(held, rows).rename_columns(columns)
    query = f"""
        with n as (select *, row_number() over (partition by {names} order by __position) as __nth from given),
             h as (select {names}, count(*) as __count from known group by all)
        select n.__position from n left join h on {same} where n.__nth > coalesce(h.__count, 0) order by 1
    """
    with asking("the rows that are to be compared with those of the table"), duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("given", given)
        connection.register("known", known)
        positions = connection.sql(query).to_arrow_table().column(0)
    return rows if len(positions) == rows.num_rows else rows.take(positions)


def with_held_stamps(held: DeltaTable, rows: pa.Table, column: str, now: int) -> pa.Table:
    """Rows of which those that the table has already carry the moment of arrival under which it has them.

    Args:
        held: The table; its rows have no id.
        rows: Rows with the table's columns.
        column: The column of moments of arrival.
        now: The moment with which fresh rows were stamped; rows with another one stay as they are.
    """
    import duckdb

    names = [name for name in rows.column_names if name != column]
    columns = [f"c{i}" for i in range(len(names))]  # a column may have any name
    listed = ", ".join(columns)
    same = " and ".join(f"n.{name} is not distinct from h.{name}" for name in columns)
    given = rows.select(names).rename_columns(columns).append_column("at", pc.cast(rows[column], pa.int64()))
    known = _shared(held, rows).select([*names, column]).rename_columns([*columns, "at"])
    query = f"""
        with n as (select *, row_number() over (partition by {listed} order by __position) as __nth from given where "at" = {now}),
             h as (select *, row_number() over (partition by {listed} order by "at") as __nth from known)
        select n.__position, epoch_us(h."at") from n join h on {same} and n.__nth = h.__nth
    """
    with asking("the rows that are to be compared with those of the table"), duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("given", given.append_column("__position", pa.array(np.arange(rows.num_rows))))
        connection.register("known", known)
        found = connection.sql(query).to_arrow_table()
    moments = pc.cast(rows[column], pa.int64()).to_numpy().copy()
    moments[found.column(0).to_numpy()] = found.column(1).to_numpy()
    place = rows.column_names.index(column)
    return rows.set_column(place, column, pa.array(moments).cast(rows.schema.field(column).type))


def _shared(held: DeltaTable | None, rows: pa.Table) -> pa.Table:
    """The table's rows with the columns of ``rows``; a column that the table lacks is null."""
    if held is None:
        return rows.slice(0, 0)
    schema = delta.schema(held)
    known = delta.scan(held, [name for name in rows.column_names if name in schema.names])
    arrays = [
        known[f.name].cast(f.type) if f.name in known.column_names else pa.nulls(known.num_rows, f.type)
        for f in rows.schema
    ]
    return pa.table(arrays, schema=rows.schema)


def _notes(bad: Sequence[BadRow], good: pa.Table, fresh: pa.Table, files: int) -> dict[str, str]:
    return {
        "asof.files": str(files),
        "asof.rows_read": str(good.num_rows + len(bad)),
        "asof.rows_added": str(fresh.num_rows),
        "asof.duplicates": str(good.num_rows - fresh.num_rows),
        "asof.quarantined": str(len(bad)),
    }
