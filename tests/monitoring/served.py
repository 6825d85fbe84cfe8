"""A small model that was served: a contract, a bundle with a reference, and a prediction log, all made from seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asof import bundle, prediction_log
from asof.bundle import Bundle
from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, OnDemandView, Source, View
from asof.instants import DAY, parse_moment
from asof.monitoring.observed import Log
from asof.statistics import profiles
from asof.statistics.reference import reference

MODEL = "shop"
START = parse_moment("2024-05-06")
KEYS = 2_000

SPENDING = View(
    name="spending",
    alias="spending",
    join_keys=(JoinKey("customer_id", "customer_id", "int64"),),
    features=(Field("count_7d", "int64"), Field("mean_7d", "float64")),
    ttl=30 * DAY,
    source=Source("orders", "orders.parquet", "parquet", "ts"),
    aggregations=(
        Aggregation("count_7d", "amount", "count", 7 * DAY),
        Aggregation("mean_7d", "amount", "mean", 7 * DAY),
    ),
)
PEOPLE = View(
    name="people",
    alias="people",
    join_keys=(JoinKey("customer_id", "customer_id", "int64"),),
    features=(Field("segment", "string"),),
    ttl=0,
    source=Source("people", "people.parquet", "parquet", "ts"),
)
CONTEXT = OnDemandView(
    name="context",
    alias="context",
    function="tests.monitoring.served:context",
    source_hash="0",
    mode="python",
    singleton=False,
    inputs=(("spending", "mean_7d"),),
    request=(Field("amount", "float64"),),
    features=(Field("ratio", "float64"), Field("big", "int64")),
)
CONTRACT = Contract(
    project="p",
    service="shop_v1",
    features=(
        Feature("count_7d", "spending", "count_7d", "int64"),
        Feature("mean_7d", "spending", "mean_7d", "float64"),
        Feature("segment", "people", "segment", "string"),
        Feature("ratio", "context", "ratio", "float64", on_demand=True),
        Feature("big", "context", "big", "int64", on_demand=True),
    ),
    views=(SPENDING, PEOPLE),
    on_demand=(CONTEXT,),
)


def context(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The on-demand function of the contract."""
    pairs = list(zip(columns["amount"], columns["mean_7d"], strict=True))
    return {"ratio": [a / m if m else None for a, m in pairs], "big": [int(a > 100) for a, _ in pairs]}


def rows(size: int, seed: int, keys: int = KEYS) -> dict[str, Any]:
    """Columns of ``size`` predictions, by the log's names; what a customer is like stays with the customer."""
    rng = np.random.default_rng(seed)
    people = np.random.default_rng(99)
    customer = rng.integers(0, keys, size)
    rate, usual, segment = (
        people.uniform(0, 4, keys),
        people.uniform(5, 100, keys),
        people.choice(["a", "b", "<i>c</i>"], keys),
    )
    count = rng.poisson(rate[customer] * 7)
    mean = np.where(count > 0, np.abs(rng.normal(usual[customer], usual[customer] / 10)), np.nan)
    amount = np.abs(rng.normal(usual[customer], usual[customer] / 2))
    given = {"amount": amount.tolist(), "mean_7d": [None if np.isnan(m) else m for m in mean]}
    computed = context(given)
    return {
        "key.customer_id": customer,
        "request.amount": amount,
        "feature.count_7d": count,
        "feature.mean_7d": pa.array(mean, from_pandas=True),
        "feature.segment": segment[customer],
        "feature.ratio": pa.array(computed["ratio"], pa.float64()),
        "feature.big": computed["big"],
        "score": rng.beta(1, 9, size),
        # Two hours a day, so that a week is few files.
        "at": START + np.sort(rng.integers(0, 14, size) * (DAY // 2) + rng.integers(0, DAY // 24, size)),
    }


def log_table(columns: dict[str, Any], version: str) -> pa.Table:
    """The columns as rows of the prediction log, with what they leave out filled in."""
    size = len(columns["at"])
    schema = prediction_log.schema(CONTRACT)
    filled: dict[str, Any] = {
        "request_id": [f"r{i}" for i in range(size)],
        "row": np.zeros(size, np.int32),
        "model": [MODEL] * size,
        "model_version": [version] * size,
        "fingerprint": [CONTRACT.fingerprint] * size,
        "served_at": columns["at"],
        "as_of": columns["at"],
        "decision": np.zeros(size, bool),
        "event_time.spending": columns["at"] - 1,
        "event_time.people": columns["at"] - 1,
        **{f"status.{name}": np.zeros(size, np.uint8) for name in CONTRACT.feature_names},
        **columns,
    }
    arrays = []
    for field in schema:
        values = filled[field.name]
        array = values if isinstance(values, pa.Array) else pa.array(values)
        arrays.append(
            array.cast(field.type) if not pa.types.is_timestamp(field.type) else array.cast(pa.int64()).cast(field.type)
        )
    return pa.Table.from_arrays(arrays, schema=schema)


def train(models: Path, size: int = 20_000, version: str = "v1", booster: str = "", **metadata: Any) -> Bundle:
    """A bundle whose reference is ``size`` rows of seed 0, with a booster if its text is given."""
    columns = rows(size, seed=0)
    features = {name: columns[f"feature.{name}"] for name in CONTRACT.feature_names}
    table = pa.table({name: log_table(columns, version)[f"feature.{name}"] for name in CONTRACT.feature_names})
    with bundle.writing(models, MODEL, version) as folder:
        if booster:
            (folder / "model.txt").write_text(booster)
        (folder / "contract.json").write_text(CONTRACT.to_json())
        made = reference(CONTRACT, features, {"score": columns["score"]}, {"customer_id": columns["key.customer_id"]})
        bundle.write_json(folder / "reference.json", made)
        (folder / "profile.bin").write_bytes(profiles.profile(table, CONTRACT))
        bundle.write_json(folder / "metadata.json", {"model": MODEL, "version": version, **metadata})
    return Bundle.find(models, MODEL, version)


def serve(predictions: Path, columns: dict[str, Any], version: str = "v1") -> None:
    """Write the columns to the prediction log."""
    prediction_log.write(predictions, MODEL, log_table(columns, version))


def log(tmp_path: Path, columns: dict[str, Any], **trained: Any) -> Log:
    """A trained model and its log of the columns, in ``tmp_path``."""
    serve(tmp_path / "predictions", columns)
    return Log(tmp_path / "predictions", train(tmp_path / "models", **trained))


def history(repo: Path, size: int = 3_000, keys: int = 60) -> pa.Table:
    """Orders and people as Parquet files in ``repo``, with the settings that make it one; returns the orders."""
    rng = np.random.default_rng(17)
    ts = START - 10 * DAY + np.sort(rng.integers(0, 17 * DAY, size))
    orders = pa.table(
        {
            "ts": pa.array(ts).cast(prediction_log.MOMENT),
            "customer_id": rng.integers(0, keys, size),
            "amount": rng.gamma(2, 30, size).round(2),
        }
    )
    early = pa.array(np.full(keys, START - 20 * DAY)).cast(prediction_log.MOMENT)
    people = pa.table({"ts": early, "customer_id": np.arange(keys), "segment": rng.choice(["a", "b"], keys)})
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text("project: p\nregistry: data/registry.db\nprovider: local\n")
    pq.write_table(orders, repo / "orders.parquet")
    pq.write_table(people, repo / "people.parquet")
    return orders


def honest(repo: Path, size: int = 400, keys: int = 60) -> dict[str, Any]:
    """Predictions whose vectors are what the definition says, found by looking at every order for every prediction."""
    orders, people = history(repo, keys=keys), pq.read_table(repo / "people.parquet")["segment"].to_pylist()
    rng = np.random.default_rng(18)
    at = START + np.sort(rng.integers(0, 14, size) * (DAY // 2) + rng.integers(0, DAY // 24, size))
    customer = rng.integers(0, keys + 3, size)
    amount = rng.gamma(2, 30, size).round(2)
    ts, who, paid = (
        orders["ts"].cast(pa.int64()).to_numpy(),
        orders["customer_id"].to_numpy(),
        orders["amount"].to_numpy(),
    )
    windows = [paid[(who == c) & (ts <= t) & (ts > t - 7 * DAY)] for c, t in zip(customer, at, strict=True)]
    means = [float(np.mean(w)) if len(w) else None for w in windows]
    computed = context({"amount": amount.tolist(), "mean_7d": means})
    return {
        "key.customer_id": customer,
        "request.amount": amount,
        "feature.count_7d": [len(w) for w in windows],
        "feature.mean_7d": pa.array(means, pa.float64()),
        "feature.segment": pa.array([people[c] if c < keys else None for c in customer], pa.string()),
        "feature.ratio": pa.array(computed["ratio"], pa.float64()),
        "feature.big": computed["big"],
        "score": rng.beta(1, 9, size),
        "at": at,
    }
