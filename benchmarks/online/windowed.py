"""What reads and writes of windowed views cost, by the number of events and by hop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import redis

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.online import Reader, Writer
from benchmarks.online.figures import Figure, timed
from benchmarks.online.world import NOW, settings


def windows(address: str) -> Iterator[Figure]:
    """Reads of windowed views: 12 features over 1, 7 and 30 days, by the number of events in the largest window."""
    day, functions = 86_400_000_000, ("count", "mean", "max", "std")
    spans = tuple(Aggregation(f"{f}_{d}", "amount", f, d * day) for d in (1, 7, 30) for f in functions)  # type: ignore[arg-type]
    source = Source("sales", "sales", "parquet", "ts", None, event_id="id")
    key = JoinKey("key", "key", "int64")
    rng, end = np.random.default_rng(1), int(NOW.timestamp()) * 1_000_000
    for events in (10, 100, 1000):
        view = View(
            f"w{events}", f"w{events}", (key,), tuple(Field(a.name, "float64") for a in spans), 0, source, spans
        )
        total = events * 100
        table = pa.table({
            "key": np.repeat(np.arange(100), events), "id": np.arange(total), "amount": rng.random(total),
            "ts": pa.array(end - rng.integers(0, 30 * day, total)).cast(pa.timestamp("us", "UTC")),
        })  # fmt: skip
        writer = Writer("windows", settings(address))
        began = time.perf_counter()
        writer.write(view, table)
        taken = time.perf_counter() - began
        yield Figure.of("write events, events/s", f"{events} events a key", "asof", [total / taken])
        features = tuple(Feature(f.name, view.alias, f.name, f.dtype) for f in view.features)
        reader = Reader(Contract("windows", "all", features, (view,)), settings(address))
        for keys in (1, 100):
            call = partial(reader.read, {"key": list(range(keys))}, np.full(keys, end))
            yield timed("windowed read, ms", f"{keys} keys x {events} events", "asof reader", call)


def hops(address: str, port: int) -> Iterator[Figure]:
    """What a hop saves where a key has 1,000 events in 30 days: bytes of a key, and reads of 100."""
    day, functions, events = 86_400_000_000, ("count", "mean", "max", "std"), 1000
    spans = tuple(Aggregation(f"{f}_{d}", "amount", f, d * day) for d in (1, 7, 30) for f in functions)  # type: ignore[arg-type]
    fields, key = tuple(Field(a.name, "float64") for a in spans), (JoinKey("key", "key", "int64"),)
    source = Source("sales", "sales", "parquet", "ts", None, event_id="id")
    rng, end, total = np.random.default_rng(1), int(NOW.timestamp()) * 1_000_000, 1000 * 100
    table = pa.table({
        "key": np.repeat(np.arange(100), events), "id": np.arange(total), "amount": rng.random(total),
        "ts": pa.array(end - rng.integers(0, 30 * day, total)).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip
    for name, hop in (("no hop", 1), ("hop of 6 hours", day // 4), ("hop of a day", day)):
        view = View("hops", "hops", key, fields, 0, source, spans, hop)
        writer, client = Writer(name, settings(address)), redis.Redis(port=port)
        writer.write(view, table)
        place = f"asof/{quote(name)}/key/"
        sizes = [client.memory_usage(f"{place}{i}", samples=0) for i in range(100)]
        yield Figure.of(
            "windowed key, bytes", f"{events} events, {name}", "asof", [statistics.mean(s or 0 for s in sizes)]
        )
        features = tuple(Feature(f.name, view.alias, f.name, f.dtype) for f in view.features)
        reader = Reader(Contract(name, "all", features, (view,)), settings(address))
        for keys in (1, 100):
            call = partial(reader.read, {"key": list(range(keys))}, np.full(keys, end))
            yield timed("windowed read, ms", f"{keys} keys x {events} events, {name}", "asof reader", call)
