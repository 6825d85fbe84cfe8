"""The ground of Feast's universal tests: the same promises, on Parquet with asof's provider and on Delta with Feast's own."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView, Field, FileSource
from feast import types as ft
from feast.data_source import PushMode
from feast.errors import FeatureNameCollisionError, RequestDataNotFoundInEntityDfException
from feast.feature_server import get_app
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from asof.errors import RequestError, SettingsError
from asof.online.redis.server import EmbeddedRedis
from tests.feast.universe import COURIERS, CUSTOMERS, NOW, PLACES, Universe, expected, make

pytestmark = pytest.mark.filterwarnings("ignore")
DAY = timedelta(days=2)
STORED = [
    "couriers:rate", "couriers:trips", "customers:balance", "pairs:won", "world:rides", "mapped:level",
]  # fmt: skip
KEYS = {
    "rate": ("couriers", ["courier_id"]), "trips": ("couriers", ["courier_id"]), "balance": ("customers", ["customer_id"]),
    "won": ("pairs", ["courier_id", "customer_id"]), "rides": ("world", []), "level": ("mapped", []),
}  # fmt: skip


@pytest.fixture(scope="module", params=["parquet-asof", "delta-local"])
def universe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Universe]:
    """The repo, applied."""
    form, provider = request.param.split("-")
    folder = tmp_path_factory.mktemp(form) / "repo"
    yield make(folder, form, "asof.provider.AsofProvider" if provider == "asof" else "local")
    EmbeddedRedis(folder / "data" / "redis").stop()


def asked_rows() -> pd.DataFrame:
    """Entity rows between and at the rows of the sources, with keys that nobody has, in no order."""
    rows = [
        {
            "order": n, "courier_id": (*COURIERS, 9)[n % 4], "customer_id": (*CUSTOMERS, 9)[n % 3],
            "origin_id": PLACES[n % 3], "destination_id": PLACES[(n + 1) % 3],
            "event_timestamp": pd.Timestamp(NOW - timedelta(hours=7 * ((n * 5) % 13))), "extra": n,
        }
        for n in range(40)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def same(value: Any, wanted: Any) -> bool:
    missing = wanted is None or wanted != wanted
    return bool(pd.isna(value)) if missing else math.isclose(float(value), float(wanted), rel_tol=1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_historical_features_of_every_kind_of_view(universe: Universe, full: bool) -> None:
    """Views of one key, of two, of none, with mapped columns, and on-demand ones: every value is the loop's, in the rows' order."""
    rows = asked_rows()
    wanted = [*STORED, "plus_hundred:rate_plus_100", "plus_hundred:rate_plus_extra"]
    found = universe.store.get_historical_features(rows, wanted, full_feature_names=full).to_df()
    assert list(found["order"]) == list(rows["order"])
    for name, (view, keys) in KEYS.items():
        column = f"{view}__{name}" if full else name
        ttl = DAY if view != "mapped" else timedelta(days=999)
        for position, row in enumerate(rows.to_dict("records")):
            right = expected(universe.rows[view], keys, name, row, row["event_timestamp"], ttl)
            assert same(found[column][position], right), (column, row)
    rate, prefix = found["couriers__rate" if full else "rate"], "plus_hundred__" if full else ""
    assert all(same(v, r + 100) for v, r in zip(found[f"{prefix}rate_plus_100"], rate, strict=True))
    assert all(same(v, r + n) for v, r, n in zip(found[f"{prefix}rate_plus_extra"], rate, rows["extra"], strict=True))


def test_a_view_under_two_names(universe: Universe) -> None:
    """A service with one view for origin and destination gives each row both values."""
    rows = asked_rows()
    service = universe.store.get_feature_service("way")
    found = universe.store.get_historical_features(rows, service, full_feature_names=True).to_df()
    for position, row in enumerate(rows.to_dict("records")):
        for end in ("origin", "destination"):
            key = {"place_id": row[f"{end}_id"]}
            right = expected(universe.rows["places"], ["place_id"], "warmth", key, row["event_timestamp"], DAY)
            assert same(found[f"{end}__warmth"][position], right)


def test_entity_rows_from_a_query(universe: Universe) -> None:
    """Entity rows that a SQL query selects give what the same rows in memory give."""
    pq.write_table(pa.Table.from_pandas(asked_rows()), universe.repo / "data" / "asked.parquet")
    query = f"SELECT * FROM read_parquet('{universe.repo}/data/asked.parquet') ORDER BY \"order\""
    found = universe.store.get_historical_features(query, STORED).to_arrow().select(["rate", "won", "level"])
    assert found == universe.store.get_historical_features(asked_rows(), STORED).to_arrow().select(found.column_names)


def test_requests_that_cannot_be_answered(universe: Universe) -> None:
    """Missing request data, two features of one name, and a feature that a view does not have are refused as Feast does."""
    store, rows = universe.store, asked_rows().drop(columns="extra")
    with pytest.raises(RequestDataNotFoundInEntityDfException):
        store.get_historical_features(rows, ["plus_hundred:rate_plus_extra"])
    with pytest.raises(FeatureNameCollisionError):
        store.get_historical_features(rows, ["couriers:rate", "couriers:rate"])
    with pytest.raises(KeyError):
        store.get_historical_features(rows, ["pairs:rate"])
    with pytest.raises(KeyError):
        store.get_online_features(["pairs:rate"], [{"courier_id": 1001, "customer_id": 201}])


def test_saved_datasets(universe: Universe) -> None:
    """A retrieval that is saved and read again is the same."""
    job = universe.store.get_historical_features(asked_rows(), STORED)
    storage = SavedDatasetFileStorage(path=str(universe.repo / "data" / "saved.parquet"))
    saved = universe.store.create_saved_dataset(job, "saved", storage, allow_overwrite=True)
    assert saved.to_df()["rate"].equals(job.to_df()["rate"])
    assert universe.store.get_saved_dataset("saved").name == "saved"


def test_declared_types_decide(tmp_path: Any, universe: Universe) -> None:
    """Values have the declared type: what is declared float32 is float32, whatever the file has."""
    found = universe.store.get_historical_features(asked_rows(), STORED).to_arrow().schema
    declared = {"rate": pa.float32(), "trips": pa.int32(), "balance": pa.float64(), "rides": pa.int64()}
    assert {name: found.field(name).type for name in declared} == declared


def test_keys_and_types_are_inferred(universe: Universe) -> None:
    """A view without a schema gets its features from the file, by the names after the mapping, without keys and times."""
    view = FeatureView(
        name="inferred", entities=[universe.store.get_entity("courier")], source=universe.store.get_data_source("couriers")
    )  # fmt: skip
    universe.store.apply([view])
    found = universe.store.get_feature_view("inferred")
    assert {f.name: f.dtype for f in found.features} == {"rate": ft.Float32, "trips": ft.Int32}
    assert [c.dtype for c in found.entity_columns] == [ft.Int64]
    universe.store.apply([], objects_to_delete=[view], partial=False)


def test_two_materializations_make_online_what_offline_is(universe: Universe) -> None:
    """After a first materialization and an incremental one, every online value is the offline value of now."""
    store, end = universe.store, NOW + timedelta(minutes=30)
    names = ["couriers", "customers", "pairs", "places", "world", "mapped"]
    store.materialize(NOW - timedelta(days=9), NOW - timedelta(days=1), feature_views=names)
    store.materialize(NOW - timedelta(days=1), end, feature_views=names)
    keys = [{"courier_id": c, "customer_id": k} for c in COURIERS for k in CUSTOMERS]
    found = store.get_online_features(STORED, keys).to_dict()
    now = pd.Timestamp.now(tz="UTC")
    known = {n: f[f["created"] <= now] if "created" in f else f for n, f in universe.rows.items()}
    for name, (view, columns) in KEYS.items():
        ttl = DAY if view != "mapped" else timedelta(days=999)
        for position, key in enumerate(keys):
            assert same(found[name][position], expected(known[view], columns, name, key, now, ttl)), name


def test_online_answers_of_every_shape(universe: Universe) -> None:
    """Names with their view, aliases, unknown keys, columns instead of rows, on-demand features, async."""
    store = universe.store
    store.materialize(NOW - timedelta(days=9), NOW + timedelta(minutes=30), feature_views=["couriers", "places"])
    way = store.get_feature_service("way")
    found = store.get_online_features(way, [{"origin_id": 1, "destination_id": 2}], full_feature_names=True).to_dict()
    assert set(found) == {"origin_id", "destination_id", "origin__warmth", "destination__warmth"}
    unknown = store.get_online_features(["couriers:trips"], [{"courier_id": 5}])
    assert [list(r.statuses) for r in unknown.proto.results][1] == [FieldStatus.NOT_FOUND]
    rows = {"courier_id": [1001, 1002], "extra": [1, 2]}
    sums = store.get_feature_service("sums")
    answer = store.get_online_features(sums, rows).to_dict()
    assert answer["rate_plus_extra"] == pytest.approx([r + n for r, n in zip(answer["rate"], (1, 2), strict=True)])

    async def ask() -> Any:
        try:
            return (await store.get_online_features_async(sums, rows)).to_dict()
        finally:
            await store.close()

    assert asyncio.run(ask()) == answer


def test_only_views_without_keys_online(universe: Universe) -> None:
    """Views without entities are read by rows without a field; each row gets the one value."""
    universe.store.materialize(NOW - timedelta(days=9), NOW + timedelta(minutes=30), feature_views=["world", "mapped"])
    found = universe.store.get_online_features(["world:rides", "mapped:level"], [{}, {}]).to_dict()
    assert set(found) == {"rides", "level"}
    assert found["level"] == [universe.rows["mapped"]["level"].iloc[0]] * 2


def test_a_wrong_key_name_is_told(universe: Universe) -> None:
    """A request with another key name is told which key is missing and what it has."""
    with pytest.raises(RequestError, match=r"courier_id.*the request has driver, extra"):
        universe.store.get_online_features(["couriers:trips"], [{"driver": 1001, "extra": 1}])


def test_writes_keep_the_newest_row(universe: Universe) -> None:
    """``write_to_online_store``: an older row changes nothing, a newer one replaces."""
    now = pd.Timestamp.now(tz="UTC")
    for age, trips, right in ((5, 1, 1), (60, 2, 1), (1, 3, 3)):
        moment = now - pd.Timedelta(minutes=age)
        frame = {"courier_id": [77], "rate": [0.5], "trips": [trips], "event_timestamp": [moment], "created": [moment]}
        universe.store.write_to_online_store("couriers", pd.DataFrame(frame))
        found = universe.store.get_online_features(["couriers:trips"], [{"courier_id": 77}]).to_dict()
        assert found["trips"] == [right]


@pytest.mark.parametrize("zone", ["", "Z"])
def test_pushes_over_http_with_times_as_text(universe: Universe, zone: str) -> None:
    """``/push`` to both sides: a time without a zone is UTC online and offline, as one with a zone is."""
    key, moment = (88 if zone else 89), pd.Timestamp.now(tz="UTC").floor("s") - pd.Timedelta(minutes=3)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S") + zone
    row = {"courier_id": [key], "rate": [0.25], "trips": [4], "event_timestamp": [text], "created": [text]}
    wanted = {"features": ["couriers:trips"], "entities": {"courier_id": [key]}}
    pushed = {"push_source_name": "couriers_push", "df": row, "to": "online_and_offline"}
    written = {"feature_view_name": "couriers", "df": {**row, "courier_id": [key + 100]}}
    sent = {"/push": pushed, "/get-online-features": wanted, "/write-to-online-store": written}

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(get_app(universe.store))
        async with httpx.AsyncClient(transport=transport, base_url="http://feast") as client:
            return [await client.post(path, json=body) for path, body in sent.items()]

    answers = asyncio.run(send())
    assert [a.status_code for a in answers] == [200, 200, 200]
    assert answers[1].json()["results"][1]["values"] == [4]
    rows = pd.DataFrame({"courier_id": [key] * 2, "event_timestamp": [moment, moment - pd.Timedelta(seconds=1)]})
    found = universe.store.get_historical_features(rows, ["couriers:trips"]).to_df()
    assert found["trips"][0] == 4
    assert pd.isna(found["trips"][1])


def test_pushes_to_the_offline_store_only(universe: Universe) -> None:
    """A row pushed offline is in datasets and not online."""
    moment = pd.Timestamp.now(tz="UTC").floor("us")
    row = {"courier_id": [90], "rate": [0.25], "trips": [6], "event_timestamp": [moment], "created": [moment]}
    universe.store.push("couriers_push", pd.DataFrame(row), to=PushMode.OFFLINE)
    asked = pd.DataFrame({"courier_id": [90], "event_timestamp": [moment]})
    assert universe.store.get_historical_features(asked, ["couriers:trips"]).to_df()["trips"][0] == 6
    assert universe.store.get_online_features(["couriers:trips"], [{"courier_id": 90}]).to_dict()["trips"] == [None]


def test_on_demand_views_that_are_stored(universe: Universe) -> None:
    """``write_to_online_store=True``: computed on write and on materialization, read without its inputs."""
    store = universe.store
    store.write_to_online_store("doubled", pd.DataFrame({"courier_id": [55], "trips": [21]}))
    read = store.get_online_features(["doubled:trips_doubled"], [{"courier_id": 55}, {"courier_id": 5}])
    assert read.to_dict()["trips_doubled"] == [42, None]
    assert list(read.proto.results[1].statuses) == [FieldStatus.PRESENT, FieldStatus.NOT_FOUND]
    store.materialize(NOW - timedelta(days=9), NOW + timedelta(minutes=30), feature_views=["couriers", "doubled"])
    found = store.get_online_features(
        ["couriers:trips", "doubled:trips_doubled"], [{"courier_id": c} for c in COURIERS]
    ).to_dict()
    assert found["trips_doubled"] == [2 * v for v in found["trips"]]


def test_feasts_monitoring_is_refused_by_name(universe: Universe) -> None:
    """`feast monitor` is told what to use instead."""
    with pytest.raises(SettingsError, match="asof drift"):
        universe.store._get_provider().offline_store.ensure_monitoring_tables(universe.store.config)


def test_teardown_stops_the_redis(tmp_path: Any) -> None:
    """`feast teardown` deletes the values and stops the repo's own redis-server."""
    made = make(tmp_path / "repo", "parquet", "asof.provider.AsofProvider")
    assert EmbeddedRedis(made.repo / "data" / "redis").status().running
    made.store.teardown()
    assert not EmbeddedRedis(made.repo / "data" / "redis").status().running


def test_names_after_the_mapping_may_be_names_before_it(tmp_path: Any, universe: Universe) -> None:
    """The time columns may be named as in the file or as in the view; both give the same values, and push takes both."""
    table = pa.table(
        {
            "k": [1, 1],
            "t": pa.array([NOW, NOW - DAY], pa.timestamp("us", "UTC")),
            "known": pa.array([NOW, NOW]),
            "v": [2, 1],
        }
    )
    pq.write_table(table, universe.repo / "data" / "spelled.parquet")
    key = universe.store.get_entity("label")
    views = [
        FeatureView(
            name=f"spelled_{i}", entities=[key], schema=[Field(name="label", dtype=ft.String), Field(name="v", dtype=ft.Int64)],
            source=FileSource(
                name=f"spelled_{i}", path="data/spelled.parquet", timestamp_field=ts, created_timestamp_column=created,
                field_mapping={"t": "ts", "known": "created", "k": "label"},
            ),
        )
        for i, (ts, created) in enumerate([("t", "known"), ("ts", "created")])
    ]  # fmt: skip
    pq.write_table(table.set_column(0, "k", pa.array(["a", "a"])), universe.repo / "data" / "spelled.parquet")
    universe.store.apply(views)
    rows = pd.DataFrame({"label": ["a", "a"], "event_timestamp": [NOW, NOW - timedelta(hours=1)]})
    for view in views:
        found = universe.store.get_historical_features(
            rows,
            [f"{view.name}:v"],
        ).to_df()
        assert list(found["v"]) == [2, 1]
        if universe.store.config.provider == "local" and view.name == "spelled_0":
            continue  # Feast's own engine does not find a time column under its name in the file
        universe.store.materialize(NOW - timedelta(days=9), NOW + timedelta(hours=1), feature_views=[view.name])
        assert universe.store.get_online_features([f"{view.name}:v"], [{"label": "a"}]).to_dict()["v"] == [2]
    universe.store.apply([], objects_to_delete=views, partial=False)


def test_rows_that_became_known_later_are_told(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A materialization leaves out rows known after its end, says how many and what to type; typing that writes them."""
    made = make(tmp_path / "repo", "parquet", "asof.provider.AsofProvider")
    store, start, end = made.store, NOW - timedelta(days=9), NOW - timedelta(hours=6)
    with caplog.at_level(logging.WARNING, "asof"):
        store.materialize(start, end, feature_views=["couriers"])
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("asof")]
    rows = made.rows["couriers"]
    late = rows[(rows["event_timestamp"] <= end) & (rows["created"] > end)]
    assert f"{len(late)} rows" in said
    assert said.endswith(
        f"feast materialize {start:%Y-%m-%dT%H:%M:%S} {late['created'].max():%Y-%m-%dT%H:%M:%S} -v couriers"
    )
    caplog.clear()
    store.materialize(start, late["created"].max().to_pydatetime(), feature_views=["couriers"])
    assert not [r for r in caplog.records if r.name.startswith("asof")]
    found = store.get_online_features(["couriers:trips"], [{"courier_id": c} for c in COURIERS]).to_dict()["trips"]
    now = pd.Timestamp.now(tz="UTC")
    assert found == [expected(rows, ["courier_id"], "trips", {"courier_id": c}, now, DAY) for c in COURIERS]
    store.teardown()


TYPES: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "int32": (ft.Int32, pa.int32(), [1, None, 3]), "int64": (ft.Int64, pa.int64(), [2**60, None, 3]),
    "float32": (ft.Float32, pa.float32(), [0.5, None, 1.25]), "float64": (ft.Float64, pa.float64(), [0.1, None, 1 / 3]),
    "string": (ft.String, pa.string(), ["a", None, ""]), "bool": (ft.Bool, pa.bool_(), [True, None, False]),
    "moment": (ft.UnixTimestamp, pa.timestamp("us", "UTC"), [NOW, None, NOW - DAY]), "bytes": (ft.Bytes, pa.binary(), [b"a", None, b"b"]),
}  # fmt: skip


@pytest.mark.parametrize("listed", [False, True], ids=["scalar", "list"])
def test_every_type_offline_and_online(universe: Universe, *, listed: bool) -> None:
    """A feature of each type, and a list of it, comes back from both sides with the declared type and the values that went in."""
    name = "lists" if listed else "scalars"
    given = {
        n: ([None if v is None else [v, v] for v in values] if listed else values)
        for n, (_, _, values) in TYPES.items()
        if n != "bytes" or not listed
    }
    kinds = {n: pa.list_(TYPES[n][1]) if listed else TYPES[n][1] for n in given}
    moments = pa.array([NOW - timedelta(hours=1)] * 3, pa.timestamp("us", "UTC"))
    columns = {n: pa.array(values, kinds[n]) for n, values in given.items()}
    pq.write_table(
        pa.table({"courier_id": [1, 2, 3], "at": moments, **columns}), universe.repo / "data" / f"{name}.parquet"
    )
    schema = [Field(name=n, dtype=ft.Array(TYPES[n][0]) if listed else TYPES[n][0]) for n in given]
    view = FeatureView(
        name=name, entities=[universe.store.get_entity("courier")], schema=schema, ttl=DAY,
        source=FileSource(name=f"{name}_source", path=f"data/{name}.parquet", timestamp_field="at"),
    )  # fmt: skip
    universe.store.apply([view])
    asked = [f"{name}:{n}" for n in given]
    rows = pd.DataFrame({"courier_id": [1, 2, 3], "event_timestamp": [NOW] * 3})
    offline = universe.store.get_historical_features(rows, asked).to_arrow()
    universe.store.materialize(NOW - DAY, NOW, feature_views=[name])
    online = universe.store.get_online_features(asked, {"courier_id": [1, 2, 3]}).to_dict()
    for n, values in given.items():
        assert offline.schema.field(n).type == kinds[n]
        assert offline[n].to_pylist() == values
        assert online[n] == values, n
    universe.store.apply([], objects_to_delete=[view], partial=False)


def test_an_earlier_version_is_not_materialized(tmp_path: Any) -> None:
    """``materialize(version=...)`` of a version that is not the applied one is refused, not ignored."""
    registry = "{path: data/registry.db, enable_online_feature_view_versioning: true}"
    made = make(tmp_path / "repo", "parquet", "asof.provider.AsofProvider", registry)
    view = made.store.get_feature_view("customers")
    view.features = [*view.features, Field(name="again", dtype=ft.Float64)]
    made.store.apply([view])
    with pytest.raises(SettingsError, match=r"got version 0.*without a version"):
        made.store.materialize(NOW - DAY, NOW, feature_views=["customers"], version="v0")
    made.store.teardown()
