"""Loads the rows for a replay: the rows to score in time order, and label rows in the order they became known.

Rows are read from files in the layout that ``asof ingest`` reads, for days that are not ingested yet, or, without files, from
the tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof.bundle import Bundle
from asof.contract import Contract
from asof.errors import SourceError, UsageError
from asof.instants import format_moment
from asof.repo import Repo
from asof.tables import Declarations, TableDeclaration, declarations, delta
from asof.tables.ingest import examine


@dataclass(frozen=True)
class TimedRows:
    """Rows of one table in the order in which they are replayed.

    Attributes:
        table: Name of the table.
        rows: n rows, with the table's columns.
        moments: ``int64[n]`` microseconds, ascending: event times of the rows to score; for labels, when each row became known.
    """

    table: str
    rows: pa.Table
    moments: NDArray[np.int64]

    def between(self, start: int, end: int) -> pa.Table:
        """The rows with moments in ``[start, end)``."""
        first, last = np.searchsorted(self.moments, (start, end))
        return self.rows.slice(first, last - first)


@dataclass(frozen=True)
class Recording:
    """The rows of one span of time.

    Attributes:
        contract: The model's contract.
        scored: The rows to score.
        labels: The rows of the label table; None if the model names none.
        id: Column that identifies a row to score.
        event_time: Column with the moment of a row to score.
    """

    contract: Contract
    scored: TimedRows
    labels: TimedRows | None
    id: str
    event_time: str

    @property
    def tables(self) -> list[str]:
        """The tables that receive rows."""
        return [self.scored.table, *([self.labels.table] if self.labels else [])]

    def requests(self) -> list[dict[str, Any]]:
        """The request for each row to score: keys, request fields and moment; the row's id is the request id."""
        names = [f.name for f in (*self.contract.keys, *self.contract.request_fields)]
        columns = [_json_ready(self.scored.rows[name]) for name in names]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        ids = [str(value) for value in self.scored.rows[self.id].to_pylist()]
        requests: list[dict[str, Any]] = [{"rows": [r], "request_id": i} for r, i in zip(rows, ids, strict=True)]
        if self.event_time not in {f.name for f in self.contract.request_fields}:
            for request, moment in zip(requests, _json_ready(self.scored.rows[self.event_time]), strict=True):
                request["at"] = moment
        return requests

    def chunks(self, most: int) -> list[tuple[int, int]]:
        """Ranges ``[first, last)`` of rows that can be scored concurrently, because no row reads what another row writes."""
        joins = [(k.column, k.request) for v in self.contract.views for k in v.join_keys]
        if not all(v.join_keys for v in self.contract.views):
            most = 1  # a view without keys: every row is read by every other
        reads = list(zip(*(_of(c, self.scored.rows, r) for c, r in joins), strict=True))
        writes = list(zip(*(_of(c, self.scored.rows, c) for c, _ in joins), strict=True))
        return _runs(reads, writes, most, self.scored.rows.num_rows)


def record(
    repo: Repo, bundle: Bundle, start: int, end: int, files: Sequence[Path] = (), limit: int | None = None
) -> Recording:
    """The rows to replay in ``[start, end)``.

    Args:
        repo: The feature repo.
        bundle: The model; its metadata names the table whose rows are scored.
        start: First moment, microseconds.
        end: Moment after the last, microseconds.
        files: Files with the rows; without any, the tables are read.
        limit: Most rows to score; later label rows are left out as well.

    Raises:
        UsageError: The model's metadata names no rows, or the span is empty.
        SourceError: There are no rows in the span, or they cannot be read.
        SchemaError: A file lacks a column.
        NotFoundError: There is no such table.
    """
    named = bundle.metadata.get("rows") or {}
    if not named.get("table"):
        raise UsageError(
            f"model {bundle.model!r} does not say which table's rows it scores; train again with `asof train`"
        )
    if start >= end:
        raise UsageError(f"the span from {format_moment(start)} to {format_moment(end)} is empty")
    declared = declarations(repo)
    scored = _load(repo, declared, named["table"], start, end, files, known=False)
    _check_columns(bundle.contract, scored, [named["id"], named["event_time"]])
    if not scored.rows.num_rows:
        where = ", ".join(str(f) for f in files) or f"table {named['table']!r}"
        raise SourceError(f"no rows between {format_moment(start)} and {format_moment(end)} in {where}")
    if limit is not None and limit < scored.rows.num_rows:
        scored = TimedRows(scored.table, scored.rows.slice(0, limit), scored.moments[:limit])
        end = int(scored.moments[-1]) + 1
    label_table = named.get("label_table")
    labels = _load(repo, declared, label_table, start, end, files, known=True) if label_table else None
    return Recording(bundle.contract, scored, labels, named["id"], named["event_time"])


def _load(
    repo: Repo, declared: Declarations, name: str, start: int, end: int, files: Sequence[Path], *, known: bool
) -> TimedRows:
    declaration = declared.table(name)
    rows = _from_files(repo, declaration, files) if files else _from_table(repo, declaration)
    moments = _micros(rows, declaration.timestamp_field)
    if known and declaration.knowledge_field:
        moments = np.maximum(moments, _micros(rows, declaration.knowledge_field))
    inside = np.flatnonzero((moments >= start) & (moments < end))
    order = inside[np.argsort(moments[inside], kind="stable")]
    return TimedRows(declaration.name, rows.take(pa.array(order)).combine_chunks(), moments[order])


def _from_files(repo: Repo, declaration: TableDeclaration, files: Sequence[Path]) -> pa.Table:
    checked, _ = examine(declaration, delta.folder(repo, declaration), list(files), time.time_ns() // 1_000)
    return pa.concat_tables([c.good for c in checked])


def _from_table(repo: Repo, declaration: TableDeclaration) -> pa.Table:
    held = delta.open_table(delta.folder(repo, declaration))
    if held is None:
        raise SourceError(f"table {declaration.name!r} is empty; ingest rows, or name files with --data FILE")
    return delta.scan(held, delta.schema(held).names)


def _check_columns(contract: Contract, scored: TimedRows, others: Sequence[str]) -> None:
    needed = [f.name for f in (*contract.keys, *contract.request_fields)] + list(others)
    if lacking := sorted(set(needed) - set(scored.rows.column_names)):
        raise UsageError(f"rows of table {scored.table!r} cannot be replayed: it has no columns {lacking}")


def _runs(
    reads: Sequence[tuple[Any, ...]], writes: Sequence[tuple[Any, ...]], most: int, rows: int
) -> list[tuple[int, int]]:
    runs, first = [], 0
    written: set[Any] = set()
    for position in range(rows):
        mine = reads[position] if reads else ()
        if position - first >= most or not written.isdisjoint(mine):
            runs.append((first, position))
            first = position
            written.clear()
        written.update(w for w in (writes[position] if writes else ()) if w[1] is not None)
    return [*runs, (first, rows)]


def _of(column: str, rows: pa.Table, name: str) -> list[tuple[str, Any]]:
    values = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
    return [(column, value) for value in values]


def _micros(rows: pa.Table, name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pc.cast(pc.cast(rows[name], pa.timestamp("us", "UTC")), pa.int64()).to_numpy()
    return found


def _json_ready(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if value is None else value.isoformat() for value in column.to_pylist()]
    return [None if isinstance(v, float) and v != v else v for v in column.to_pylist()]
