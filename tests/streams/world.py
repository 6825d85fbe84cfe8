"""A small repo that streams feed, made without Feast, and what its tables and its online store say about each other.

``orders`` stamps arrival; ``visits`` brings its own knowledge time, one microsecond after its event time. Views of both hang
on two different keys, so that no event becomes visible in one step.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.contract.cache import digest
from asof.errors import OnlineStoreError
from asof.instants import DAY
from asof.offline import retrieve
from asof.online import Reader
from asof.repo import Repo
from asof.tables import delta
from asof.tables.declarations import CACHE, Declarations, _write
from asof.tables.schema import TableDeclaration

PROJECT = "streams"
MOMENT = pa.timestamp("us", "UTC")
BUYERS, SHOPS = 7, 5


def table(name: str, known: str) -> TableDeclaration:
    """A table of purchases whose knowledge time is derived by the rule ``known``."""
    columns = {
        "id": "int64 >= 0",
        "at": "timestamp",
        "buyer": "int64",
        "shop": "int64",
        "price": "float64 in 0..1000",
        "known_at": "timestamp",
    }
    tags = {"asof.id": "id", "asof.derive.known_at": known, **{f"asof.column.{n}": t for n, t in columns.items()}}
    return TableDeclaration(
        name=name,
        path=f"data/tables/{name}",
        format="delta",
        timestamp_field="at",
        knowledge_field="known_at",
        keys=("buyer", "shop"),
        push_names=(f"{name}_push",),
        tags=tags,
    )


def spans(source: str, key: str) -> View:
    """Windows over a table for one of its keys."""
    of = Source(source, f"data/tables/{source}", "delta", "at", "known_at", event_id="id", push_name=f"{source}_push")
    windows = (
        Aggregation("count_1d", "price", "count", DAY),
        Aggregation("sum_1d", "price", "sum", DAY),
        Aggregation("max_5s", "price", "max", 5_000_000),
    )
    types = ("int64", "float64", "float64")
    name = f"{source}_of_{key}"
    fields = tuple(Field(w.name, t) for w, t in zip(windows, types, strict=True))
    return View(name, name, (JoinKey(key, key, "int64"),), fields, 0, of, windows)


def newest(source: str, key: str) -> View:
    """The newest row of a table for one of its keys."""
    of = Source(source, f"data/tables/{source}", "delta", "at", "known_at", event_id="id", push_name=f"{source}_push")
    name = f"newest_{source}_of_{key}"
    return View(name, name, (JoinKey(key, key, "int64"),), (Field("id", "int64"), Field("price", "float64")), 0, of)


VIEWS = {t: (spans(t, "buyer"), spans(t, "shop"), newest(t, "buyer"), newest(t, "shop")) for t in ("orders", "visits")}
TABLES = {"orders": table("orders", "arrival"), "visits": table("visits", "at + 1 microsecond")}


def contract(*tables: str) -> Contract:
    """Everything that the views of some tables say."""
    views = tuple(v for t in tables for v in VIEWS[t])
    features = tuple(Feature(f"{v.name}_{f.name}", v.name, f.name, f.dtype) for v in views for f in v.features)
    return Contract(PROJECT, "all", features, views)


def make_repo(folder: Path, connection: str = "embedded", redis_type: str = "redis") -> Repo:
    """A repo whose registry nobody reads, because what was read from it is there already."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    form = "" if connection == "embedded" else f"redis_type: {redis_type}, "
    store = f"{{type: asof.online.RedisOnlineStore, {form}connection_string: '{connection}', read_timeout: 5}}"
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nregistry: data/registry.db\nprovider: local\nonline_store: {store}\n"
    )
    (folder / "data" / "registry.db").write_bytes(b"registry")
    repo = Repo.open(folder)
    found = Declarations(TABLES, tuple(sorted((v for vs in VIEWS.values() for v in vs), key=lambda v: v.name)))
    _write(folder / "data" / CACHE, digest(repo.settings, folder / "data" / "registry.db"), PROJECT, found)
    return repo


def events(ids: range | list[int], rng: random.Random, at: int | None = None) -> pa.Table:
    """Purchases of now (or of moments from ``at`` on, a second apart, half of them sharing one), without knowledge time."""
    start = time.time_ns() // 1_000 if at is None else at
    moments = [
        start + (i // 2) * 1_000_000 if at is not None else start - rng.randrange(2_000_000) for i, _ in enumerate(ids)
    ]
    return pa.table(
        {
            "id": pa.array(list(ids), pa.int64()),
            "at": pa.array(moments, pa.int64()).cast(MOMENT),
            "buyer": pa.array([rng.randrange(BUYERS) for _ in ids], pa.int64()),
            "shop": pa.array([rng.randrange(SHOPS) for _ in ids], pa.int64()),
            "price": pa.array([round(rng.uniform(0, 1000), 2) for _ in ids], pa.float64()),
        }
    )


def held(repo: Repo, name: str) -> pa.Table:
    """Everything that a table holds."""
    found = delta.open_table(repo.path / "data" / "tables" / name)
    return pa.table({"id": pa.array([], pa.int64())}) if found is None else delta.scan(found, delta.schema(found).names)


def once(repo: Repo, name: str, ids: set[int]) -> None:
    """The table holds exactly these ids, each once."""
    counted = Counter(held(repo, name)["id"].to_pylist())
    assert not {i: n for i, n in counted.items() if n != 1}
    assert set(counted) == ids


@dataclass
class Watcher:
    """Reads the online store as a service does and remembers what it saw."""

    repo: Repo
    tables: tuple[str, ...]
    rng: random.Random
    seen: list[tuple[dict[str, int], int, list[Any]]] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    """By how many microseconds each read was held back."""

    def __post_init__(self) -> None:
        self.contract = contract(*self.tables)
        self.reader = Reader(self.contract, self.repo.settings.online)

    def look(self, at: int | None = None, rows: int = 4) -> None:
        """One read of a few keys as of now; nothing where Redis is away."""
        keys = {
            "buyer": [self.rng.randrange(BUYERS) for _ in range(rows)],
            "shop": [self.rng.randrange(SHOPS) for _ in range(rows)],
        }
        moment = time.time_ns() // 1_000 if at is None else at
        try:
            found = self.reader.read(keys, np.full(rows, moment))
        except OnlineStoreError:
            return
        self.back += (moment - found.as_of).tolist()
        for i in range(rows):
            one = {name: values[i] for name, values in keys.items()}
            self.seen.append((one, int(found.as_of[i]), found.values[i].tolist()))

    def mismatches(self) -> list[str]:
        """What was seen and the offline store says otherwise, as of the moment that the read named."""
        if not self.seen:
            return []
        asked = pa.table(
            {
                "buyer": pa.array([k["buyer"] for k, _, _ in self.seen], pa.int64()),
                "shop": pa.array([k["shop"] for k, _, _ in self.seen], pa.int64()),
                "moment": pa.array([at for _, at, _ in self.seen], pa.int64()).cast(MOMENT),
            }
        )
        fresh = retrieve(self.contract, asked, at="moment", repo=self.repo.path)
        columns = [
            fresh[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in self.contract.feature_names
        ]
        wrong = []
        for row, (keys, at, values) in enumerate(self.seen):
            for name, served, column in zip(self.contract.feature_names, values, columns, strict=True):
                if not same(served, float(column[row])):
                    wrong.append(f"{name} of {keys} at {at}: served {served}, offline {column[row]}")
        return wrong


def same(one: float, other: float) -> bool:
    """Equal within 1e-9, or both missing."""
    return (one != one and other != other) or abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


def everything(repo: Repo, *tables: str) -> list[str]:
    """Mismatches over all keys, as of now."""
    watcher = Watcher(repo, tables, random.Random(0))
    now = time.time_ns() // 1_000
    keys = [(b, s) for b in range(BUYERS) for s in range(SHOPS)]
    found = watcher.reader.read({"buyer": [b for b, _ in keys], "shop": [s for _, s in keys]}, np.full(len(keys), now))
    assert found.as_of.tolist() == [now] * len(keys), "reads are held back although nothing is under way"
    for i, (buyer, shop) in enumerate(keys):
        watcher.seen.append(({"buyer": buyer, "shop": shop}, now, found.values[i].tolist()))
    return watcher.mismatches()


def bad(number: int) -> bytes:
    """An event that no table takes, told from the others by its number."""
    return json.dumps({"id": number, "price": -1}).encode()
