"""One repo with every kind of view, for the tests of what Feast's own stores do: couriers, customers, orders and places."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, RequestSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int32, Int64
from feast.value_type import ValueType

YAML = """\
project: universe
registry: {registry}
provider: {provider}
offline_store:
  type: asof.offline.DuckDBOfflineStore
  threads: 1
online_store:
  type: asof.online.RedisOnlineStore
  connection_string: embedded
{engine}entity_key_serialization_version: 3
"""
ENGINE = "batch_engine:\n  type: asof.engine.DuckDBComputeEngine\n"
NOW = datetime.now(UTC).replace(microsecond=0)
"""The moment of the newest rows' knowledge; Feast reads online as of now."""
COURIERS, CUSTOMERS, PLACES = (1001, 1002, 1003), (201, 202), (1, 2, 3)


@dataclass(frozen=True)
class Universe:
    """A store and the rows that its sources were made of, in the spelling of the views."""

    store: FeatureStore
    rows: dict[str, pd.DataFrame]

    @property
    def repo(self) -> Path:
        """The repo's folder."""
        return Path(str(self.store.repo_path))


def make(folder: Path, form: str, provider: str, registry: str = "data/registry.db") -> Universe:
    """The repo in ``folder``, with sources in ``form`` (parquet or delta), applied."""
    (folder / "data").mkdir(parents=True)
    engine = ENGINE if provider != "local" else ""
    (folder / "feature_store.yaml").write_text(YAML.format(provider=provider, registry=registry, engine=engine))
    store, rows = FeatureStore(repo_path=str(folder)), tables()
    for name, frame in rows.items():
        raw = frame.rename(columns={"level": "lvl", "seen_at": "seen"}) if name == "mapped" else frame
        table = pa.Table.from_pandas(raw, preserve_index=False)
        if form == "delta":
            write_deltalake(str(folder / "data" / name), table)
        else:
            pq.write_table(table, folder / "data" / f"{name}.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.apply(definitions(form))
    return Universe(store, rows)


def tables() -> dict[str, pd.DataFrame]:
    """The rows of each source; some rows of a key share an event time and differ in knowledge time."""
    random = np.random.default_rng(7)

    def frame(keys: dict[str, tuple[int, ...]], columns: dict[str, Any], each: int) -> pd.DataFrame:
        names = list(keys)
        grid = pd.MultiIndex.from_product([*keys.values(), range(each)], names=[*names, "n"]).to_frame(index=False)
        moments = [NOW - timedelta(hours=6 * (each - n)) for n in grid["n"]]
        made = grid.drop(columns="n").assign(event_timestamp=pd.to_datetime(moments, utc=True))
        made["created"] = made["event_timestamp"] + pd.Timedelta(minutes=10)
        for name, draw in columns.items():
            made[name] = draw(len(made))
        again = made.iloc[::4].assign(created=made["created"] + pd.Timedelta(minutes=1))
        return pd.concat([made, again], ignore_index=True).sample(frac=1, random_state=3, ignore_index=True)

    mapped = frame({}, {"level": lambda n: random.integers(0, 9, n)}, 1).iloc[:1]
    return {
        "couriers": frame(
            {"courier_id": COURIERS},
            {"rate": lambda n: random.random(n).astype("float32"), "trips": lambda n: random.integers(0, 50, n).astype("int32")},
            12,
        ),
        "customers": frame({"customer_id": CUSTOMERS}, {"balance": random.random}, 9),
        "pairs": frame({"courier_id": COURIERS, "customer_id": CUSTOMERS}, {"won": lambda n: random.integers(0, 2, n).astype("int32")}, 5),
        "places": frame({"place_id": PLACES}, {"warmth": lambda n: random.integers(-9, 40, n)}, 6),
        "world": frame({}, {"rides": lambda n: random.integers(0, 99, n)}, 8),
        "mapped": mapped.rename(columns={"event_timestamp": "seen_at"}).drop(columns="created"),
    }  # fmt: skip


def source(name: str, form: str, **options: Any) -> FileSource:
    """The source of one table."""
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created", **options}
    if form == "delta":
        return FileSource(name=name, path=f"data/{name}", file_format=DeltaFormat(), **times)
    return FileSource(name=name, path=f"data/{name}.parquet", **times)


def plus_hundred(inputs: pd.DataFrame) -> pd.DataFrame:
    """What a pandas function computes from stored features and the request."""
    return pd.DataFrame({"rate_plus_100": inputs["rate"] + 100, "rate_plus_extra": inputs["rate"] + inputs["extra"]})


def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    """What is computed on write."""
    return {"trips_doubled": [None if v is None else 2 * v for v in inputs["trips"]]}


def definitions(form: str) -> list[Any]:
    """All objects of the repo."""
    number = ValueType.INT64
    courier = Entity(name="courier", join_keys=["courier_id"], value_type=number)
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=number)
    place = Entity(name="place", join_keys=["place_id"], value_type=number)
    day = timedelta(days=2)
    pushed = PushSource(name="couriers_push", batch_source=source("couriers", form))
    couriers = FeatureView(
        name="couriers", entities=[courier], ttl=day, source=pushed,
        schema=[Field(name="rate", dtype=Float32), Field(name="trips", dtype=Int32), Field(name="courier_id", dtype=Int64)],
    )  # fmt: skip
    customers = FeatureView(
        name="customers", entities=[customer], ttl=day, source=source("customers", form),
        schema=[Field(name="balance", dtype=Float64)],
    )  # fmt: skip
    pairs = FeatureView(
        name="pairs", entities=[courier, customer], ttl=day, source=source("pairs", form),
        schema=[Field(name="won", dtype=Int32)],
    )  # fmt: skip
    places = FeatureView(
        name="places",
        entities=[place],
        ttl=day,
        source=source("places", form),
        schema=[Field(name="warmth", dtype=Int64)],
    )
    world = FeatureView(
        name="world", entities=[], ttl=day, source=source("world", form), schema=[Field(name="rides", dtype=Int64)]
    )
    mapping = {"lvl": "level", "seen": "seen_at"}
    mapped = FeatureView(
        name="mapped", entities=[], schema=[Field(name="level", dtype=Int64)],
        source=source("mapped", form, timestamp_field="seen_at", created_timestamp_column="", field_mapping=mapping),
    )  # fmt: skip
    for function in (plus_hundred, doubled):
        function.__module__ = __name__  # Feast's decorator renames it, and then cannot decorate it again
    extra = RequestSource(name="extra", schema=[Field(name="extra", dtype=Int32)])
    sums = on_demand_feature_view(
        sources=[couriers, extra], mode="pandas",
        schema=[Field(name="rate_plus_100", dtype=Float64), Field(name="rate_plus_extra", dtype=Float64)],
    )(plus_hundred)  # fmt: skip
    written = on_demand_feature_view(
        entities=[courier], sources=[couriers], mode="python", write_to_online_store=True,
        schema=[Field(name="trips_doubled", dtype=Int64)],
    )(doubled)  # fmt: skip
    both = FeatureService(name="sums", features=[couriers[["rate"]], sums])
    way = FeatureService(
        name="way",
        features=[
            places.with_name(name).with_join_key_map({"place_id": f"{name}_id"}) for name in ("origin", "destination")
        ],
    )
    text = Entity(name="label", join_keys=["label"], value_type=ValueType.STRING)
    views = [couriers, customers, pairs, places, world, mapped, sums, written]
    return [courier, customer, place, text, *views, both, way]


def expected(
    rows: pd.DataFrame, keys: list[str], feature: str, asked: dict[str, Any], moment: Any, ttl: timedelta
) -> Any:
    """The newest row's value by an obvious loop: greatest event time, then greatest knowledge time, none beyond the ttl."""
    time = "event_timestamp" if "event_timestamp" in rows else "seen_at"
    mine = rows[(rows[time] <= moment) & (rows[time] >= moment - ttl)]
    for key in keys:
        mine = mine[mine[key] == asked[key]]
    order = [time, "created"] if "created" in rows else [time]
    return None if mine.empty else mine.sort_values(order).iloc[-1][feature]
