"""Compiles a historical request of Feast: feature references become a contract, entity rows an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from asof.contract import Contract, Feature, OnDemandView, View
from asof.errors import NotFoundError, SchemaError, SettingsError, UsageError
from asof.feast.compiler import compile_on_demand, compile_view
from asof.offline.arrow_columns import is_moment

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureView, OnDemandFeatureView

EVENT_TIME = "event_timestamp"
"""Feast's name for the moment of an entity row; any other name will do if only one column holds moments."""


def compile_request(
    views: Sequence[FeatureView],
    on_demand: Sequence[OnDemandFeatureView],
    references: Sequence[str],
    project: str,
    repo: Path,
    *,
    full_feature_names: bool,
) -> tuple[Contract, list[OnDemandFeatureView]]:
    """The contract of a list of feature references, and the on-demand views that Feast has to compute itself.

    Feast computes the on-demand views whose function cannot be imported by name (a lambda, a notebook cell).

    Raises:
        NotFoundError: A reference names no feature of the views.
        SettingsError: A view declares what asof does not support.
    """
    stored = [compile_view(v) for v in views]
    computed, left = _compile_on_demand(on_demand, stored, repo)
    columns = {v.alias: {f.name: f.dtype for f in v.features} for v in stored}
    columns |= {v.alias: {f.name: f.dtype for f in v.features} for v in computed}
    names = {v.projection.name_to_use(): v.projection.name_alias or v.name for v in (*views, *on_demand)}
    feasts = {v.projection.name_to_use() for v in left}
    features = []
    for alias, feature in dict.fromkeys(_parsed(r) for r in references):
        if alias in feasts:
            continue
        if alias not in columns:
            raise NotFoundError("feature view", alias, columns)
        if feature not in columns[alias]:
            raise NotFoundError(f"feature of view {alias!r}", feature, columns[alias])
        name = f"{names[alias]}__{feature}" if full_feature_names else feature
        features.append(
            Feature(name, alias, feature, columns[alias][feature], on_demand=alias in {c.alias for c in computed})
        )
    return Contract(project, "features", tuple(features), tuple(stored), tuple(computed)), left


def _parsed(reference: str) -> tuple[str, str]:
    view, _, feature = reference.partition(":")
    return view, feature


def _compile_on_demand(
    views: Sequence[OnDemandFeatureView], stored: Sequence[View], repo: Path
) -> tuple[list[OnDemandView], list[OnDemandFeatureView]]:
    aliases = {v.name: v.alias for v in stored}
    compiled, left = [], []
    for view in views:
        try:
            compiled.append(compile_on_demand(view, repo, aliases))
        except SettingsError:
            left.append(view)
    return compiled, left


def entity_table(rows: Any) -> pa.Table:
    """Entity rows as an Arrow table, from pandas, Arrow or polars (also lazy frames).

    Raises:
        SchemaError: The rows are of another type, or a column mixes types.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch | pa.RecordBatchReader):
        return pa.table(rows) if isinstance(rows, pa.RecordBatch) else rows.read_all()
    if hasattr(rows, "collect") and hasattr(rows, "collect_schema"):
        rows = rows.collect()
    if hasattr(rows, "to_arrow"):
        return rows.to_arrow()
    try:
        return pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(
            f"entity rows have a column of mixed types ({str(error).partition(chr(10))[0]}); give it one"
        ) from None
    except (TypeError, AttributeError):
        kinds = "a pandas or polars DataFrame, an Arrow table or an SQL query"
        raise SchemaError(f"entity rows are a {type(rows).__name__}, expected {kinds}") from None


def queried_table(query: str, engine: DuckDBPyConnection) -> pa.Table:
    """The result of an SQL query as entity rows.

    Raises:
        UsageError: The query fails.
    """
    import duckdb

    try:
        return engine.sql(query).to_arrow_table()
    except (duckdb.Error, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"the entity query cannot be run ({reason}); expected one SELECT in DuckDB's SQL") from None


def event_time(schema: pa.Schema) -> str:
    """The name of the column of moments: ``event_timestamp``, or the only column that holds moments.

    Raises:
        SchemaError: There is no such column, or more than one.
    """
    if EVENT_TIME in schema.names:
        return EVENT_TIME
    found = [f.name for f in schema if is_moment(f.type)]
    if len(found) != 1:
        raise SchemaError(
            f"entity rows need one column of moments, or one named {EVENT_TIME!r}; they have {found or 'none'}"
        )
    return str(found[0])
