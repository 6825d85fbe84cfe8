"""Feast's ``OfflineStore`` on :mod:`asof.offline`.

In ``feature_store.yaml``::

offline_store:
    type: asof.offline.DuckDBOfflineStore
    memory_limit: 4GB          # optional, as are the next two
    threads: 2
    temp_directory: data/spill
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb  # noqa: F401  imported here, because importing it takes longer than a small retrieval
import pyarrow as pa
import pyarrow.dataset as ds
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel
from pydantic import ConfigDict, StrictInt, StrictStr

from asof.contract import Source
from asof.errors import SettingsError, SourceError
from asof.feast.batch_writes import add_file, append
from asof.feast.compiler import spelled_in_files
from asof.feast.historical_request import EVENT_TIME, compile_request, entity_table, event_time, queried_table
from asof.feast.retrieval_job import PointInTimeRetrievalJob, metadata
from asof.instants import from_micros, to_micros
from asof.offline import pull
from asof.offline.duckdb_engine import EngineSettings
from asof.offline.retrieval import PreparedRetrieval, moments, retrieve
from asof.offline.sources import locate, open_files

if TYPE_CHECKING:
    from feast import FeatureView, FileSource
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig

    from asof.contract import Contract

logger = logging.getLogger(__name__)


class DuckDBOfflineStoreConfig(FeastConfigBaseModel):
    """The ``offline_store`` section; see :class:`asof.offline.duckdb_engine.EngineSettings`. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["asof.offline.DuckDBOfflineStore", "asof.feast.offline_store.DuckDBOfflineStore"] = (
        "asof.offline.DuckDBOfflineStore"
    )
    memory_limit: StrictStr | None = None
    threads: StrictInt | None = None
    temp_directory: StrictStr | None = None

    def settings(self) -> EngineSettings:
        """The section as engine settings."""
        return EngineSettings.of(
            {"memory_limit": self.memory_limit, "threads": self.threads, "temp_directory": self.temp_directory}
        )


class DuckDBOfflineStore(OfflineStore):
    """Point-in-time-correct retrieval from Parquet and Delta.

    The numpy kernel of :mod:`asof.windows` decides every value. Plain Parquet columns are read by polars or pyarrow; DuckDB runs
    entity queries, filters, reads what these readers cannot, spills what is larger than memory, and pulls rows for
    materialization.
    """

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        *,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        filter_by_created_timestamp: bool = False,
    ) -> PointInTimeRetrievalJob:
        """A job for the features as of each entity row's moment; without entity rows, as of each moment between the dates that has a row.

        Sources and entity rows are checked here; the retrieval runs when the job's result is requested.
        """
        repo, settings = _place(config)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        contract, left = compile_request(
            feature_views, on_demand, feature_refs, project, repo, full_feature_names=full_feature_names
        )
        rows, at = _entity_rows(contract, entity_df, repo, settings, (start_date, end_date))
        PreparedRetrieval.of(contract, rows.schema, at, repo)
        times = moments(rows, at)
        first, last = (from_micros(int(times.min())), from_micros(int(times.max()))) if len(times) else (None, None)
        return PointInTimeRetrievalJob(
            lambda: retrieve(
                contract, rows, at=at, repo=repo, knowledge=filter_by_created_timestamp, settings=settings
            ),
            repo,
            metadata=metadata(list(feature_refs), [n for n in rows.column_names if n != at], first, last),
            full_feature_names=full_feature_names,
            on_demand=left,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> PointInTimeRetrievalJob:
        """A job for the latest row of each key between the dates."""
        repo, settings = _place(config)
        source = _source(data_source, timestamp_field, created_timestamp_column)
        columns = _columns(join_key_columns, feature_name_columns, source)
        span = pull.Span(to_micros(start_date), to_micros(end_date))
        pull.checked_files(source, repo, columns)
        return PointInTimeRetrievalJob(
            lambda: _keyed(pull.latest(source, repo, join_key_columns, columns, span, settings), join_key_columns), repo
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PointInTimeRetrievalJob:
        """A job for all rows between the dates, in source order."""
        repo, settings = _place(config)
        source = _source(data_source, timestamp_field, created_timestamp_column)
        columns = _columns(join_key_columns, feature_name_columns, source)
        span = pull.Span(to_micros(start_date) if start_date else None, to_micros(end_date) if end_date else None)
        pull.checked_files(source, repo, columns)
        return PointInTimeRetrievalJob(
            lambda: _keyed(pull.everything(source, repo, columns, span, settings), join_key_columns), repo
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append rows to the view's batch source."""
        events = bool(getattr(feature_view, "aggregations", None))
        source = _file_source(feature_view.batch_source)
        table = table.rename_columns([spelled_in_files(source, name) for name in table.column_names])
        append(table, source, _place(config)[0], events=events)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add logged features, a table or a folder of Parquet files, to the folder of the logging destination."""
        destination: Any = logging_config.destination
        if not hasattr(destination, "path"):
            raise SettingsError(
                f"logging destination is a {type(destination).__name__}, expected FileLoggingDestination"
            )
        table = data if isinstance(data, pa.Table) else ds.dataset(data, format="parquet").to_table()
        add_file(table, locate(destination.path, _place(config)[0]), destination.partition_by or ())

    @staticmethod
    def ensure_monitoring_tables(config: RepoConfig) -> None:
        """Refuse ``feast monitor``, which asks for its tables first.

        Raises:
            SettingsError: Always; profiles and drift are asof's own.
        """
        raise SettingsError(
            "this offline store keeps no tables for `feast monitor`; use `asof profile`, `asof drift` and `asof skew`"
        )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Check that a source's files, where there are any yet, can be read and have its timestamp columns.

        Raises:
            SourceError: The files cannot be read or lack a column.
        """
        source = _source(data_source, data_source.timestamp_field, data_source.created_timestamp_column)
        try:
            open_files(source, _place(config)[0])
        except SourceError as error:
            if _exists(source, _place(config)[0]):
                raise
            logger.warning("%s", error)
            return
        times = [source.timestamp_field, source.created_timestamp_column]
        pull.checked_files(source, _place(config)[0], [t for t in times if t])

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Names and Arrow types of a source's columns; relative paths start at the repo."""
        files = open_files(_source(data_source, data_source.timestamp_field, None), _place(config)[0])
        types = {f.name: "string" if pa.types.is_null(f.type) else str(f.type) for f in files.schema}
        return list(types.items())


def _place(config: RepoConfig) -> tuple[Path, EngineSettings]:
    section = config.offline_store
    settings = section.settings() if isinstance(section, DuckDBOfflineStoreConfig) else EngineSettings()
    return Path(config.repo_path or "."), settings


def _file_source(source: Any) -> FileSource:
    from feast import FileSource

    if not isinstance(source, FileSource):
        raise SettingsError(
            f"source {getattr(source, 'name', None)!r} is a {type(source).__name__}, expected a FileSource"
        )
    return source


def _source(data_source: DataSource, timestamp_field: str, created_timestamp_column: str | None) -> Source:
    from feast.data_format import DeltaFormat

    batch = _file_source(getattr(data_source, "batch_source", None) or data_source)
    return Source(
        name=batch.name,
        path=batch.path,
        format="delta" if isinstance(batch.file_format, DeltaFormat) else "parquet",
        timestamp_field=spelled_in_files(batch, timestamp_field or batch.timestamp_field),
        created_timestamp_column=spelled_in_files(batch, created_timestamp_column) or None,
    )


def _exists(source: Source, repo: Path) -> bool:
    return locate(source.path, repo).exists()


def _keyed(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Rows of a view without entities with Feast's dummy key, which its own engine writes them under."""
    from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

    return (
        rows if keys else rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * rows.num_rows, pa.string()))
    )


def _columns(keys: list[str], features: list[str], source: Source) -> list[str]:
    times = [source.timestamp_field, source.created_timestamp_column]
    return list(dict.fromkeys([*keys, *features, *(t for t in times if t)]))


def _entity_rows(
    contract: Contract,
    entity_df: Any,
    repo: Path,
    settings: EngineSettings,
    dates: tuple[datetime | None, datetime | None],
) -> tuple[pa.Table, str]:
    if entity_df is None:
        end = to_micros(dates[1]) if dates[1] else to_micros(datetime.now().astimezone())
        reach = max((v.ttl for v in contract.views), default=0) or pull.DEFAULT_SPAN
        start = to_micros(dates[0]) if dates[0] else end - reach
        return pull.moments(contract, repo, pull.Span(start, end), EVENT_TIME, settings), EVENT_TIME
    if isinstance(entity_df, str):
        with closing(settings.connect(repo)) as engine:
            rows = queried_table(entity_df, engine)
    else:
        rows = entity_table(entity_df)
    return rows, event_time(rows.schema)
