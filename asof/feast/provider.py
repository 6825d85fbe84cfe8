"""Feast's provider: receives the rows that Feast's API and command line push."""

from __future__ import annotations

import asyncio
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.infra.passthrough_provider import PassthroughProvider

from asof.errors import SchemaError
from asof.feast.compiler import compile_view
from asof.feast.raw_events import declared_view


class AsofProvider(PassthroughProvider):
    """Feast's pass-through provider, with pushed rows and raw events of windowed views written in bulk."""

    def ingest_df(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        """Write pushed rows online: rows of a plain view, or raw events of a windowed one.

        Args:
            feature_view: The view, or an on-demand view that is stored.
            df: Rows with the columns of the view's source, or as the view names them.
            field_mapping: Source column -> column in the view; by default the batch source's.

        Raises:
            SchemaError: The rows do not fit the view.
            OnlineStoreError: Redis is down or full.
        """
        if not hasattr(self.online_store, "writer") or not isinstance(feature_view, FeatureView):
            super().ingest_df(feature_view, df, field_mapping)
            return
        view = compile_view(declared_view(feature_view))
        table = _table(view.name, df)
        mapping = view.source.field_mapping if field_mapping is None else field_mapping
        self.online_store.writer(self.repo_config).write(
            view, table.rename_columns([mapping.get(c, c) for c in table.column_names])
        )

    async def ingest_df_async(
        self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> None:
        """Like :meth:`ingest_df`, in a thread."""
        await asyncio.to_thread(self.ingest_df, feature_view, df, field_mapping)


def _table(view: str, frame: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"view {view!r}: the rows have a column of mixed types ({str(error)[:120]})") from error
