"""Feast's own template, its own command line and its own API, with asof named in feature_store.yaml."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from asof.online.redis.server import EmbeddedRedis
from tests.feast.repos import feast, inside, template_repo

pytestmark = pytest.mark.filterwarnings("ignore")
REQUEST = {"val_to_add": 1, "val_to_add_2": 2}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The template, applied and materialized by Feast's command line."""
    made = template_repo(tmp_path_factory.mktemp("template") / "x")
    with inside(made):
        feast("apply", "--skip-source-validation")
        after_creation = datetime.now(UTC) + timedelta(
            seconds=2
        )  # the template's rows are created now, in whole seconds
        feast("materialize-incremental", after_creation.strftime("%Y-%m-%dT%H:%M:%S"))
        yield made
    EmbeddedRedis(made / "data" / "redis").stop()


@pytest.fixture
def store(repo: Path) -> FeatureStore:
    """Feast's own view of the repo."""
    return FeatureStore(repo_path=str(repo))


def statuses(response: Any) -> dict[str, list[int]]:
    vectors = zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
    return {name: list(vector.statuses) for name, vector in vectors}


def newest(repo: Path, driver: int) -> dict[str, Any]:
    frame = pd.read_parquet(repo / "data" / "driver_stats.parquet")
    mine = frame[frame["driver_id"] == driver].sort_values(["event_timestamp", "created"])
    return dict(mine.iloc[-1])


def test_command_line_reads_what_it_materialized(repo: Path) -> None:
    """`feast get-online-features` prints the newest row of the source file."""
    said = feast("get-online-features", "-e", "driver_id=1001", "-f", "driver_hourly_stats:avg_daily_trips")
    answer = json.loads(said[said.index("{") :])
    assert answer["avg_daily_trips"] == [newest(repo, 1001)["avg_daily_trips"]]


def test_service_with_on_demand_features(repo: Path, store: FeatureStore) -> None:
    """A service gives stored features of every type and on-demand ones computed from them, in the order of the rows."""
    rows = [{"driver_id": d, **REQUEST} for d in (1002, 1001, 1002)]
    found = store.get_online_features(store.get_feature_service("driver_activity_v2"), rows).to_dict()
    for position, driver in enumerate((1002, 1001, 1002)):
        row = newest(repo, driver)
        assert found["conv_rate"][position] == pytest.approx(row["conv_rate"], rel=1e-6)
        assert found["avg_daily_trips"][position] == row["avg_daily_trips"]
        assert found["conv_rate_plus_val2"][position] == pytest.approx(row["conv_rate"] + 2, rel=1e-6)
        assert found["driver_profile"][position] == row["driver_profile"]
        assert found["driver_config"][position] == json.loads(row["driver_config"])


def test_async_equals_sync(store: FeatureStore) -> None:
    """`get_online_features_async` answers as `get_online_features` does."""
    rows = [{"driver_id": 1003, **REQUEST}, {"driver_id": 1, **REQUEST}]
    service = store.get_feature_service("driver_activity_v1")

    async def ask() -> Any:
        try:
            return await store.get_online_features_async(service, rows)
        finally:
            await store.close()  # connections belong to the loop that opened them

    answer = asyncio.run(ask())
    assert answer.to_dict() == store.get_online_features(service, rows).to_dict()


def test_unknown_driver_is_not_found(store: FeatureStore) -> None:
    """An unknown key has status NOT_FOUND, and on-demand features that miss their input have NULL_VALUE."""
    service = store.get_feature_service("driver_activity_v1")
    said = statuses(store.get_online_features(service, [{"driver_id": 1, **REQUEST}]))
    assert said["conv_rate"] == [FieldStatus.NOT_FOUND]
    assert said["conv_rate_plus_val1"] == [FieldStatus.NULL_VALUE]


def test_push_is_seen_at_once_and_ttl_applies(store: FeatureStore) -> None:
    """A pushed row replaces an older one; a null in it is NULL_VALUE; a row older than the ttl is OUTSIDE_MAX_AGE."""
    now = pd.Timestamp.now(tz="UTC")
    row = {"conv_rate": 0.5, "acc_rate": None, "avg_daily_trips": 7, "driver_config": '{"a": [1]}'}
    frame = pd.DataFrame([
        {"driver_id": 5001, "event_timestamp": now, "created": now, **row},
        {"driver_id": 5002, "event_timestamp": now - pd.Timedelta(days=2), "created": now, **row},
    ]).assign(driver_metadata=[{"k": "v"}] * 2, driver_profile=[{"name": "n", "age": "3"}] * 2)  # fmt: skip
    store.push("driver_stats_push_source", frame)
    wanted = [
        f"driver_hourly_stats_fresh:{name}" for name in ("conv_rate", "acc_rate", "avg_daily_trips", "driver_metadata")
    ]
    answer = store.get_online_features(wanted, [{"driver_id": 5001}, {"driver_id": 5002}])
    assert statuses(answer)["conv_rate"] == [FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE]
    assert statuses(answer)["acc_rate"] == [FieldStatus.NULL_VALUE, FieldStatus.OUTSIDE_MAX_AGE]
    assert answer.to_dict()["driver_metadata"] == [{"k": "v"}, None]
    assert answer.to_dict()["avg_daily_trips"] == [7, None]


def test_an_older_push_changes_nothing(store: FeatureStore) -> None:
    """A row that is older than the stored one is not written, however late it is pushed."""
    now = pd.Timestamp.now(tz="UTC")

    def push(age: int, rate: float) -> None:
        moment = now - pd.Timedelta(minutes=age)
        columns = {
            "driver_id": [6001],
            "event_timestamp": [moment],
            "created": [now],
            "conv_rate": [rate],
            "acc_rate": [rate],
        }
        rest = {
            "avg_daily_trips": [1],
            "driver_metadata": [{"a": "b"}],
            "driver_config": ["{}"],
            "driver_profile": [{"name": "n"}],
        }
        store.push("driver_stats_push_source", pd.DataFrame({**columns, **rest}))

    push(1, 0.25)
    push(5, 0.75)
    answer = store.get_online_features(["driver_hourly_stats_fresh:conv_rate"], [{"driver_id": 6001}])
    assert answer.to_dict()["conv_rate"] == [0.25]
