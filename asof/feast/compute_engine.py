"""Feast's compute engine: materialization from source files, which DuckDB reads and orders, to the online store.

A run takes the rows that became known in its interval. A row is known from max(event time, knowledge time), so the next run takes
data that arrived late although its event time is long past. For a windowed view a run takes every event that can still be in a
window at the end of the interval, and the newest event of each key.

Writing is idempotent, so a crashed run can be run again. Feast records an interval only once its run has ended.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from feast import Entity
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry

from asof.contract import View
from asof.errors import SettingsError
from asof.feast.compiler import compile_view
from asof.instants import SECOND, format_moment, from_micros, to_micros
from asof.offline.duckdb_engine import EngineSettings, asking, batches, quoted
from asof.offline.pull import micros_sql, newest_sql
from asof.offline.sources import SourceFiles, check_read, check_view, open_files
from asof.online.codec.events import Pruning
from asof.online.writer import Writer
from asof.quantities import counted

BATCH = 20_000
"""Rows per read and write."""
WRITERS = 2
"""Concurrent writes."""

logger = logging.getLogger(__name__)

_CHOSEN = "asof_chosen_rows"


@dataclass(frozen=True, slots=True)
class Interval:
    """The interval of a run: rows that became known from ``start`` to ``end``, microseconds UTC, both included."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class KnownLater:
    """Rows with an event time in an interval that became known after its end: a run over the interval leaves them out.

    Attributes:
        view: Name of the view.
        rows: Their number.
        end: The end of an interval that includes them, microseconds UTC, in whole seconds.
    """

    view: str
    rows: int
    end: int

    def __str__(self) -> str:
        """What happened, as a sentence."""
        return (
            f"view {self.view!r}: {counted(self.rows, 'row')} with an event time in the interval became known after its end "
            f"(the last by {format_moment(self.end)}); a read at its end must not see them, so they were not written"
        )


@dataclass
class DuckDBMaterializationJob(MaterializationJob):
    """A finished run, or the error that ended it."""

    task: MaterializationTask
    failure: BaseException | None = None
    written: int = 0
    name: str = field(default_factory=lambda: str(uuid.uuid4()))

    def status(self) -> MaterializationJobStatus:
        """Succeeded or failed: a run has ended when its job exists."""
        return MaterializationJobStatus.ERROR if self.failure else MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        """The error that ended the run; None where it succeeded."""
        return self.failure

    def should_be_retried(self) -> bool:
        """False: the caller decides whether to run again."""
        return False

    def job_id(self) -> str:
        """The unique name of the run."""
        return self.name

    def url(self) -> str | None:
        """None: a run has no page."""
        return None


class DuckDBComputeEngine(ComputeEngine):
    """Materializes plain and windowed views; retrieval is done by the offline store."""

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """There is nothing to prepare."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """There is nothing to take down."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> DuckDBMaterializationJob:
        job = DuckDBMaterializationJob(task)
        try:
            _check_version(registry, task)
            job.written = self._run(task)
        except Exception as error:  # noqa: BLE001 - the job reports its error to the caller
            job.failure = error
        return job

    def _run(self, task: MaterializationTask) -> int:
        if not hasattr(self.online_store, "writer"):
            raise SettingsError(
                f"online_store {type(self.online_store).__name__} does not go with batch_engine {type(self).__name__}; "
                "use asof.online.RedisOnlineStore"
            )
        writer: Writer = self.online_store.writer(self.repo_config)
        end = datetime.now(UTC) if task.disable_event_timestamp else task.end_time
        start = datetime.fromtimestamp(0, UTC) if task.disable_event_timestamp else task.start_time
        repo = Path(self.repo_config.repo_path or ".").resolve()
        interval = Interval(to_micros(start), to_micros(end))
        view = compile_view(task.feature_view)
        written = materialize(view, writer, repo, interval, task.tqdm_builder)
        if logger.isEnabledFor(logging.WARNING) and (later := known_later(view, repo, interval)):
            first, last = (from_micros(m).strftime("%Y-%m-%dT%H:%M:%S") for m in (interval.start, later.end))
            logger.warning("%s; to write them: feast materialize %s %s -v %s", later, first, last, view.name)
        return written


def _check_version(registry: BaseRegistry, task: MaterializationTask) -> None:
    """Refuse an earlier version of a view, because values are stored under the view's name."""
    if not getattr(registry, "enable_online_versioning", False):
        return
    given = getattr(task.feature_view, "current_version_number", None)
    applied = getattr(
        registry.get_any_feature_view(task.feature_view.name, task.project), "current_version_number", None
    )
    if given != applied:
        raise SettingsError(
            f"view {task.feature_view.name!r}: got version {given}, but asof keeps only the applied version ({applied}) online; "
            "materialize without a version, or declare a view of another name"
        )


def materialize(
    view: View, writer: Writer, repo: Path, interval: Interval, progress: Callable[[int], Any] | None = None
) -> int:
    """Bring the online store up to date with a view's source.

    Args:
        view: The view.
        writer: Where to write.
        repo: Feature repo; relative source paths start there.
        interval: The rows to take.
        progress: Called with the number of rows; returns a bar that gets ``update(n)`` for each batch and ``close()`` at the end.

    Returns:
        Number of rows that changed the store.

    Raises:
        SourceError: The source cannot be read.
        OnlineStoreError: Redis is down or full; running again is safe.
    """
    files = open_files(view.source, repo)
    if not files.rows:
        return 0
    check_view(view, files, [f.name for f in view.features])
    with closing(EngineSettings.load(repo).connect(repo)) as connection, asking(f"source {files.source!r}"):
        table, total = _chosen(view, connection, files, interval)
        writer.materializing(view, interval.end)
        bar = progress(total) if progress else None
        reader = connection.sql(_query(view, files.schema, table)).to_arrow_reader(BATCH)
        check_read(files, reader.schema, _columns(view, files.schema))
        written = _write(
            view,
            writer,
            _portions(view, batches(reader, f"source {files.source!r}"), reader.schema),
            bar.update if bar is not None else None,
        )
        if bar is not None:
            bar.close()
        return written


def known_later(view: View, repo: Path, interval: Interval) -> KnownLater | None:
    """The rows of the interval that a run leaves out because they became known after its end; None where there is none."""
    created = view.source.created_timestamp_column
    files = open_files(view.source, repo)
    if not files.rows or created is None:
        return None
    ts, kt = micros_sql(view.source.timestamp_field), micros_sql(created)
    query = f"SELECT count(*), max({kt}) FROM {files.scan} WHERE {ts} BETWEEN {interval.start} AND {interval.end} AND {kt} > {interval.end}"
    with closing(EngineSettings.load(repo).connect(repo)) as connection, asking(f"source {files.source!r}"):
        ((rows, last),) = connection.execute(query).fetchall()
    return KnownLater(view.name, rows, -(-last // SECOND) * SECOND) if rows else None


@contextmanager
def without_known_later_warning() -> Iterator[None]:
    """Run without the engine's warning about rows that became known later; the caller asks :func:`known_later` itself."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _write(view: View, writer: Writer, portions: Iterator[pa.Table], progress: Callable[[int], Any] | None) -> int:
    """Write the portions, two at a time: one is encoded while Redis stores the other. No two portions share a key."""
    written, under_way = 0, deque[tuple[int, Future[int]]]()

    def finish() -> int:
        rows, future = under_way.popleft()
        changed = future.result()
        if progress:
            progress(rows)
        return changed

    with ThreadPoolExecutor(WRITERS) as pool:
        for table in portions:
            under_way.append((table.num_rows, pool.submit(writer.write, view, table)))
            if len(under_way) > WRITERS:
                written += finish()
        while under_way:
            written += finish()
    return written


def _chosen(view: View, connection: DuckDBPyConnection, files: SourceFiles, interval: Interval) -> tuple[str, int]:
    """SQL to select the rows to write from, and the number of rows.

    If each key of a plain view has one row, no selection is needed, and rows are written while the files are still being read.
    """
    if not view.windowed:
        keys = f" GROUP BY {_keys(view, raw=True)}" if view.join_keys else ""
        each = f"SELECT count(*) AS n FROM {files.scan} WHERE {_wanted(view, interval)}{keys}"
        ((total, distinct),) = connection.execute(f"SELECT coalesce(sum(n), 0), count(*) FROM ({each})").fetchall()
        if total <= distinct:
            return f"{files.scan} WHERE {_wanted(view, interval)}", int(total)
    connection.execute(f"CREATE TEMP TABLE {_CHOSEN} AS {_selection(view, files.scan, files.schema, interval)}")
    ((total,),) = connection.execute(f"SELECT count(*) FROM {_CHOSEN}").fetchall()
    return _CHOSEN, int(total)


def _query(view: View, schema: pa.Schema, table: str) -> str:
    columns = ", ".join(f"{quoted(raw)} AS {quoted(name)}" for raw, name in _columns(view, schema).items())
    by = [*([_keys(view)] if view.join_keys else []), "_asof_ts", "file_index", "file_row_number"]
    order = f" ORDER BY {', '.join(by)}" if view.windowed else ""
    return f"SELECT {columns} FROM {table}{order}"


def _selection(view: View, scan: str, schema: pa.Schema, interval: Interval) -> str:
    """SQL for the rows to write, and their order: the newest row of each key of a plain view, the events of a windowed one."""
    ts = micros_sql(view.source.timestamp_field)
    columns = ", ".join(quoted(raw) for raw in _columns(view, schema))
    newest = newest_sql(view.source, [view.source.column(k.column) for k in view.join_keys])
    reach = view.horizon + Pruning.of(view).slack
    keep = newest if not view.windowed else f"{ts} > {interval.end - reach} OR {newest}"
    order = f"{ts} AS _asof_ts, file_index, file_row_number"
    return f"SELECT {columns}, {order} FROM {scan} WHERE {_wanted(view, interval)} QUALIFY {keep}"


def _wanted(view: View, interval: Interval) -> str:
    """SQL condition: the row has a key and became known in the interval; events need only be known by its end."""
    ts, kt = micros_sql(view.source.timestamp_field), view.source.created_timestamp_column
    arrival = f"greatest({ts}, coalesce({micros_sql(kt)}, {ts}))" if kt else ts
    since = f" AND {arrival} >= {interval.start}" if not view.windowed else ""
    present = "".join(f" AND {quoted(view.source.column(k.column))} IS NOT NULL" for k in view.join_keys)
    return f"{arrival} <= {interval.end}{since}{present}"


def _columns(view: View, schema: pa.Schema) -> dict[str, str]:
    """Source column -> its name in the view. Events without an id are identified by the whole row, so all columns are read."""
    source = view.source
    names = [k.column for k in view.join_keys]
    if view.windowed and source.event_id is None:
        return {raw: source.field_mapping.get(raw, raw) for raw in schema.names}
    names += view.event_columns if view.windowed else [f.name for f in view.features]
    raw_names = [source.column(n) for n in names] + [source.timestamp_field]
    raw_names += [c for c in (source.created_timestamp_column, source.event_id if view.windowed else None) if c]
    return {raw: source.field_mapping.get(raw, raw) for raw in dict.fromkeys(raw_names)}


def _keys(view: View, *, raw: bool = False) -> str:
    return ", ".join(quoted(view.source.column(k.column) if raw else k.column) for k in view.join_keys)


def _portions(view: View, found: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The batches as tables; the events of one key stay in one table, so that one write can number equal rows."""
    if not view.windowed:
        yield from (pa.Table.from_batches([batch]) for batch in found)
        return
    held = schema.empty_table()
    for batch in found:
        whole = pa.concat_tables([held, pa.Table.from_batches([batch])])
        cut = _last_key(view, whole)
        held = whole.slice(cut)
        if cut:
            yield whole.slice(0, cut)
    yield held


def _last_key(view: View, table: pa.Table) -> int:
    """Position of the first row of the last key; rows are sorted by key."""
    differs = np.zeros(table.num_rows, bool)
    for key in view.join_keys if table.num_rows else ():
        column = table.column(key.column)
        differs |= np.asarray(pc.not_equal(column, column[-1]))
    found = np.flatnonzero(differs)
    return int(found[-1]) + 1 if len(found) else 0
