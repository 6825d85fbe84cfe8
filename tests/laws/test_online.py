"""The law of the online store: whatever came in, in whatever order, from however many writers, a read equals the definition.

A history is what happened to one key. The oracle below knows nothing of stores: it takes the distinct rows and applies the
words of the definition to them, one question at a time.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asof.contract import WINDOW_FUNCTIONS, Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.online import MemoryStore, Reader, Status, Writer
from asof.online.codec.buckets import unpack
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import field_of
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings

HISTORIES = int(os.environ.get("ASOF_LAW_HISTORIES", "300"))
TICK = 600_000_000
START = 1_600_000_000_000_000
NUMBERS: tuple[Any, ...] = ("count", "sum", "mean", "min", "max", "std", "var", "last", "count_distinct")
TEXTS: tuple[Any, ...] = ("count", "min", "max", "last", "count_distinct")
KEY = JoinKey("key", "key", "int64")
SOURCE = Source("events", "events", "parquet", "ts", "kt", event_id="id")
STORES = ["memory", "redis"]


def windowed(name: str, *, hop: int = 1, ttl: int = 0, functions: tuple[Any, ...] = NUMBERS, column: str = "x") -> View:
    windows = [Aggregation(f"{f}_{w}", column, f, w * TICK) for f in functions for w in (2, 5)]
    dtype = "string" if column == "s" else "float64"
    types = {"count": "int64", "count_distinct": "int64", "min": dtype, "max": dtype, "last": dtype}
    fields = tuple(Field(a.name, types.get(a.function, "float64")) for a in windows)
    return View(name, name, (KEY,), fields, ttl, SOURCE, tuple(windows), hop)


def plain(name: str, ttl: int = 0) -> View:
    return View(name, name, (KEY,), (Field("x", "float64"), Field("s", "string"), Field("n", "int64")), ttl, SOURCE)


VIEWS = (
    plain("rows"), plain("fresh", 3 * TICK), windowed("spans"), windowed("tiled", hop=TICK), windowed("young", ttl=TICK),
    windowed("words", functions=TEXTS, column="s"), windowed("tiles", hop=TICK * 3 // 2, ttl=2 * TICK),
    windowed("tiled_words", hop=TICK // 2, functions=TEXTS, column="s"),
)  # fmt: skip
CONTRACT = Contract(
    "laws",
    "all",
    tuple(Feature(f"{v.name}_{f.name}", v.name, f.name, f.dtype) for v in VIEWS for f in v.features),
    VIEWS,
)


@dataclass(frozen=True)
class Row:
    """One delivered event."""

    key: int
    id: int
    ts: int
    kt: int | None
    x: float | None
    s: str | None
    n: int | None

    @property
    def known(self) -> int:
        """From when on it is known."""
        return max(self.ts, self.ts if self.kt is None else self.kt)

    @property
    def age(self) -> tuple[int, int, int]:
        """What decides which of two rows is newer."""
        return self.ts, self.ts if self.kt is None else self.kt, self.id


def history(rng: random.Random, key: int) -> list[Row]:
    """Few moments (so that ties of event time abound), late and future rows, missing values; no two rows of one age."""
    rows = []
    for number in range(rng.randint(0, 14)):
        ts = START + rng.randint(0, 12) * TICK // rng.choice([1, 1, 3])
        kt = None if rng.random() < 0.2 else ts + rng.choice([0, 1, number + 2, TICK + number, 4 * TICK + number])
        x = rng.choice([None, float("nan"), rng.uniform(-9, 9), 1.5, 1e9])
        rows.append(
            Row(key, 1000 * key + number, ts, kt, x, rng.choice([None, "", "a", "ü", "zz"]), rng.choice([None, 3]))
        )
    return list({r.age[:2]: r for r in rows}.values())


def table(rows: list[Row]) -> pa.Table:
    moment = pa.timestamp("us", "UTC")
    return pa.table({
        "key": pa.array([r.key for r in rows], pa.int64()), "id": pa.array([r.id for r in rows], pa.int64()),
        "ts": pa.array([r.ts for r in rows], pa.int64()).cast(moment), "kt": pa.array([r.kt for r in rows], pa.int64()).cast(moment),
        "x": pa.array([r.x for r in rows], pa.float64()), "s": pa.array([r.s for r in rows], pa.string()),
        "n": pa.array([r.n for r in rows], pa.int64()),
    })  # fmt: skip


def expected(view: View, rows: list[Row], t: int) -> tuple[dict[str, Any], Status | None]:
    """The values of all features of one key at ``t``; the status of the whole where it has one."""
    known = [r for r in rows if r.known <= t]
    newest = max(known, key=lambda r: r.age, default=None)
    if newest is None:
        return {f.name: _nothing(view, f.name) for f in view.features}, Status.NOT_FOUND
    if view.ttl and t - newest.ts > view.ttl:
        return dict.fromkeys([f.name for f in view.features]), Status.OUTSIDE_MAX_AGE
    if not view.windowed:
        return {"x": newest.x, "s": newest.s, "n": newest.n}, None
    return {a.name: _window(view, a, known, t) for a in view.aggregations}, None


def _nothing(view: View, name: str) -> Any:
    function = next((a.function for a in view.aggregations if a.name == name), None)
    return 0 if function in ("count", "sum", "count_distinct") else None


def _window(view: View, aggregation: Aggregation, known: list[Row], t: int) -> Any:
    inside = [r for r in known if r.ts // view.hop > (t - aggregation.window) // view.hop]
    held = [(r.age, getattr(r, aggregation.column)) for r in inside]
    held = [(age, v) for age, v in held if v is not None and v == v]
    values, function = [v for _, v in held], aggregation.function
    if function in ("count", "count_distinct"):
        return len(values if function == "count" else set(values))
    if function == "sum":
        return math.fsum(values)
    if not values or (function in ("std", "var") and len(values) < 2):
        return None
    if function in ("min", "max", "last"):
        return {"min": min(values), "max": max(values), "last": max(held)[1]}[function]
    mean = math.fsum(values) / len(values)
    if function == "mean":
        return mean
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return variance if function == "var" else math.sqrt(variance)


def same(got: Any, wanted: Any) -> bool:
    if wanted is None or wanted != wanted:
        return got is None or got != got
    if isinstance(wanted, float):
        return math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-9 * max(1.0, abs(wanted)))
    return bool(got == wanted)


@pytest.fixture(scope="module")
def redis_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineSettings]:
    """A real server for the whole module."""
    folder = tmp_path_factory.mktemp("laws") / "redis"
    yield OnlineSettings("embedded", Path(folder))
    EmbeddedRedis(folder).stop()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are compacted into buckets as early as allowed, however few they are."""
    monkeypatch.setattr("asof.online.codec.events.COMPACT_EVERY", 2)
    monkeypatch.setattr("asof.online.compaction._min_events", lambda *_: 1)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, redis_settings: OnlineSettings) -> Any:
    """Each store, empty."""
    if request.param == "memory":
        return MemoryStore()
    Writer("laws", redis_settings).drop_project()
    return redis_settings


def deliver(store: Any, deliveries: list[Row], now: int, writers: int) -> None:
    """Write every delivery to every view, from several writers at once, in small batches."""

    def one(share: list[Row]) -> None:
        writer = Writer("laws", store)
        for start in range(0, len(share), 97):
            for view in VIEWS:
                writer.write(view, table(share[start : start + 97]), now=now)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(one, [deliveries[i::writers] for i in range(writers)]))


def mismatches(
    store: Any, histories: dict[int, list[Row]], questions: list[tuple[int, int]], views: tuple[View, ...] = VIEWS
) -> list[str]:
    """Every value of every question that the store answers differently from the definition."""
    found = Reader(CONTRACT, store).read({"key": [k for k, _ in questions]}, np.array([t for _, t in questions]))
    wrong = []
    for view in views:
        columns = {f.name: found.column(view.alias, f.name) for f in view.features}
        statuses = {f.name: found.statuses[:, found.columns.index((view.alias, f.name))] for f in view.features}
        for row, (key, t) in enumerate(questions):
            values, status = expected(view, histories.get(key, []), t)
            for name, wanted in values.items():
                got, said = columns[name][row], Status(statuses[name][row])
                missing = wanted is None or wanted != wanted
                meant = status if status is not None else Status.NULL if missing else Status.PRESENT
                if not same(got, wanted) or said != meant:
                    wrong.append(
                        f"{view.name}:{name} of {key} at {t - START}: got {got!r} {said!r}, expected {wanted!r} {meant!r}"
                    )
    return wrong


@pytest.mark.parametrize("writers", [1, 4])
def test_reads_equal_the_definition(store: Any, writers: int) -> None:
    """Rows out of order, late, not yet known, delivered twice, by concurrent writers, read later, give the defined values."""
    rng = random.Random(writers)
    histories = {key: history(rng, key) for key in range(HISTORIES)}
    deliveries = [row for rows in histories.values() for row in rows for _ in range(rng.choice([1, 1, 2, 3]))]
    rng.shuffle(deliveries)
    now = START + 6 * TICK
    deliver(store, deliveries, now, writers)
    questions = [(key, now + rng.randint(0, 14) * TICK // 2) for key in range(HISTORIES + 5) for _ in range(3)]
    assert mismatches(store, histories, questions) == []
    assert buckets_held(store) > HISTORIES // 2


def buckets_held(store: Any) -> int:
    """How many buckets the first keys have."""
    known = [x for x in Reader(CONTRACT, store).store.layouts("laws").values() if x.kind == "buckets"]
    keys = [b"asof/laws/key/%d" % key for key in range(min(HISTORIES, 1000))]
    found = Reader(CONTRACT, store).store.fetch("laws", [(keys, [field_of(x) for x in known])]).values[0]
    return sum(len(unpack(x, [fields[i] for fields in found]).start) for i, x in enumerate(known))


def test_reads_follow_a_clock_that_moves(store: Any) -> None:
    """While rows keep coming in as they become known, every read at the present equals the definition."""
    rng = random.Random(7)
    histories = {key: history(rng, key) for key in range(60)}
    waiting = sorted((row for rows in histories.values() for row in rows), key=lambda r: r.known)
    seen: dict[int, list[Row]] = {}
    for tick in range(18):
        now = START + tick * TICK
        due = [row for row in waiting if row.known <= now]
        waiting = [row for row in waiting if row.known > now]
        rng.shuffle(due)
        for row in due:
            seen.setdefault(row.key, []).append(row)
        deliver(store, due, now, 1)
        assert mismatches(store, seen, [(key, now) for key in range(60)]) == []


def test_forgetting_keeps_every_read_within_the_slack(store: Any) -> None:
    """After events left the largest window they are gone from the store; reads as far back as the slack stay exact."""
    view = VIEWS[2]
    slack, rng = Pruning.of(view).slack, random.Random(3)
    rows = [Row(1, i, START + i * TICK // 4, None, rng.uniform(0, 9), "a", 1) for i in range(200)]
    now = rows[-1].ts
    deliver(store, rows, now, 1)
    questions = [(1, now - slack), (1, now - slack // 2), (1, now), (1, now + 3 * TICK), (1, now + 9 * TICK)]
    assert mismatches(store, {1: rows}, questions, VIEWS[2:]) == []
    reader = Reader(CONTRACT, store)
    fetched = reader.store.fetch("laws", [([b"asof/laws/key/1"], [b"spans#%08x" % _layout_id(reader)])])
    assert len(fetched.values[0][0][0]) < 40 * 32


def _layout_id(reader: Reader) -> int:
    return next(x.id for x in reader.store.layouts("laws").values() if x.view == "spans")


def test_functions_are_all_covered() -> None:
    """The views of these laws use every window function there is."""
    used = {a.function for v in VIEWS for a in v.aggregations}
    assert used == set(WINDOW_FUNCTIONS)
