"""The law of views with a hop: events that became part of buckets count as they did before, each once, at every read time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asof.contract import Aggregation, Contract, Feature, Field, View
from asof.errors import OnlineStoreError
from asof.online import MemoryStore, Reader, Writer
from asof.online.codec.buckets import unpack
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import field_of
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings
from tests.laws.test_online import START, STORES, TEXTS, TICK, Row, expected, same, table, windowed
from tests.online import servers

HISTORIES = int(os.environ.get("ASOF_LAW_HISTORIES", "300")) // 10
LENGTH = 160 * TICK
VIEWS = (
    windowed("numbers", hop=4 * TICK), windowed("texts", hop=4 * TICK, functions=TEXTS, column="s"),
    windowed("uneven", hop=3 * TICK, ttl=5 * TICK),
)  # fmt: skip
WIDER = tuple(
    replace(view, aggregations=tuple(replace(a, window=8 * a.window) for a in view.aggregations)) for view in VIEWS
)


def contract(*views: View) -> Contract:
    features = tuple(Feature(f"{v.name}_{f.name}", v.name, f.name, f.dtype) for v in views for f in v.features)
    return Contract("laws", "all", features, views)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineSettings]:
    """A real server for the whole module."""
    folder = tmp_path_factory.mktemp("laws") / "redis"
    yield OnlineSettings("embedded", Path(folder))
    EmbeddedRedis(folder).stop()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, server: OnlineSettings) -> Any:
    """Each store, empty."""
    if request.param == "memory":
        return MemoryStore()
    Writer("laws", server).drop_project()
    return server


def busy(rng: random.Random, key: int) -> list[Row]:
    """A key with many events, in bursts, some of them late by up to the whole history."""
    rows, at = [], START
    for number in range(rng.choice([5, 80, 300])):
        at += rng.choice([0, 1, TICK // 9, TICK // 3, TICK])
        kt = rng.choice([None, at, at + rng.randrange(TICK), at + rng.randrange(LENGTH)])
        x = rng.choice([None, float("nan"), rng.uniform(-9, 9), 1.5, 1e9])
        rows.append(Row(key, 1000 * key + number, at, kt, x, rng.choice([None, "", "a", "ü", "zz"]), None))
    return list({r.age[:2]: r for r in rows}.values())


def write(store: Any, views: tuple[View, ...], rows: list[Row], now: int, writers: int = 1) -> None:
    """Write rows to some views, from several writers at once, in batches of any size."""

    def one(share: list[Row]) -> None:
        writer = Writer("laws", store)
        for start in range(0, len(share), 37):
            for view in views:
                writer.write(view, table(share[start : start + 37]), now=now)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(one, [rows[i::writers] for i in range(writers)]))


def wrong(
    store: Any, views: tuple[View, ...], histories: dict[int, list[Row]], asked: list[tuple[int, int]]
) -> list[str]:
    """Every value that differs from the definition."""
    reader = Reader(contract(*views), store)
    found = reader.read({"key": [k for k, _ in asked]}, np.array([t for _, t in asked]))
    listed = []
    for view in views:
        for row, (key, t) in enumerate(asked):
            for name, value in expected(view, histories.get(key, []), t)[0].items():
                got = found.column(view.alias, name)[row]
                if not same(got, value):
                    listed.append(f"{view.name}:{name} of {key} at {t - START}: got {got!r}, expected {value!r}")
    return listed


def held(store: Any, view: View, keys: range) -> tuple[int, int, int]:
    """How many buckets some keys have, how many events are in them, and the bytes of all values of the view."""
    reader = Reader(contract(view), store)
    known = [x for x in reader.store.layouts("laws").values() if x.view == view.name]
    names = [b"asof/laws/key/%d" % key for key in keys]
    found = reader.store.fetch("laws", [(names, [field_of(x) for x in known])]).values[0]
    merged = [unpack(x, [fields[i] for fields in found]) for i, x in enumerate(known) if x.kind == "buckets"]
    size = sum(len(value or b"") for fields in found for value in fields)
    return sum(len(m.start) for m in merged), sum(len(m.ids) for m in merged), size


@pytest.mark.parametrize("writers", [1, 4])
def test_busy_keys_equal_the_definition(store: Any, writers: int) -> None:
    """While a clock runs, events come late, out of order, twice and again after they were merged; each read that is exact is right."""
    rng = random.Random(writers)
    histories = {key: busy(rng, key) for key in range(HISTORIES)}
    waiting = sorted((row for rows in histories.values() for row in rows), key=lambda r: r.known)
    come: list[Row] = []
    seen: dict[int, list[Row]] = {}
    slack = min(Pruning.of(view).slack for view in WIDER)
    for now in range(START, START + LENGTH, LENGTH // 8):
        due = [row for row in waiting if row.known <= now]
        waiting = waiting[len(due) :]
        come += due
        for row in due:
            seen.setdefault(row.key, []).append(row)
        deliveries = due + rng.sample(come, min(len(come), 40))
        rng.shuffle(deliveries)
        write(store, WIDER, deliveries, now, writers)
        asked = [(key, now + rng.choice([-slack, -slack // 2, 0, 1, 5 * TICK])) for key in range(HISTORIES)]
        assert wrong(store, WIDER, seen, asked) == []
    buckets, merged, _ = held(store, WIDER[0], range(HISTORIES))
    assert merged > 5 * buckets > 0


def test_a_merged_key_is_small(store: Any) -> None:
    """A window of 1,000 events takes less than half of the bytes that it takes without a hop."""
    span = 960 * TICK
    tiled = replace(WIDER[0], name="tiled", alias="tiled", hop=40 * TICK, aggregations=(Aggregation("sum", "x", "sum", span),), features=(Field("sum", "float64"),))  # fmt: skip
    single = replace(tiled, name="single", alias="single", hop=1)
    rows = [Row(1, i, START + i * span // 1000, None, float(i), "a", 1) for i in range(1500)]
    for view in (tiled, single):
        write(store, (view,), rows, rows[-1].ts)
    assert 2 * held(store, tiled, range(1, 2))[2] < held(store, single, range(1, 2))[2]


def test_events_from_before_there_were_buckets(store: Any) -> None:
    """Events that were written while the view had no hop count as they are, and are merged when the key is written again."""
    view, rng = WIDER[0], random.Random(5)
    before = replace(view, hop=1)
    rows = [Row(1, i, START + i * TICK // 5, None, rng.uniform(0, 9), "a", 1) for i in range(200)]
    now = rows[129].ts
    write(store, (before,), rows[:130], now)
    assert wrong(store, (view,), {1: rows[:130]}, [(1, now), (1, now + 3 * TICK)]) == []
    now = rows[-1].ts
    write(store, (view,), rows[100:], now)
    assert held(store, view, range(1, 2))[1] > 50
    assert wrong(store, (view,), {1: rows}, [(1, now), (1, now + 3 * TICK)]) == []


def test_a_hop_that_changes(store: Any) -> None:
    """Buckets of a hop that divides the new one go on counting; others are forgotten when a key is written and filled again."""
    rng, fine = random.Random(6), WIDER[0]
    coarse, odd = replace(fine, hop=12 * TICK), replace(fine, hop=5 * TICK)
    rows = [Row(1, i, START + i * TICK // 5, None, rng.uniform(0, 9), "a", 1) for i in range(400)]
    now = rows[-1].ts
    asked = [(1, now), (1, now + 3 * TICK)]
    write(store, (fine,), rows[:300], now)
    write(store, (coarse,), rows[150:], now)
    assert wrong(store, (coarse,), {1: rows}, asked) == []
    for view in (odd, fine, odd):
        write(store, (view,), rows, now)
        assert wrong(store, (view,), {1: rows}, asked) == []


def test_a_function_that_is_new(store: Any) -> None:
    """A new function over a column that was kept is exact at once; new distinct values are missing until all are known."""
    rng = random.Random(7)
    whole = WIDER[0]
    old = replace(whole, aggregations=tuple(a for a in whole.aggregations if a.function == "sum"))
    old = replace(old, features=tuple(whole.feature(a.name) for a in old.aggregations))
    rows = [Row(1, i, START + i * TICK // 5, None, rng.uniform(0, 9), "a", 1) for i in range(800)]
    now = rows[399].ts
    write(store, (old,), rows[:400], now)
    found = Reader(contract(whole), store).read({"key": [1]}, np.array([now]))
    for name, value in expected(whole, rows[:400], now)[0].items():
        got = found.column(whole.alias, name)[0]
        assert np.isnan(got) if name.startswith("count_distinct") else same(got, value), name
    write(store, (whole,), rows[400:], rows[-1].ts)
    assert wrong(store, (whole,), {1: rows}, [(1, rows[-1].ts)]) == []


def test_all_values_of_a_key_are_bounded(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets and single events together may not pass the limit; the key stays as it was, and other keys are written."""
    monkeypatch.setattr("asof.online.codec.events.LIMIT", 12_000)
    view = WIDER[0]
    rows = [Row(1, i, START + i * TICK // 20, None, 1.0, "a", 1) for i in range(600)]
    write(store, (view,), rows, rows[-1].ts)
    size = held(store, view, range(1, 2))[2]
    more = [Row(1, 1000 + i, rows[-1].ts + i, None, 1.0, "a", 1) for i in range(300)]
    with pytest.raises(OnlineStoreError, match="view 'numbers': the largest window of 1 key has more events"):
        Writer("laws", store).write(
            view, pa.concat_tables([table(more), table([replace(more[0], key=2)])]), now=more[-1].ts
        )
    assert 5_000 < held(store, view, range(1, 2))[2] == size < 12_000
    assert wrong(store, (view,), {1: rows, 2: [replace(more[0], key=2)]}, [(1, more[-1].ts), (2, more[-1].ts)]) == []


def test_a_column_that_is_new(store: Any) -> None:
    """When the view aggregates another column, what was merged before goes on counting for the old one, each event once."""
    rng, before = random.Random(8), WIDER[0]
    of_n = Aggregation("of_n", "n", "sum", before.aggregations[0].window)
    after = replace(
        before, aggregations=(*before.aggregations, of_n), features=(*before.features, Field("of_n", "float64"))
    )
    rows = [Row(1, i, START + i * TICK // 9, None, rng.uniform(0, 9), "a", 3) for i in range(700)]
    write(store, (before,), rows[:400], rows[399].ts)
    write(store, (after,), rows[350:], rows[-1].ts)
    asked = [(1, rows[-1].ts), (1, rows[-1].ts + 3 * TICK)]
    assert wrong(store, (before,), {1: rows}, asked) == []
    later = [replace(row, id=row.id + 1000, ts=row.ts + LENGTH) for row in rows]
    write(store, (after,), later, later[-1].ts)
    assert wrong(store, (after,), {1: rows + later}, [(1, later[-1].ts)]) == []
    reader = Reader(contract(after), store)
    known = [x for x in reader.store.layouts("laws").values() if x.view == after.name]
    left = reader.store.fetch("laws", [([b"asof/laws/key/1"], [field_of(x) for x in known])]).values[0][0]
    assert [x.kind for x, value in zip(known, left, strict=True) if value is not None] == ["events", "buckets"]


def test_a_cluster(tmp_path: Path) -> None:
    """On a real cluster of three nodes events are merged as well, key by key, and read right."""
    with servers.cluster(tmp_path) as ports:
        given = OnlineSettings(servers.addresses(ports), tmp_path, redis_type="redis_cluster")
        rng = random.Random(9)
        histories = {key: busy(rng, key) for key in range(8)}
        rows = [row for history in histories.values() for row in history]
        now = max(row.ts for row in rows)
        write(given, WIDER, rows + rows[::3], now, 2)
        assert wrong(given, WIDER, histories, [(key, now) for key in histories]) == []
        assert held(given, WIDER[0], range(8))[0] > 0
