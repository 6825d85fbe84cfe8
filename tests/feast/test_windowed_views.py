"""Windowed views through Feast's own API: materialization, late data, pushes of raw events, statuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from asof.online import Reader
from asof.online.redis.server import EmbeddedRedis
from asof.repo import Repo
from tests.feast.repos import feast, inside, windows_repo

pytestmark = pytest.mark.filterwarnings("ignore")
NOW = datetime.now(UTC)


def sales(*rows: tuple[int, int, float, float, float | None]) -> pd.DataFrame:
    """Sales from (sale, shop, minutes ago sold, minutes ago known, amount)."""
    return pd.DataFrame({
        "sale_id": [r[0] for r in rows], "shop_id": [r[1] for r in rows],
        "sold": [pd.Timestamp(NOW - timedelta(minutes=r[2])) for r in rows],
        "known": [pd.Timestamp(NOW - timedelta(minutes=r[3])) for r in rows], "amount": [r[4] for r in rows],
    })  # fmt: skip


def profiles(*rows: tuple[int, float, str | None, float | None]) -> pd.DataFrame:
    """Profiles from (shop, minutes ago, city, rating)."""
    moments = [pd.Timestamp(NOW - timedelta(minutes=r[1])) for r in rows]
    return pd.DataFrame({
        "shop_id": [r[0] for r in rows], "at": moments, "known": moments, "city": [r[2] for r in rows], "rating": [r[3] for r in rows],
    })  # fmt: skip


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repo with its tables, applied."""
    made = windows_repo(tmp_path_factory.mktemp("windows") / "repo")
    write(made, sales((1, 1, 30, 30, 10.0), (2, 1, 90, 90, 20.0), (3, 1, 3000, 3000, 99.0), (4, 2, 3000, 3000, 5.0)))
    profiles(
        (1, 10, "Oslo", 4.5), (1, 500, "Rome", 1.0), (2, 60 * 24 * 40, "Lima", 2.0), (3, 5, None, None)
    ).to_parquet(made / "data" / "profiles.parquet")
    with inside(made):
        feast("apply")
        yield made
    EmbeddedRedis(made / "data" / "redis").stop()


@pytest.fixture(scope="module")
def store(repo: Path) -> FeatureStore:
    """Feast's own view of the repo."""
    return FeatureStore(repo_path=str(repo))


def write(repo: Path, frame: pd.DataFrame) -> None:
    frame.to_parquet(repo / "data" / "sales.parquet")


def ask(store: FeatureStore, *shops: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    answer = store.get_online_features(store.get_feature_service("shops"), [{"shop_id": s} for s in shops])
    named = zip(answer.proto.metadata.feature_names.val, answer.proto.results, strict=True)
    return answer.to_dict(), {name: list(vector.statuses) for name, vector in named}


def test_materialized_windows_and_statuses(store: FeatureStore) -> None:
    """Materialization fills plain and windowed views; each value says why it is there or not."""
    store.materialize(NOW - timedelta(days=100), datetime.now(UTC))
    values, said = ask(store, 1, 2, 3, 9)
    assert values["sold_hour"] == [1, 0, 0, 0]
    assert values["sold_day"] == [2, 0, 0, 0]
    assert values["amount_day"] == [15.0, None, None, None]
    assert values["city"] == ["Oslo", None, None, None]
    present, null, gone, unknown = (
        FieldStatus.PRESENT, FieldStatus.NULL_VALUE, FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND,
    )  # fmt: skip
    assert said["city"] == [present, gone, null, unknown]
    assert said["sold_day"] == [present, present, unknown, unknown]
    assert said["amount_day"] == [present, null, unknown, unknown]


def test_late_data_is_taken_by_the_next_incremental_run(repo: Path, store: FeatureStore) -> None:
    """An event whose time is long past but which became known after the last run is in the windows after the next one."""
    store.materialize_incremental(datetime.now(UTC))
    before = ask(store, 1)[0]["sold_day"]
    frame = pd.read_parquet(repo / "data" / "sales.parquet")
    late = sales((10, 1, 600, 0, 60.0)).assign(known=pd.Timestamp.now(tz="UTC"))
    write(repo, pd.concat([frame, late], ignore_index=True))
    store.materialize_incremental(datetime.now(UTC))
    store.materialize_incremental(datetime.now(UTC))
    assert ask(store, 1)[0]["sold_day"] == [before[0] + 1]


def test_pushed_raw_events_are_counted_once(repo: Path, store: FeatureStore) -> None:
    """`push` takes raw events of a windowed view, the same event twice counts once, and materializing it adds nothing."""
    events = sales((20, 5, 3, 3, 1.0), (21, 5, 2, 2, 3.0))
    store.push("sales_push", events)
    store.push("sales_push", events.iloc[1:])
    assert ask(store, 5)[0]["sold_hour"] == [2]
    frame = pd.read_parquet(repo / "data" / "sales.parquet")
    write(repo, pd.concat([frame, events], ignore_index=True))
    store.materialize(NOW - timedelta(days=100), datetime.now(UTC))
    values = ask(store, 5)[0]
    assert (values["sold_hour"], values["amount_day"]) == ([2], [2.0])


def test_reader_and_feast_agree(repo: Path, store: FeatureStore) -> None:
    """Asof's reader, from the compiled contract, gives what Feast's API gives."""
    opened = Repo.open(repo)
    reader = Reader(opened.contract("shops"), opened.settings.online)
    assert reader.check() == []
    found = reader.read({"shop_id": [1, 2, 5]}, np.full(3, int(datetime.now(UTC).timestamp() * 1e6)))
    values = ask(store, 1, 2, 5)[0]
    assert found.column("turnover", "sold_day").tolist() == values["sold_day"]
    assert found.column("profile", "city") == values["city"]


def test_feature_server_pushes_and_reads(repo: Path) -> None:
    """Feast's feature server, what `feast serve` runs, takes raw events at /push and counts them at /get-online-features."""
    from feast.feature_server import get_app
    from starlette.testclient import TestClient

    event = sales((31, 7, 1, 1, 8.0)).astype({"sold": str, "known": str}).to_dict("list")
    with TestClient(get_app(FeatureStore(repo_path=str(repo)))) as client:
        pushed = client.post("/push", json={"push_source_name": "sales_push", "df": event, "to": "online"})
        assert pushed.status_code == 200, pushed.text
        asked = {"feature_service": "shops", "entities": {"shop_id": [7, 99]}}
        answer = client.post("/get-online-features", json=asked).json()
    place = answer["metadata"]["feature_names"].index("sold_day")
    assert answer["results"][place]["values"] == [1, 0]
    assert answer["results"][place]["statuses"] == ["PRESENT", "NOT_FOUND"]


def test_removing_a_view_removes_its_values_only(repo: Path) -> None:
    """After a view is deleted from the definitions, apply deletes what was stored of it and nothing else."""
    server = EmbeddedRedis(repo / "data" / "redis")
    store = FeatureStore(repo_path=str(repo))
    store.materialize(NOW - timedelta(days=100), datetime.now(UTC))
    assert ask(store, 1)[0]["city"] == ["Oslo"]
    text = (repo / "definitions.py").read_text()
    service = 'service = FeatureService(name="shops", features=[profile])'
    (repo / "definitions.py").write_text(text.split("turnover =")[0] + service)
    sys.modules.pop("definitions", None)
    feast("apply")
    with redis.Redis(unix_socket_path=server.socket) as client:
        fields = {f for key in client.scan_iter("asof/shops/*") for f in client.hkeys(key)}
    assert fields == {b"profile"}
    store = FeatureStore(repo_path=str(repo))
    assert ask(store, 1)[0]["city"] == ["Oslo"]
