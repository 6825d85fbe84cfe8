"""The offline store behind Feast's own API."""

from __future__ import annotations

import logging
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from pydantic import ValidationError

from asof.errors import SchemaError, SourceError, UsageError
from asof.offline import DuckDBOfflineStore, DuckDBOfflineStoreConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # Feast's own

START = datetime(2024, 1, 1, tzinfo=UTC)
YAML = """project: shop
registry: data/registry.db
provider: local
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: asof.offline.DuckDBOfflineStore, threads: 1, memory_limit: 1GB}
entity_key_serialization_version: 3
"""


def days(*numbers: float) -> list[datetime]:
    """Moments so many days after the start."""
    return [START + timedelta(days=n) for n in numbers]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with its data: orders (Delta, late by a day) and profiles (Parquet)."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "feature_store.yaml").write_text(YAML)
    orders = {"user": [1, 1, 2], "ts": days(0, 2, 1), "created": days(1, 3, 2), "amount": [5.0, 7.0, 9.0]}
    write_deltalake(str(folder / "data" / "orders"), pd.DataFrame(orders))
    profile = {"user": [1, 2, 1], "ts": days(0, 0, 2), "city": ["Bern", "Oslo", "Rome"], "x_y": [1, 2, 3]}
    pd.DataFrame(profile).to_parquet(folder / "data" / "profiles.parquet")
    return folder


def _product(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": [None if a is None else a * p for a, p in zip(inputs["amount"], inputs["price"], strict=True)]}


def _ratio() -> Any:
    """A function that has no name to import it by, so that Feast computes it."""

    def ratio(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"ratio": [None if a is None else a / p for a, p in zip(inputs["amount"], inputs["price"], strict=True)]}

    return ratio


@pytest.fixture(scope="module")
def store(repo: Path) -> FeatureStore:
    """The repo's definitions, applied through the SDK."""
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    orders = FileSource(
        name="orders",
        path="data/orders",
        file_format=DeltaFormat(),
        timestamp_field="ts",
        created_timestamp_column="created",
    )
    profiles = FileSource(name="profiles", path="data/profiles.parquet", timestamp_field="ts")
    last = FeatureView(
        name="last", entities=[user], schema=[Field(name="amount", dtype=Float64)], source=orders, ttl=timedelta(days=5)
    )
    who = FeatureView(name="who", entities=[user], source=profiles, ttl=timedelta(0))
    spent = StreamFeatureView(
        name="spent",
        entities=[user],
        timestamp_field="ts",
        schema=[Field(name="total", dtype=Float64), Field(name="orders", dtype=Int64)],
        source=PushSource(name="orders_push", batch_source=orders),
        aggregations=[
            Aggregation(column="amount", function="sum", time_window=timedelta(days=3), name="total"),
            Aggregation(column="amount", function="count", time_window=timedelta(days=3), name="orders"),
        ],
    )
    price = RequestSource(name="price", schema=[Field(name="price", dtype=Float64)])
    declared = on_demand_feature_view(sources=[last, price], schema=[Field(name="ratio", dtype=Float64)], mode="python")
    ratio, product = declared(_ratio()), declared(_product)
    logs = LoggingConfig(destination=FileLoggingDestination(path="data/logs"))
    opened = FeatureStore(repo_path=str(repo))
    service = FeatureService(name="all", features=[last, who, spent], logging_config=logs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast calls on-demand and stream views experimental
        opened.apply([user, orders, profiles, last, who, spent, ratio, product, service])
    return opened


ROWS = {"user": [2, 1, 1, 3], "event_timestamp": days(2, 2, 4, 4)}
FEATURES = ["last:amount", "who:city", "who:x_y", "spent:total", "spent:orders"]
UNAWARE = {"amount": [9.0, 7.0, 7.0, None], "total": [9.0, 12.0, 7.0, 0.0], "orders": [1, 2, 1, 0]}
AWARE = {"amount": [9.0, 5.0, 7.0, None], "total": [9.0, 5.0, 7.0, 0.0], "orders": [1, 1, 1, 0]}
CITIES = {"city": ["Oslo", "Rome", "Rome", None], "x_y": [2, 3, 3, None]}

ENTITY_ROWS = {
    "pandas": pd.DataFrame(ROWS),
    "arrow": pa.table(ROWS),
    "polars": pl.DataFrame(ROWS),
    "sql": "SELECT unnest([2, 1, 1, 3]) AS user, unnest(['2024-01-03', '2024-01-03', '2024-01-05', '2024-01-05'])::TIMESTAMPTZ AS event_timestamp",
}


@pytest.mark.parametrize("kind", ENTITY_ROWS)
def test_entity_rows_of_every_kind(store: FeatureStore, kind: str) -> None:
    """pandas, Arrow, polars and SQL rows get the same features; knowledge time hides rows only when it is asked to."""
    for knowledge, expected in ((False, UNAWARE), (True, AWARE)):
        job = store.get_historical_features(ENTITY_ROWS[kind], FEATURES, filter_by_created_timestamp=knowledge)
        got = job.to_arrow()
        assert got.select(list(expected)).to_pydict() == expected
        assert got.select(["city", "x_y"]).to_pydict() == CITIES
        assert got.column_names == ["user", "event_timestamp", "amount", "city", "x_y", "total", "orders"]


def test_results_of_every_kind(store: FeatureStore) -> None:
    """A job gives pandas, Arrow, polars and batches, all alike."""
    job: Any = store.get_historical_features(ENTITY_ROWS["pandas"], store.get_feature_service("all"))
    table = job.to_arrow()
    assert table.num_rows == 4
    assert pa.Table.from_batches(job.to_arrow_batches(rows=3)).equals(table)
    assert [b.num_rows for b in job.to_arrow_batches(rows=3)] == [3, 1]
    assert job.to_polars()["total"].to_list() == UNAWARE["total"]
    assert job.to_df()["total"].tolist() == UNAWARE["total"]
    assert job.to_feast_df().data["orders"].to_pylist() == UNAWARE["orders"]


def test_full_names_aliases_and_renamed_keys(store: FeatureStore) -> None:
    """Two projections of one view, one of them on another key column, are told apart by their full names."""
    last = store.get_feature_view("last")
    service = FeatureService(
        name="pair", features=[last.with_name("own"), last.with_name("partner").with_join_key_map({"user": "other"})]
    )
    store.apply(service)
    rows = pd.DataFrame({"user": [1, 2], "other": [2, 7], "event_timestamp": days(2, 2)})
    got = store.get_historical_features(rows, service, full_feature_names=True).to_df()
    assert list(got.columns) == ["user", "other", "event_timestamp", "own__amount", "partner__amount"]
    assert got["partner__amount"].tolist()[0] == 9.0
    assert got["partner__amount"].isna().tolist() == [False, True]


def test_on_demand_features(store: FeatureStore) -> None:
    """On-demand views are computed from stored features and the request, also under full names."""
    rows = pd.DataFrame({"user": [1, 3], "event_timestamp": days(4, 4), "price": [2.0, 2.0]})
    got = store.get_historical_features(rows, ["ratio:ratio", "_product:ratio"], full_feature_names=True).to_df()
    assert got["ratio__ratio"].tolist()[0] == 3.5
    assert got["_product__ratio"].tolist()[0] == 14.0
    assert got[["ratio__ratio", "_product__ratio"]].isna().all(axis=1).tolist() == [False, True]


def test_without_entity_rows(store: FeatureStore) -> None:
    """Given a span instead of rows, every key is answered at every moment of the span at which a view has a row for it."""
    job = store.get_historical_features(features=["last:amount", "who:city"], start_date=START, end_date=days(1)[0])
    got = job.to_df().sort_values(["event_timestamp", "user"])
    assert got["user"].tolist() == [1, 2, 2]
    assert got["city"].tolist() == ["Bern", "Oslo", "Oslo"]
    assert got["amount"].fillna(-1).tolist() == [5.0, -1, 9.0]


def test_pull_latest_and_pull_all(store: FeatureStore, repo: Path) -> None:
    """Materialization reads the latest row of each key in a span, ties by creation; exports read all rows of a span."""
    source = store.get_feature_view("last").batch_source
    given: dict[str, Any] = {"join_key_columns": ["user"], "feature_name_columns": ["amount"], "timestamp_field": "ts"}
    latest = DuckDBOfflineStore.pull_latest_from_table_or_query(
        store.config, source, **given, created_timestamp_column="created", start_date=START, end_date=days(1.5)[0]
    ).to_arrow()
    assert sorted(zip(latest["user"].to_pylist(), latest["amount"].to_pylist(), strict=True)) == [(1, 5.0), (2, 9.0)]
    every = DuckDBOfflineStore.pull_all_from_table_or_query(store.config, source, **given).to_arrow()
    assert every.num_rows == 3
    some = DuckDBOfflineStore.pull_all_from_table_or_query(
        store.config, source, **given, start_date=days(2)[0]
    ).to_arrow()
    assert some["amount"].to_pylist() == [7.0]
    store.materialize(START - timedelta(days=1), days(9)[0], ["last", "who"])
    online = store.get_online_features(["last:amount", "who:city"], [{"user": 1}, {"user": 2}]).to_dict()
    assert (online["amount"], online["city"]) == ([7.0, 9.0], ["Rome", "Oslo"])


@pytest.mark.parametrize("kind", ["delta", "file", "folder"])
def test_offline_writes_append(store: FeatureStore, repo: Path, kind: str) -> None:
    """Rows written through Feast are added to Delta tables, Parquet files and folders, in any column order; others are refused."""
    path = {"delta": "data/w_delta", "file": "data/w.parquet", "folder": "data/w_folder"}[kind]
    first = pa.table({"user": [1], "ts": pa.array(days(0), pa.timestamp("us", "UTC")), "v": [1.0]})
    if kind == "delta":
        write_deltalake(str(repo / path), first)
    else:
        target = repo / path / "a.parquet" if kind == "folder" else repo / path
        target.parent.mkdir(exist_ok=True)
        pq.write_table(first, target)
    formats = {"file_format": DeltaFormat()} if kind == "delta" else {}
    source = FileSource(name=kind, path=path, timestamp_field="ts", **formats)
    view = FeatureView(
        name=f"w_{kind}", entities=[store.get_entity("user")], schema=[Field(name="v", dtype=Float64)], source=source
    )
    store.apply(view)
    store.write_to_offline_store(
        view.name,
        pd.DataFrame({"v": [2.0], "ts": days(1), "user": [2]}),
        allow_registry_cache=False,
        reorder_columns=True,
    )
    rows = pd.DataFrame({"user": [1, 2], "event_timestamp": days(2, 2)})
    assert store.get_historical_features(rows, [f"{view.name}:v"]).to_df()["v"].tolist() == [1.0, 2.0]
    with pytest.raises(SchemaError, match=r"got the columns user, ts"):
        DuckDBOfflineStore.offline_write_batch(store.config, view, first.drop_columns("v"), None)
    with pytest.raises(SchemaError, match="types of source"):
        DuckDBOfflineStore.offline_write_batch(store.config, view, first.set_column(2, "v", pa.array(["a"])), None)


def test_logged_features_can_be_read_back(store: FeatureStore) -> None:
    """Logs of a feature service are kept in the folder of its destination and read by span."""
    service = store.get_feature_service("all")
    names = ["user", "last__amount", "who__city", "who__x_y", "spent__total", "spent__orders"]
    logs: dict[str, Any] = {"user": [1], "last__amount": [1.0], "who__city": ["Bern"], "who__x_y": [1]}
    logs |= {"spent__total": [1.0], "spent__orders": [1], "__log_timestamp": days(1), "__request_id": ["r"]}
    for name in names[1:]:
        logs |= {f"{name}__timestamp": days(1), f"{name}__status": [1]}
    logs["__log_date"] = [days(1)[0].date()]
    store.write_logged_features(pa.table(logs), service)
    provider = store._get_provider()
    got = provider.retrieve_feature_service_logs(service, START, days(3)[0], store.config, store.registry).to_arrow()
    assert got["last__amount"].to_pylist() == [1.0]


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_saved_datasets(store: FeatureStore, repo: Path, kind: str) -> None:
    """A result can be saved, is not overwritten unless that is allowed, and is read back as it was."""
    path = f"data/saved_{kind}" + (".parquet" if kind == "parquet" else "")
    formats = {"file_format": DeltaFormat()} if kind == "delta" else {}
    job = store.get_historical_features(ENTITY_ROWS["pandas"], FEATURES)
    saved = store.create_saved_dataset(job, f"saved_{kind}", SavedDatasetFileStorage(path=path, **formats))
    again = store.get_saved_dataset(saved.name)
    assert sorted(again.to_arrow()["total"].to_pylist()) == sorted(UNAWARE["total"])
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetFileStorage(path=path, **formats))
    job.persist(SavedDatasetFileStorage(path=path, **formats), allow_overwrite=True)
    if kind == "delta":
        assert DeltaTable(str(repo / path)).version() == 1


def test_sources_are_checked_before_any_work(store: FeatureStore, repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A source without files is a warning when it is declared and an error when it is asked; a broken one is always an error."""
    engine = DuckDBOfflineStore()
    missing = FileSource(name="missing", path="data/none.parquet", timestamp_field="ts")
    with caplog.at_level(logging.WARNING):
        engine.validate_data_source(store.config, missing)
    assert "does not exist" in caplog.text
    with pytest.raises(SourceError, match="no column 'when'"):
        engine.validate_data_source(
            store.config, FileSource(name="p", path="data/profiles.parquet", timestamp_field="when")
        )
    columns = dict(
        engine.get_table_column_names_and_types_from_data_source(
            store.config, store.get_feature_view("last").batch_source
        )
    )
    assert columns["amount"] == "double"
    view = FeatureView(
        name="gone", entities=[store.get_entity("user")], schema=[Field(name="v", dtype=String)], source=missing
    )
    store.apply(view)
    with pytest.raises(SourceError, match="does not exist"):
        store.get_historical_features(ENTITY_ROWS["pandas"], ["gone:v"])


def test_entity_rows_that_mean_nothing(store: FeatureStore) -> None:
    """Rows without a column of moments, with two of them, of an unknown kind, or from a broken query are refused."""
    two = pa.table({"user": [1], "a": pa.array(days(1)), "b": pa.array(days(1))})
    for rows, message in (
        (pa.table({"user": [1]}), "one column of moments"),
        (two, "one column of moments"),
        (5, "are a int"),
    ):
        with pytest.raises(SchemaError, match=message):
            store.get_historical_features(rows, FEATURES)
    with pytest.raises(UsageError, match="cannot be run"):
        store.get_historical_features("SELECT FROM nothing", FEATURES)


def test_unknown_settings_are_refused() -> None:
    """A mistyped key in the offline_store section stops Feast from starting."""
    with pytest.raises(ValidationError, match="memory_limits"):
        DuckDBOfflineStoreConfig(memory_limits="4GB")
