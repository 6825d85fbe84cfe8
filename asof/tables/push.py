"""Pushes events: they count in the online store when the call returns, and in the table.

:func:`push` writes a batch to the table and then to every online view that reads from it; after a failure, pushing the batch again
writes what is missing. :class:`Pusher` is for many small batches: each is online when the call returns, and the table gets
them in larger commits.

Both sides know an event by the id of its source, so an event that is pushed twice counts once. The first content of an id
stays: :func:`push` sends the online store what the table holds under that id.

Where knowledge time is the time of arrival, rows without one are stamped with the online store's clock. Until the batch is on
both sides, reads are as of the moment before (:mod:`asof.online.watermarks`), so what a read has seen can be recomputed. An
interrupted batch holds reads back until it is pushed again, or until a later push releases it as abandoned.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from asof.errors import OnlineStoreError, TableError, UsageError
from asof.online.watermarks import PUSH, Watermark
from asof.repo import Repo
from asof.tables import delta, reading
from asof.tables.checking import Checked, check, layout
from asof.tables.declarations import declarations
from asof.tables.event_writer import EventWriter, OnlineWriter, WriteReport
from asof.tables.ingest import IN_MEMORY, IngestReport, commit, examine
from asof.tables.schema import Column, TableDeclaration

FLUSH_ROWS = 20_000
FLUSH_SECONDS = 30.0
ABANDONED = 3_600_000_000
"""Microseconds after which an interrupted push no longer holds reads back."""


def push(
    repo: Repo,
    table: str,
    batch: pa.Table | Path | Sequence[Path],
    *,
    writer: OnlineWriter | None = None,
    now: int | None = None,
) -> WriteReport:
    """Add a batch to a table and to the online views that read from it.

    Args:
        repo: The feature repo.
        table: Name of the table, or of a push source that feeds it.
        batch: Rows in memory, or files.
        writer: The online store; by default the repo's.
        now: The wall clock; by default the real one, and that of the online store for rows that are stamped.

    Raises:
        NotFoundError: There is no such table.
        SchemaError: The batch lacks a column, or a column has a type that does not fit.
        TableError: The table cannot be written; nothing was pushed.
        OnlineStoreError: Redis failed; the table may have the rows, push them again.
    """
    events = EventWriter(repo, declarations(repo), table, writer or _writer(repo))
    declaration = events.declaration
    clock = time.time_ns() // 1_000 if now is None else now
    checked, columns = examine(declaration, events.path, batch, clock)
    watermark = events.online.watermark(declaration.name) if declaration.stamped and now is None else None
    with _stamped(watermark, declaration, checked, clock) as (stamped, online_clock):
        files = 0 if isinstance(batch, pa.Table) else len(checked)
        try:
            return events.write(stamped, columns, clock, online_clock, files=files)
        except OnlineStoreError as error:
            raise OnlineStoreError(f"{error}; the table has the rows, push them again when this is mended") from error


@dataclass
class Pusher:
    """Pushes many small batches: online at once, into the tables in larger commits.

    A context manager: leaving it commits the remaining rows, also after an error. Use it from one thread.

    A crash loses nothing online; the tables may lack the last ``flush_rows`` rows or the rows of the last ``flush_seconds``
    seconds. Pushing those again completes the tables and changes nothing online.

    Args:
        repo: The feature repo.
        tables: Tables, or push sources that feed them, that will be pushed to.
        writer: The online store; by default the repo's.
        flush_rows: Rows of a table to collect before a commit.
        flush_seconds: Seconds after which the next push commits anyway.

    Raises:
        NotFoundError: There is no such table.
    """

    repo: Repo
    tables: Sequence[str]
    writer: OnlineWriter | None = None
    flush_rows: int = FLUSH_ROWS
    flush_seconds: float = FLUSH_SECONDS
    reports: list[IngestReport] = field(default_factory=list, init=False)
    _buffers: dict[str, _Buffer] = field(default_factory=dict, init=False, repr=False)
    _watermarks: dict[str, Watermark] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        declared, online = declarations(self.repo), self.writer or _writer(self.repo)
        self._buffers = {name: _Buffer(EventWriter(self.repo, declared, name, online)) for name in self.tables}
        stamped = {n: b.declaration.name for n, b in self._buffers.items() if b.declaration.stamped}
        self._watermarks = {name: online.watermark(table) for name, table in stamped.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def push(self, table: str, batch: pa.Table | Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Write a batch to the online store and keep it for the table's next commit.

        Args:
            table: One of :attr:`tables`.
            batch: A table, or rows as mappings.

        Returns:
            View -> number of rows written online.

        Raises:
            UsageError: ``table`` is not one of :attr:`tables`.
            SchemaError: The batch lacks a column, or a column has a type that does not fit.
            OnlineStoreError: Redis failed; the batch is not kept for the table either.
        """
        if table not in self._buffers:
            raise UsageError(
                f"this pusher was made for {sorted(self._buffers)}, not for {table!r}; name the table when making it"
            )
        buffer = self._buffers[table]
        clock = time.time_ns() // 1_000
        checked = buffer.check(batch if isinstance(batch, pa.Table) else pa.Table.from_pylist(list(batch)), clock)
        with _stamped(self._watermarks.get(table), buffer.declaration, [checked], clock) as ((stamped,), online_clock):
            sent = buffer.events.write_online(stamped.good, online_clock)
        buffer.add(stamped)
        if buffer.rows >= self.flush_rows or time.monotonic() - buffer.since > self.flush_seconds:
            self._flush(buffer)
        return sent

    def flush(self) -> None:
        """Commit all rows that are kept for the tables.

        Raises:
            TableError: A table cannot be written; its rows are kept.
        """
        for buffer in self._buffers.values():
            self._flush(buffer)

    def _flush(self, buffer: _Buffer) -> None:
        if buffer.checked:
            clock = time.time_ns() // 1_000
            self.reports.append(commit(self.repo, buffer.declaration, buffer.columns, buffer.checked, clock, files=0))
            buffer.clear()


@dataclass
class _Buffer:
    """Checked rows on their way into one table."""

    events: EventWriter
    columns: tuple[Column, ...] = ()
    checked: list[Checked] = field(default_factory=list)
    rows: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def declaration(self) -> TableDeclaration:
        return self.events.declaration

    def check(self, batch: pa.Table, clock: int) -> Checked:
        rows = reading.in_memory(batch, [c.name for c in self.columns or self.declaration.columns], IN_MEMORY)
        if not self.columns:
            held = delta.open_table(self.events.path)
            self.columns = layout(self.declaration, delta.schema(held) if held is not None else None, rows)
        return check(rows, self.declaration, self.columns, clock)

    def add(self, checked: Checked) -> None:
        if not self.checked:
            self.since = time.monotonic()
        self.checked.append(checked)
        self.rows += checked.good.num_rows + len(checked.bad)

    def clear(self) -> None:
        self.checked, self.rows = [], 0


def _writer(repo: Repo) -> OnlineWriter:
    from asof import online

    writer: OnlineWriter = online.Writer(repo.settings.project, repo.settings.online)
    return writer


@contextmanager
def _stamped(
    watermark: Watermark | None, declaration: TableDeclaration, checked: list[Checked], clock: int
) -> Iterator[tuple[list[Checked], int | None]]:
    """The stamped rows and the online store's clock; when the block ends, reads may see the rows.

    After an error, reads stay as of the moment before, because the batch may be on one side only; unless nothing was written.
    """
    if watermark is None:
        yield checked, None
        return
    _release_abandoned(watermark, clock)
    name = declaration.knowledge_field or ""
    position = PUSH + _digest([c.good.drop_columns([name]) for c in checked])
    stamps, online_clock = watermark.begin([position])
    try:
        yield [replace(c, good=_restamped(c.good, name, clock, int(stamps[0]))) for c in checked], online_clock
    except TableError:
        watermark.finish([position])
        raise
    watermark.finish([position])


def _release_abandoned(watermark: Watermark, clock: int) -> None:
    """Releases watermarks held by abandoned pushes."""
    found = watermark.under_way().items()
    if old := [p for p, stamp in found if p.startswith(PUSH) and stamp < clock - ABANDONED]:
        watermark.finish(old)


def _restamped(rows: pa.Table, name: str, clock: int, stamp: int) -> pa.Table:
    """``rows`` with knowledge time ``stamp`` where it was derived as ``clock``."""
    kind = rows.schema.field(name).type
    derived = pc.equal(pc.cast(rows[name], pa.int64()), clock)
    return rows.set_column(
        rows.column_names.index(name), name, pc.if_else(derived, pa.scalar(stamp).cast(kind), rows[name])
    )


def _digest(tables: Sequence[pa.Table]) -> str:
    """A digest of the rows. A batch that is pushed again has the same one, so its watermark is found again."""
    said = hashlib.blake2b(digest_size=16)
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        said.update(sink.getvalue())
    return said.hexdigest()
