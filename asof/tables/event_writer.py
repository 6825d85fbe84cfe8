"""Writes checked events of one table to both sides: first the Delta table, then every online view that reads from it.

The table decides what an id means: under its lock, ids that it has are left out and the rest is one commit. The online views
get what the table holds under these ids, and leave out the ids that they have. A crash between the two steps leaves the table
ahead; writing the same events again completes the online side and counts nothing twice. ``asof push`` and streams
both write through this class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import View
from asof.online.watermarks import Watermark
from asof.rendering import Rendered
from asof.repo import Repo
from asof.tables import delta
from asof.tables.checking import Checked
from asof.tables.declarations import Declarations
from asof.tables.ingest import IngestReport, commit
from asof.tables.schema import Column, TableDeclaration


class OnlineWriter(Protocol):
    """The part of the online store that an event writer needs."""

    def write(self, view: View, table: pa.Table, *, now: int | None = None) -> int:
        """Write rows of a view; returns the number of rows written."""
        ...

    def watermark(self, table: str) -> Watermark:
        """The watermark of a table."""
        ...


@dataclass(frozen=True, repr=False)
class WriteReport(Rendered):
    """What was written: the table's side as for an ingest, and view -> number of rows written online."""

    offline: IngestReport
    online: dict[str, int]

    @property
    def exit_code(self) -> int:
        """As for the table's side."""
        return self.offline.exit_code

    def parts(self) -> Iterator[str]:
        """The table's side, and the new rows of each view."""
        yield from self.offline.parts()
        online = ", ".join(f"{view} {count:,}" for view, count in self.online.items()) or "no view reads from it"
        yield f"new online: {online}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {**self.offline.to_dict(), "online": self.online}


class EventWriter:
    """Writes events of one table.

    Args:
        repo: The feature repo.
        declared: Its declarations.
        table: Name of the table, or of a push source that feeds it.
        online: The online store.

    Raises:
        NotFoundError: There is no such table.
        UsageError: The table is no Delta table on a local disk.
    """

    def __init__(self, repo: Repo, declared: Declarations, table: str, online: OnlineWriter) -> None:
        self.repo, self.online = repo, online
        self.declaration: TableDeclaration = declared.table(table)
        self.path: Path = delta.folder(repo, self.declaration)
        self.views = [v for v in declared.readers(self.declaration.name) if v.online]

    def write(
        self, checked: Sequence[Checked], columns: Sequence[Column], clock: int, online_clock: int | None, *, files: int = 0
    ) -> WriteReport:  # fmt: skip
        """Write to the table and then to the online views.

        Args:
            checked: The events; those that do not fit go to the table's quarantine.
            columns: The table's columns.
            clock: Wall clock of the commit, microseconds UTC.
            online_clock: The moment at which the online store decides what is known; None for its own clock.
            files: Number of files that the events came from.

        Raises:
            TableError: The table cannot be written; nothing was written.
            OnlineStoreError: Redis failed; the table has the events.
        """
        report = commit(self.repo, self.declaration, columns, checked, clock, files=files)
        good = pa.concat_tables([c.good for c in checked])
        return WriteReport(report, self.write_online(self._as_held(good) if report.duplicates else good, online_clock))

    def write_online(self, rows: pa.Table, online_clock: int | None) -> dict[str, int]:
        """Write to the online views alone; returns view -> number of rows written.

        Raises:
            OnlineStoreError: Redis failed.
        """
        if not rows.num_rows:
            return {view.name: 0 for view in self.views}
        return {
            view.name: self.online.write(view, view_columns(view, self.declaration, rows), now=online_clock)
            for view in self.views
        }

    def _as_held(self, rows: pa.Table) -> pa.Table:
        """``rows``; those with an id that the table had already are as the table holds them."""
        held, key = delta.open_table(self.path), self.declaration.id
        if held is None or key is None:
            return rows
        ids = pc.cast(rows[key], delta.schema(held).field(key).type)
        return delta.scan(held, [n for n in rows.column_names if n in delta.schema(held).names], key, ids.unique())


def view_columns(view: View, declaration: TableDeclaration, rows: pa.Table) -> pa.Table:
    """The columns of ``rows`` that ``view`` needs, under the view's names."""
    needed = [k.column for k in view.join_keys]
    needed += view.event_columns if view.windowed else [f.name for f in view.features]
    source = view.source
    needed += _mapped(view, [source.timestamp_field, source.created_timestamp_column, source.event_id])
    names = list(dict.fromkeys(needed))
    return pa.table({name: rows[source.column(name)] for name in names})


def _mapped(view: View, raw: Iterable[str | None]) -> list[str]:
    return [view.source.field_mapping.get(name, name) for name in raw if name]
