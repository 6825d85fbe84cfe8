"""Feast's API without protobuf: every answer is what Feast's own code makes of the same data."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast import types as ft
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from google.protobuf.json_format import MessageToDict

from asof.feast.compiler import compile_view
from asof.feast.response import LazyResponse
from asof.online import RedisOnlineStore
from asof.online.codec import variable_width
from asof.online.codec.rows import ENCODED
from asof.online.redis.server import EmbeddedRedis
from tests.feast.repos import YAML

pytestmark = pytest.mark.filterwarnings("ignore")
NOW = datetime.now(UTC).replace(microsecond=0)
TYPES: dict[str, tuple[Any, pa.DataType, Any]] = {
    "i32": (ft.Int32, pa.int32(), -7), "i64": (ft.Int64, pa.int64(), 41), "big": (ft.Int64, pa.int64(), 2**62 + 1),
    "f32": (ft.Float32, pa.float32(), 0.1), "f64": (ft.Float64, pa.float64(), 1 / 3), "flag": (ft.Bool, pa.bool_(), True),
    "text": (ft.String, pa.string(), "grüße"), "raw": (ft.Bytes, pa.binary(), b"\x00\xff"),
    "moment": (ft.UnixTimestamp, pa.timestamp("us", "UTC"), NOW), "json": (ft.Json, pa.string(), '{"a": [1]}'),
    "ints": (ft.Array(ft.Int64), pa.list_(pa.int64()), [1, 2]), "map": (ft.Map, ENCODED, variable_width.encode("map", {"k": "v"})),
    "id": (ft.Uuid, ENCODED, variable_width.encode("uuid", uuid.UUID(int=7))),
}  # fmt: skip
NUMBERS = [f"numbers:n{i}" for i in range(4)]
EVERYTHING = [f"everything:{name}" for name in TYPES]


class StockRead(RedisOnlineStore):
    """Our store with Feast's own way to an answer: view by view, value by value, through protobuf."""

    get_online_features = OnlineStore.get_online_features
    get_online_features_async = OnlineStore.get_online_features_async
    _read_features_per_fv = OnlineStore._read_features_per_fv
    _read_features_per_fv_async = OnlineStore._read_features_per_fv_async


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A view with a feature of each type, and one of numbers, each with a full, an empty and a stale row."""
    repo = tmp_path_factory.mktemp("answers")
    (repo / "data").mkdir()
    (repo / "feature_store.yaml").write_text(YAML.format(project="answers"))
    made = FeatureStore(repo_path=str(repo))
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    everything = view(repo, key, "everything", {name: kind for name, (kind, _, _) in TYPES.items()})
    numbers = view(repo, key, "numbers", {f"n{i}": ft.Float64 for i in range(4)})
    both = FeatureService(name="both", features=[everything, numbers])
    made.apply([key, everything, numbers, both])
    write(made, "everything", {name: pa.array([v, None, v], kind) for name, (_, kind, v) in TYPES.items()})
    write(made, "numbers", {f"n{i}": pa.array([i / 3, None, 1.0]) for i in range(4)})
    yield made
    EmbeddedRedis(repo / "data" / "redis").stop()


def view(repo: Path, key: Entity, name: str, features: dict[str, Any]) -> FeatureView:
    path = repo / "data" / f"{name}.parquet"
    pq.write_table(pa.table({"key": pa.array([1]), "ts": pa.array([NOW], pa.timestamp("us", "UTC"))}), path)
    source = FileSource(name=f"{name}_source", path=str(path), timestamp_field="ts")
    schema = [Field(name="key", dtype=ft.Int64), *(Field(name=n, dtype=kind) for n, kind in features.items())]
    return FeatureView(name=name, entities=[key], ttl=timedelta(days=1), schema=schema, source=source)


def write(store: FeatureStore, name: str, columns: dict[str, pa.Array]) -> None:
    moments = [NOW - timedelta(hours=1), NOW - timedelta(hours=2), NOW - timedelta(days=3)]
    table = pa.table({"key": [1, 2, 3], "ts": pa.array(moments, pa.timestamp("us", "UTC")), **columns})
    online: Any = store._get_provider().online_store
    online.writer(store.config).write(compile_view(store.get_feature_view(name)), table)


def stock(store: FeatureStore, features: Any, rows: Any, **options: Any) -> OnlineResponse:
    """The answer of Feast's own code, from the same rows in the same Redis."""
    return StockRead().get_online_features(store.config, features, rows, store.registry, store.project, **options)


@pytest.mark.parametrize("full_feature_names", [False, True])
@pytest.mark.parametrize("features", [EVERYTHING, NUMBERS, EVERYTHING + NUMBERS, None])
@pytest.mark.parametrize("keys", [[1], [1, 2, 3, 9, 1], [1] * 40, [*range(60)]], ids=len)
def test_answers_are_feasts_own(store: FeatureStore, features: Any, keys: list[int], full_feature_names: bool) -> None:
    """Names, their order, values and their Python types, event times, DataFrames and Arrow tables are as Feast makes them."""
    asked, rows = features or store.get_feature_service("both"), [{"key": k} for k in keys]
    mine = store.get_online_features(asked, rows, full_feature_names=full_feature_names)
    theirs = stock(store, asked, rows, full_feature_names=full_feature_names)
    assert isinstance(mine, LazyResponse)
    for times in (False, True):
        ours, expected = mine.to_dict(times), theirs.to_dict(times)
        assert list(ours) == list(expected)
        assert repr(ours) == repr(expected)
        assert repr(mine.to_dict(times)) == repr(ours)
    pd.testing.assert_frame_equal(mine.to_df(), theirs.to_df())
    assert mine.to_arrow(True).equals(theirs.to_arrow(True))


@pytest.mark.parametrize("features", [EVERYTHING, NUMBERS])
def test_messages_hold_the_same_values(store: FeatureStore, features: list[str]) -> None:
    """The message of an answer is Feast's, but for statuses, where ours also tell what is null and what is too old."""
    rows = [{"key": k} for k in (1, 2, 3, 9)]
    mine, theirs = store.get_online_features(features, rows).proto, stock(store, features, rows).proto
    names = list(mine.metadata.feature_names.val)
    assert names == list(theirs.metadata.feature_names.val)
    for name, one, other in zip(names, mine.results, theirs.results, strict=True):
        assert list(one.values) == list(other.values), name
        assert list(one.event_timestamps) == list(other.event_timestamps)
        expected = ["PRESENT"] * 4 if name == "key" else ["PRESENT", "NULL_VALUE", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
        assert MessageToDict(one)["statuses"] == expected


def test_feasts_own_conversion_of_the_message_gives_the_answer(store: FeatureStore) -> None:
    """What Feast reads out of the message is what the answer says without it."""
    mine = store.get_online_features(EVERYTHING, {"key": [1, 2, 9]})
    again = OnlineResponse(mine.proto, mine._feature_types)
    assert repr(again.to_dict(True)) == repr(mine.to_dict(True))


def test_async_answers(store: FeatureStore) -> None:
    """`get_online_features_async` gives the same answers."""

    async def ask() -> Any:
        try:
            return await store.get_online_features_async(EVERYTHING, [{"key": 1}, {"key": 9}])
        finally:
            await store.close()

    answer = asyncio.run(ask())
    assert isinstance(answer, LazyResponse)
    assert repr(answer.to_dict()) == repr(stock(store, EVERYTHING, [{"key": 1}, {"key": 9}]).to_dict())


@pytest.mark.parametrize(
    "rows",
    [[{"key": "1"}], [{"key": 1}, {"other": 2}], [{"key": 1}, {"key": 1, "x": 2}], [], [{}],
     {"key": (1, 2)}, {"key": [1, 2], "more": [1, 2]}, {"key": [2**63]}, {"key": [1], "more": [1, 2]}, [{"x": 1}], {"key": [True]}],
    ids=repr,
)  # fmt: skip
def test_unusual_requests_are_answered_or_refused_as_by_feast(store: FeatureStore, rows: Any) -> None:
    """Keys of other types, further columns, empty and uneven requests: the same answer, or an error where Feast has one."""

    def said(ask: Any) -> str:
        try:
            return repr(ask().to_dict())
        except Exception:  # noqa: BLE001 - whatever Feast does
            return "refused"

    assert said(lambda: store.get_online_features(NUMBERS, rows)) == said(lambda: stock(store, NUMBERS, rows))


def test_a_missing_key_is_not_found(store: FeatureStore) -> None:
    """A row without a key has no values, beside rows that have one; Feast's own code refuses a request of such rows alone."""
    answer = store.get_online_features(NUMBERS, [{"key": None}, {"key": 1}])
    assert answer.to_dict()["n0"] == [None, 0.0]
    assert MessageToDict(answer.proto.results[1])["statuses"] == ["NOT_FOUND", "PRESENT"]


def test_what_is_done_to_an_answer_stays_with_it(store: FeatureStore) -> None:
    """Changing the lists of an answer changes neither the request nor what the answer says next."""
    request = {"key": [1, 2]}
    answer = store.get_online_features(EVERYTHING, request)
    before = repr(answer.to_dict())
    for values in answer.to_dict().values():
        values.clear()
    assert request == {"key": [1, 2]}
    assert repr(answer.to_dict()) == before


def test_a_new_apply_is_noticed(store: FeatureStore) -> None:
    """After a view is applied with another ttl and another feature, the same request gets what is declared now."""
    asked, rows = ["late:a"], [{"key": 1}]
    key, repo = store.get_entity("key"), Path(str(store.repo_path))
    first = view(repo, key, "late", {"a": ft.Float64})
    store.apply([first])
    write(store, "late", {"a": pa.array([1.0, 2.0, 3.0])})
    assert store.get_online_features(asked, rows).to_dict()["a"] == [1.0]
    second = view(repo, key, "late", {"a": ft.Float64, "b": ft.Float64})
    second.ttl = timedelta(minutes=1)
    store.apply([second])
    assert store.get_online_features(asked, rows).to_dict()["a"] == [None]
    assert store.get_online_features([*asked, "late:b"], rows).to_dict() == {"key": [1], "a": [None], "b": [None]}


def test_json_of_the_feature_server(store: FeatureStore) -> None:
    """What `feast serve` sends is made from the message, and says what the answer says."""
    answer = store.get_online_features(NUMBERS, {"key": [1, 9]})
    sent = json.loads(json.dumps(MessageToDict(answer.proto, preserving_proto_field_name=True)))
    values = [[v.get("double_val") for v in r["values"]] for r in sent["results"][1:]]
    assert values == [answer.to_dict()[name] for name in sent["metadata"]["feature_names"]["val"][1:]]
