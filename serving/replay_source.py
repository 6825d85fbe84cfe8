"""Loads the rows for a replay: the rows to score in time order, and the rows of every source in the order they became known.

Rows are read from files in the layout that ``asof ingest`` reads, for days that are not ingested yet. A source that no file
fits is read from its own table, and so is every source where no file is named.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from asof.bundle import Bundle
from asof.contract import Contract, Source, View
from asof.errors import AsofError, NotFoundError, SchemaError, SourceError, UsageError
from asof.instants import format_moment
from asof.offline.sources import open_files
from asof.online.codec.events import Pruning
from asof.repo import Repo
from asof.tables import Declarations, TableDeclaration, declarations, delta
from asof.tables.ingest import examine, with_held_stamps


@dataclass(frozen=True)
class TimedRows:
    """Rows of one table in the order in which they are replayed.

    Attributes:
        table: Name of the table.
        rows: n rows, with the table's columns.
        moments: ``int64[n]`` microseconds, ascending: event times of the rows to score; for rows to feed, when each became known.
        held: Whether the rows are fed to the online store alone: the source is no Delta table, or its table has them and knows
            no id by which it could leave them out.
    """

    table: str
    rows: pa.Table
    moments: NDArray[np.int64]
    held: bool = False

    def between(self, start: int, end: int) -> pa.Table:
        """The rows with moments in ``[start, end)``."""
        first, last = np.searchsorted(self.moments, (start, end))
        return self.rows.slice(first, last - first)


@dataclass(frozen=True)
class Recording:
    """The rows of one span of time.

    Attributes:
        contract: The model's contract.
        scored: The rows to score, by event time.
        fed: Rows to feed before the rows to score that come after them: those of the contract's sources and of the label table,
            and rows of the scored table that became known later than their event time.
        id: Column that identifies a row to score.
        event_time: Column with the moment of a row to score.
        at_once: ``bool[n]``: the rows to score that are fed right after they are scored; by default all.
        not_fed: Source -> why none of its rows are fed.
    """

    contract: Contract
    scored: TimedRows
    fed: tuple[TimedRows, ...]
    id: str
    event_time: str
    at_once: NDArray[np.bool_] | None = None
    not_fed: dict[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> list[str]:
        """The tables that receive rows."""
        written = [r.table for r in (self.scored, *self.fed) if not r.held]
        return list(dict.fromkeys(written))

    def scored_at_once(self, first: int, last: int) -> pa.Table:
        """The rows to score in ``[first, last)`` that are fed right after they are scored."""
        rows = self.scored.rows.slice(first, last - first)
        return rows if self.at_once is None else rows.filter(pa.array(self.at_once[first:last]))

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
        """Ranges ``[first, last)`` of rows that can be scored concurrently: no row reads what another row writes, or needs what is dropped.

        What became known until the last row of a range is fed before its first row is scored. The online store then drops events
        that only reads more than :attr:`Pruning.slack` earlier need, so a range is no longer than that.
        """
        written = [v for v in self.contract.views if v.source.name == self.scored.table]
        joins = [(k.column, k.request) for v in written for k in v.join_keys]
        if not all(v.join_keys for v in written):
            most = 1  # a view without keys: every row is read by every other
        reads = list(zip(*(_of(c, self.scored.rows, r) for c, r in joins), strict=True))
        writes = list(zip(*(_of(c, self.scored.rows, c) for c, _ in joins), strict=True))
        reach = min((Pruning.of(v).slack for v in self.contract.views if v.windowed), default=None)
        return _runs(reads, writes, most, self.scored.moments.tolist(), reach, self._overwritten())

    def _overwritten(self) -> frozenset[int]:
        """Rows to score before which a row of a plain view is fed: it replaces a row that earlier moments read."""
        plain = {v.source.name for v in self.contract.views if not v.windowed}
        found = [np.searchsorted(self.scored.moments, r.moments) for r in self.fed if r.table in plain]
        return frozenset(int(i) for i in np.unique(np.concatenate(found))) if found else frozenset()


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
    loader = _Loader(repo, declared, files)
    try:
        loaded = loader.load(named["table"])
    except SourceError:
        loader.check_all_read()
        raise
    scored = loaded.scored(start, end)
    _check_columns(bundle.contract, scored, [named["id"], named["event_time"]])
    if limit is not None and limit < scored.rows.num_rows:
        scored = TimedRows(scored.table, scored.rows.slice(0, limit), scored.moments[:limit], scored.held)
        end = int(scored.moments[-1]) + 1
    views = bundle.contract.views
    plain = {v.source.name for v in views if not v.windowed}
    late, at_once = loaded.late(start, end, scored.rows.num_rows, keep=loaded.declaration.name not in plain)
    fed, not_fed = [late], _not_online(views, declared)
    names = [*(v.source.name for v in views), *([named["label_table"]] if named.get("label_table") else [])]
    for name in dict.fromkeys(names):
        if name == scored.table or name in not_fed:
            continue
        try:
            fed.append(loader.load(name, [v for v in views if v.source.name == name]).known(start, end))
        except (NotFoundError, SourceError, UsageError) as error:
            not_fed[name] = str(error)
    loader.check_all_read()
    known = tuple(r for r in fed if r.rows.num_rows)
    if not scored.rows.num_rows and not known:
        where = ", ".join(str(f) for f in files) or f"table {named['table']!r}"
        raise SourceError(f"no rows between {format_moment(start)} and {format_moment(end)} in {where}")
    return Recording(bundle.contract, scored, known, named["id"], named["event_time"], at_once, not_fed)


@dataclass(frozen=True)
class _Loaded:
    """All rows of one source, with event time ``at`` and ``arrival``, the moment from which each was known."""

    declaration: TableDeclaration
    rows: pa.Table
    at: NDArray[np.int64]
    arrival: NDArray[np.int64]
    held: bool

    def _timed(self, chosen: NDArray[np.int64], moments: NDArray[np.int64]) -> TimedRows:
        order = chosen[np.argsort(moments[chosen], kind="stable")]
        rows = self.rows.take(pa.array(order)).combine_chunks()
        return TimedRows(self.declaration.name, rows, moments[order], self.held)

    def scored(self, start: int, end: int) -> TimedRows:
        """The rows with event times in ``[start, end)``."""
        return self._timed(self._scored(start, end), self.at)

    def known(self, start: int, end: int) -> TimedRows:
        """The rows that became known in ``[start, end)``."""
        return self._timed(np.flatnonzero((self.arrival >= start) & (self.arrival < end)), self.arrival)

    def late(self, start: int, end: int, limit: int, *, keep: bool) -> tuple[TimedRows, NDArray[np.bool_]]:
        """Rows that became known after their event time, and of the first ``limit`` rows to score those that did not.

        Args:
            start: First moment, microseconds.
            end: Moment after the last.
            limit: Number of rows to score.
            keep: Whether rows to score that become known after ``end`` are among the late rows.
        """
        scored = self._scored(start, end)
        scored = scored[np.argsort(self.at[scored], kind="stable")][:limit]
        late = (self.arrival > self.at) & (self.arrival >= start) & (self.arrival < end)
        if keep:
            late[scored] |= self.arrival[scored] >= end
        return self._timed(np.flatnonzero(late), self.arrival), self.arrival[scored] == self.at[scored]

    def _scored(self, start: int, end: int) -> NDArray[np.int64]:
        return np.flatnonzero((self.at >= start) & (self.at < end))


class _Loader:
    """Reads sources, from the files that fit them and otherwise from their own tables."""

    def __init__(self, repo: Repo, declared: Declarations, files: Sequence[Path]) -> None:
        self.repo, self.declared = repo, declared
        self.files = list({file.resolve(): file for file in files}.values())  # a file that is named twice counts once
        self.clock = time.time_ns() // 1_000
        self._misfits: dict[Path, AsofError] = {}
        self._read: set[Path] = set()

    def load(self, name: str, views: Sequence[View] = ()) -> _Loaded:
        """All rows of the source ``name``; ``views`` read from it.

        Raises:
            NotFoundError: There is no such table.
            SourceError: There are no rows, or they cannot be read.
            UsageError: The source is not on this machine.
        """
        declaration = self.declared.table(name)
        rows = self._from_files(declaration, views) if declaration.format == "delta" else None
        held = rows is None and (declaration.format != "delta" or declaration.id is None)
        if rows is None:
            rows = self._from_table(declaration)
        at = _micros(rows, declaration.timestamp_field)
        arrival = at
        if declaration.knowledge_field:
            known = _micros(rows, declaration.knowledge_field)
            arrival = np.where(known == self.clock, at, np.maximum(at, known))  # stamped just now: it says nothing
        return _Loaded(declaration, self._as_held(declaration, rows), at, arrival, held)

    def _as_held(self, declaration: TableDeclaration, rows: pa.Table) -> pa.Table:
        """Rows without an id that an earlier replay added get the moment of arrival that it gave them, so that they count once."""
        if (
            declaration.id
            or not declaration.stamped
            or declaration.format != "delta"
            or not declaration.knowledge_field
        ):
            return rows
        table = delta.open_table(delta.folder(self.repo, declaration))
        return rows if table is None else with_held_stamps(table, rows, declaration.knowledge_field, self.clock)

    def check_all_read(self) -> None:
        """Check that every file was read.

        Raises:
            SchemaError: A file fits no source.
        """
        for file in self.files:
            if file not in self._read:
                raise self._misfits.get(file) or SchemaError(
                    f"{file} fits no Delta table that the model reads; name files in the layout that `asof ingest` reads"
                )

    def _from_files(self, declaration: TableDeclaration, views: Sequence[View]) -> pa.Table | None:
        found, needed = [], _needed(views)
        for file in self.files:
            try:
                checked, _ = examine(declaration, delta.folder(self.repo, declaration), [file], self.clock)
            except SchemaError as error:
                self._misfits.setdefault(file, error)
                continue
            if needed <= set(checked[0].good.column_names):
                self._read.add(file)
                found += [c.good for c in checked]
        return pa.concat_tables(found) if found else None

    def _from_table(self, declaration: TableDeclaration) -> pa.Table:
        if declaration.format == "delta":
            held = delta.open_table(delta.folder(self.repo, declaration))
            if held is None:
                raise SourceError(f"table {declaration.name!r} is empty; ingest rows, or name files with --data FILE")
            return delta.scan(held, delta.schema(held).names)
        source = Source(declaration.name, declaration.path, declaration.format, declaration.timestamp_field)
        files = open_files(source, self.repo.path)
        folders = pa.schema([files.schema.field(name) for name in files.partitions])
        partitioning = ds.partitioning(folders, flavor="hive") if files.partitions else None
        return ds.dataset(list(files.paths), schema=files.schema, partitioning=partitioning).to_table()


def _needed(views: Sequence[View]) -> set[str]:
    """The columns that ``views`` read, as spelled in the files."""
    names: set[str] = set()
    for view in views:
        values = view.event_columns if view.windowed else [f.name for f in view.features]
        names |= {view.source.column(name) for name in (*values, *(k.column for k in view.join_keys))}
    return names


def _not_online(views: Sequence[View], declared: Declarations) -> dict[str, str]:
    """Sources that only views read which are not stored online, and why they are not fed."""
    online = {v.source.name for v in declared.views if v.online}
    return {
        v.source.name: f"view {v.name!r} is not stored online; declare it with online=True"
        for v in views
        if v.source.name not in online
    }


def _check_columns(contract: Contract, scored: TimedRows, others: Sequence[str]) -> None:
    needed = [f.name for f in (*contract.keys, *contract.request_fields)] + list(others)
    if lacking := sorted(set(needed) - set(scored.rows.column_names)):
        raise UsageError(f"rows of table {scored.table!r} cannot be replayed: it has no columns {lacking}")


def _runs(
    reads: Sequence[tuple[Any, ...]], writes: Sequence[tuple[Any, ...]], most: int, moments: Sequence[int],
    reach: int | None, breaks: frozenset[int] = frozenset(),
) -> list[tuple[int, int]]:  # fmt: skip
    if not moments:
        return []
    runs, first = [], 0
    written: set[Any] = set()
    for position, moment in enumerate(moments):
        mine = reads[position] if reads else ()
        full = position - first >= most or (reach is not None and moment - moments[first] > reach)
        if full or (position in breaks and position > first) or not written.isdisjoint(mine):
            runs.append((first, position))
            first = position
            written.clear()
        written.update(w for w in (writes[position] if writes else ()) if w[1] is not None)
    return [*runs, (first, len(moments))]


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
