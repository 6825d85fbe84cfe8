"""Queries over a span of event times, without entity rows: the latest row of each key, all rows, and entity rows made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from asof.errors import SourceError, UsageError
from asof.instants import DAY
from asof.offline.arrow_columns import is_moment, sql_moment
from asof.offline.duckdb_engine import EngineSettings, asking, quoted
from asof.offline.sources import SourceFiles, check_read, closest, open_files

if TYPE_CHECKING:
    from asof.contract import Contract, Source

DEFAULT_SPAN = 30 * DAY
"""How far before its end a span without a start reaches where no view has a ttl."""


@dataclass(frozen=True)
class Span:
    """The moments from ``start`` to ``end``, both inclusive, in microseconds UTC; None is unbounded."""

    start: int | None
    end: int | None

    def where(self, column: str, stored: pa.DataType) -> str:
        """The span as an SQL condition on a column of type ``stored``."""
        given = ((">=", self.start), ("<=", self.end))
        constants = [(op, sql_moment(moment, stored)) for op, moment in given if moment is not None]
        bounds = [f"{quoted(column)} {op} {constant}" for op, constant in constants if constant]
        return " AND ".join([f"{quoted(column)} IS NOT NULL", *bounds])


def checked_files(source: Source, repo: Path, columns: Sequence[str]) -> SourceFiles:
    """The files of ``source``, known to have ``columns`` and moments in its timestamp column.

    Raises:
        SourceError: They are missing, or lack a column.
    """
    files = open_files(source, repo)
    for name in columns:
        if name not in files.schema.names:
            close = closest(name, files.schema.names)
            hint = f"did you mean {close!r}? " if close else ""
            raise SourceError(
                f"source {files.source!r} has no column {name!r}; {hint}it has {', '.join(files.schema.names)}"
            )
    if source.timestamp_field and not is_moment(files.schema.field(source.timestamp_field).type):
        given = files.schema.field(source.timestamp_field).type
        raise SourceError(
            f"column {source.timestamp_field!r} of source {files.source!r} is {given}, expected a timestamp"
        )
    return files


def latest(
    source: Source, repo: Path, keys: Sequence[str], columns: Sequence[str], span: Span, settings: EngineSettings
) -> pa.Table:
    """Per key the row of the span with the greatest ts; ties go to the greatest kt, then to the last in source order.

    Args:
        source: The source; all names here are as spelled in its files.
        repo: Folder that its path starts at.
        keys: Key columns; without any, the one latest row. Rows with a null key are no one's.
        columns: Columns to return.
        span: Event times to look at.
        settings: Engine settings.
    """
    files = checked_files(source, repo, [*keys, *columns])
    where = [span.where(source.timestamp_field, files.schema.field(source.timestamp_field).type)]
    where += [f"{quoted(k)} IS NOT NULL" for k in keys]
    return _query(
        f"SELECT {', '.join(quoted(c) for c in columns)} FROM {files.scan} WHERE {' AND '.join(where)} "
        f"QUALIFY {newest_sql(source, keys)}",
        files, repo, settings,
    )  # fmt: skip


def newest_sql(source: Source, keys: Sequence[str]) -> str:
    """SQL condition of the newest row of each key: greatest event time, then knowledge time, then last in source order.

    This is the rule of :func:`asof.windows.newest` for rows that are all known. It needs ``file_index`` and ``file_row_number``,
    which :attr:`SourceFiles.scan` provides.

    Args:
        source: The source; its time columns are compared in microseconds.
        keys: Key columns, in the source's spelling; without any, all rows have one key.
    """
    owners = f"PARTITION BY {', '.join(quoted(k) for k in keys)} " if keys else ""
    ts, kt = micros_sql(source.timestamp_field), source.created_timestamp_column
    times = f"{ts} DESC NULLS LAST, " + (f"coalesce({micros_sql(kt)}, {ts}) DESC NULLS LAST, " if kt else "")
    return f"row_number() OVER ({owners}ORDER BY {times}file_index DESC, file_row_number DESC) = 1"


def micros_sql(column: str) -> str:
    """The moments of a column in microseconds UTC, as SQL."""
    return f"epoch_us(CAST({quoted(column)} AS TIMESTAMPTZ))"


def everything(source: Source, repo: Path, columns: Sequence[str], span: Span, settings: EngineSettings) -> pa.Table:
    """The rows of the span, in source order; names as in :func:`latest`."""
    files = checked_files(source, repo, columns)
    where = span.where(source.timestamp_field, files.schema.field(source.timestamp_field).type)
    return _query(
        f"SELECT {', '.join(quoted(c) for c in columns)} FROM {files.scan} WHERE {where}", files, repo, settings
    )


def moments(contract: Contract, repo: Path, span: Span, at: str, settings: EngineSettings) -> pa.Table:
    """Entity rows made from the sources: every key of every view at every event time of the span at which it has a row.

    A row has the keys of its view; keys that only other views have are null. Ordered by moment, then by keys.

    Raises:
        UsageError: The contract needs request fields, which only entity rows can bring.
    """
    if contract.request_fields:
        names = ", ".join(f.name for f in contract.request_fields)
        raise UsageError(f"features computed from the request ({names}) need entity rows; give some instead of a span")
    engine = settings.connect(repo)
    named = ", ".join(sorted({repr(v.source.name) for v in contract.views}))
    try:
        selects = [_moments_of(contract, i, repo, span, at) for i in range(len(contract.views))]
        order = ", ".join([quoted(at), *(f"{quoted(k.name)} NULLS LAST" for k in contract.keys)])
        with asking(f"the keys and times of {named}"):
            return engine.sql(f"{' UNION BY NAME '.join(selects)} ORDER BY {order}").to_arrow_table()
    finally:
        engine.close()


def _moments_of(contract: Contract, number: int, repo: Path, span: Span, at: str) -> str:
    view = contract.views[number]
    time = view.source.timestamp_field
    keys = [(view.source.column(k.column), k.request) for k in view.join_keys]
    files = checked_files(view.source, repo, [time, *(stored for stored, _ in keys)])
    chosen = ", ".join(
        [*(f"{quoted(s)} AS {quoted(r)}" for s, r in keys), f"{quoted(time)}::TIMESTAMPTZ AS {quoted(at)}"]
    )
    where = [span.where(time, files.schema.field(time).type), *(f"{quoted(s)} IS NOT NULL" for s, _ in keys)]
    return f"SELECT {chosen} FROM {files.scan} WHERE {' AND '.join(where)}"


def _query(query: str, files: SourceFiles, repo: Path, settings: EngineSettings) -> pa.Table:
    engine = settings.connect(repo)
    try:
        with asking(f"source {files.source!r}"):
            table = engine.sql(query).to_arrow_table() if files.paths else files.schema.empty_table()
        check_read(files, table.schema, {name: name for name in table.column_names})
        return table
    finally:
        engine.close()
