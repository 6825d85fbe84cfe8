"""Events that are to count at once: into the online store and into the table.

:func:`push` adds a batch to the table first and then to every online view that reads from it; a batch whose second half failed is
pushed again, which adds what is missing. :class:`Pusher` is for many small batches: each is online when the call
returns, while the table gets them in larger commits.

Both sides know an event by the id of its source, so pushing it twice counts it once. The first content of an id stays: :func:`push`
sends the online store what the table holds under that id.

Where knowledge time is the moment of arrival, rows that come without one are stamped by the online store's clock, and reads are as
of the moment before until the batch is everywhere (:mod:`asof.online.watermarks`). So what a vector had seen can be said afterwards. A
batch that was interrupted holds reads back until it is pushed again, or until another push finds it abandoned.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import View
from asof.errors import OnlineStoreError, TableError, UsageError
from asof.online.watermarks import PUSH, Watermark
from asof.repo import Repo
from asof.tables import delta, reading
from asof.tables.checking import Checked, check, layout
from asof.tables.declarations import Declarations, declarations
from asof.tables.ingest import IN_MEMORY, IngestReport, commit, examine
from asof.tables.schema import Column, TableDeclaration

FLUSH_ROWS = 20_000
FLUSH_SECONDS = 30.0
ABANDONED = 3_600_000_000
"""Microseconds after which a push that neither ended nor was made again no longer holds reads back."""


class OnlineWriter(Protocol):
    """What a push needs of the online store."""

    def write(self, view: View, table: pa.Table, *, now: int | None = None) -> int:
        """Write rows of a view; the number of those that were new."""
        ...

    def watermark(self, table: str) -> Watermark:
        """The watermark of a table."""
        ...


@dataclass(frozen=True)
class PushReport:
    """What a push did: the table's side as for an ingest, and view -> number of rows that were new online."""

    offline: IngestReport
    online: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {**self.offline.to_dict(), "online": self.online}


def push(
    repo: Repo,
    table: str,
    batch: pa.Table | Path | Sequence[Path],
    *,
    writer: OnlineWriter | None = None,
    now: int | None = None,
) -> PushReport:
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
    declared = declarations(repo)
    declaration = declared.table(table)
    path = delta.folder(repo, declaration)
    clock = time.time_ns() // 1_000 if now is None else now
    checked, columns = examine(declaration, path, batch, clock)
    online = writer or _writer(repo)
    watermark = online.watermark(declaration.name) if declaration.stamped and now is None else None
    with _stamped(watermark, declaration, checked, clock) as (stamped, online_clock):
        files = 0 if isinstance(batch, pa.Table) else len(checked)
        report = commit(repo, declaration, columns, stamped, clock, files=files)
        good = pa.concat_tables([c.good for c in stamped])
        rows = as_held(path, good, declaration.id) if report.duplicates else good
        try:
            return PushReport(report, _send(online, declared, declaration, rows, online_clock))
        except OnlineStoreError as error:
            raise OnlineStoreError(f"{error}; the table has the rows, push them again when this is mended") from error


@dataclass
class Pusher:
    """Many small pushes: online at once, into the tables in larger commits.

    A context manager: leaving it commits what is left, also after an error. Use it from one thread.

    What a crash may lose: nothing of the online store, and from the tables the rows of the last ``flush_rows`` rows or
    ``flush_seconds`` seconds. Pushing those again completes the tables and changes nothing online.

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
    _declared: Declarations = field(init=False, repr=False)
    _online: OnlineWriter = field(init=False, repr=False)
    _buffers: dict[str, _Buffer] = field(default_factory=dict, init=False, repr=False)
    _watermarks: dict[str, Watermark] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._declared = declarations(self.repo)
        for name in self.tables:
            declaration = self._declared.table(name)
            path = delta.folder(self.repo, declaration)
            self._buffers[name] = _Buffer(declaration, path)
        self._online = self.writer or _writer(self.repo)
        declared = {name: buffer.declaration for name, buffer in self._buffers.items()}
        self._watermarks = {n: self._online.watermark(d.name) for n, d in declared.items() if d.stamped}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def push(self, table: str, batch: pa.Table | Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Make a batch count online and remember it for the table.

        Args:
            table: One of :attr:`tables`.
            batch: A table, or rows as mappings.

        Returns:
            View -> number of rows that were new online.

        Raises:
            UsageError: ``table`` is none of those that this pusher was made for.
            SchemaError: The batch lacks a column, or a column has a type that does not fit.
            OnlineStoreError: Redis failed; the batch is not remembered for the table either.
        """
        if table not in self._buffers:
            raise UsageError(
                f"this pusher was made for {sorted(self._buffers)}, not for {table!r}; name the table when making it"
            )
        buffer = self._buffers[table]
        clock = time.time_ns() // 1_000
        checked = buffer.check(batch if isinstance(batch, pa.Table) else pa.Table.from_pylist(list(batch)), clock)
        with _stamped(self._watermarks.get(table), buffer.declaration, [checked], clock) as ((stamped,), online_clock):
            sent = _send(self._online, self._declared, buffer.declaration, stamped.good, online_clock)
        buffer.add(stamped)
        if buffer.rows >= self.flush_rows or time.monotonic() - buffer.since > self.flush_seconds:
            self._flush(buffer)
        return sent

    def flush(self) -> None:
        """Commit everything that is remembered.

        Raises:
            TableError: A table cannot be written; its rows stay remembered.
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

    declaration: TableDeclaration
    path: Path
    columns: tuple[Column, ...] = ()
    checked: list[Checked] = field(default_factory=list)
    rows: int = 0
    since: float = field(default_factory=time.monotonic)

    def check(self, batch: pa.Table, clock: int) -> Checked:
        rows = reading.in_memory(batch, [c.name for c in self.columns or self.declaration.columns], IN_MEMORY)
        if not self.columns:
            held = delta.open_table(self.path)
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
    """The rows as they are to be written, and the clock to write them by; afterwards readers may see them.

    After an error reads stay as of the moment before, unless nothing was written: the batch may be on one side only.
    """
    if watermark is None:
        yield checked, None
        return
    _let_go(watermark, clock)
    name = declaration.knowledge_field or ""
    position = PUSH + _digest([c.good.drop_columns([name]) for c in checked])
    stamps, online_clock = watermark.begin([position])
    try:
        yield [replace(c, good=_restamped(c.good, name, clock, int(stamps[0]))) for c in checked], online_clock
    except TableError:
        watermark.finish([position])
        raise
    watermark.finish([position])


def _let_go(watermark: Watermark, clock: int) -> None:
    """Let readers see batches of which nobody has heard for long: whoever pushed them died and did not come back."""
    found = watermark.under_way().items()
    if old := [p for p, stamp in found if p.startswith(PUSH) and stamp < clock - ABANDONED]:
        watermark.finish(old)


def _restamped(rows: pa.Table, name: str, clock: int, stamp: int) -> pa.Table:
    """Rows whose knowledge time was derived as ``clock`` are known from ``stamp`` on."""
    kind = rows.schema.field(name).type
    derived = pc.equal(pc.cast(rows[name], pa.int64()), clock)
    return rows.set_column(
        rows.column_names.index(name), name, pc.if_else(derived, pa.scalar(stamp).cast(kind), rows[name])
    )


def _digest(tables: Sequence[pa.Table]) -> str:
    """The same for the same rows, so that a batch that is pushed again takes up where it was interrupted."""
    said = hashlib.blake2b(digest_size=16)
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        said.update(sink.getvalue())
    return said.hexdigest()


def _send(
    writer: OnlineWriter, declared: Declarations, declaration: TableDeclaration, rows: pa.Table, now: int | None
) -> dict[str, int]:
    views = [v for v in declared.readers(declaration.name) if v.online]
    if not rows.num_rows:
        return {view.name: 0 for view in views}
    return {view.name: writer.write(view, spelled(view, declaration, rows), now=now) for view in views}


def spelled(view: View, declaration: TableDeclaration, rows: pa.Table) -> pa.Table:
    """The columns of ``rows`` that ``view`` needs, as the view spells them."""
    needed = [k.column for k in view.join_keys]
    needed += view.event_columns if view.windowed else [f.name for f in view.features]
    source = view.source
    needed += _mapped(view, [source.timestamp_field, source.created_timestamp_column, source.event_id])
    names = list(dict.fromkeys(needed))
    return pa.table({name: rows[source.column(name)] for name in names})


def _mapped(view: View, raw: Iterable[str | None]) -> list[str]:
    return [view.source.field_mapping.get(name, name) for name in raw if name]


def as_held(path: Path, rows: pa.Table, key: str | None) -> pa.Table:
    """``rows``, with those that the table held already as it holds them."""
    held = delta.open_table(path)
    if held is None or key is None:
        return rows
    ids = pc.cast(rows[key], delta.schema(held).field(key).type)
    return delta.scan(held, [n for n in rows.column_names if n in delta.schema(held).names], key, ids.unique())
