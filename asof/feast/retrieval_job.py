"""The retrieval job that the offline store returns to Feast; it runs each time a result is requested from it.

The job runs :func:`asof.offline.retrieve` or a query of :mod:`asof.offline.pull`. In a point-in-time retrieval the numpy kernel of
:mod:`asof.windows` decides the values. polars and pyarrow read plain columns; DuckDB reads where rows are filtered one by one, and
files that plain readers cannot read. The queries of ``pull`` run in DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage

from asof.errors import SettingsError
from asof.feast.batch_writes import persist

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from feast import OnDemandFeatureView

BATCH_ROWS = 65_536


class PointInTimeRetrievalJob(RetrievalJob):
    """A retrieval whose arguments were checked, and that has not run yet.

    Args:
        run: Computes the result; called once for each result that is requested.
        repo: Folder that relative paths start at.
        metadata: What was asked for; None where Feast needs no such thing.
        full_feature_names: Whether features carry their view's name.
        on_demand: On-demand views that Feast itself computes.
    """

    def __init__(
        self,
        run: Callable[[], pa.Table],
        repo: Path,
        *,
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand: list[OnDemandFeatureView] | None = None,
    ) -> None:
        self._run, self._repo, self._metadata = run, repo, metadata
        self._full_feature_names, self._on_demand = full_feature_names, on_demand or []

    @property
    def full_feature_names(self) -> bool:
        """Whether features carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """On-demand views that Feast itself computes; asof has computed the others."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def to_polars(self, timeout: int | None = None) -> pl.DataFrame:
        """The result as a polars frame."""
        import polars as pl

        return pl.DataFrame(self.to_arrow(timeout=timeout))

    def to_arrow_batches(self, rows: int = BATCH_ROWS, timeout: int | None = None) -> Iterator[pa.RecordBatch]:
        """The result in batches of at most ``rows`` rows."""
        yield from self.to_arrow(timeout=timeout).to_batches(max_chunksize=rows)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result to a saved dataset's files.

        Raises:
            SavedDatasetLocationAlreadyExists: There is something already, and it may not be overwritten.
            SettingsError: The storage is no file storage.
        """
        if not hasattr(storage, "file_options"):
            raise SettingsError(
                f"got {type(storage).__name__}, expected SavedDatasetFileStorage: this store keeps its data in files"
            )
        destination: Any = storage.to_data_source()
        persist(self.to_arrow(timeout=timeout), destination, self._repo, allow_overwrite=allow_overwrite)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()


def metadata(references: list[str], keys: list[str], first: Any, last: Any) -> RetrievalMetadata:
    """Feast's description of a retrieval; moments as aware ``datetime``."""
    return RetrievalMetadata(features=references, keys=keys, min_event_timestamp=first, max_event_timestamp=last)
