"""Kill -9 of the writer and of redis-server at random moments: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.online import Reader, Writer
from asof.online.codec import events
from asof.online.codec.layouts import field_of
from asof.online.redis.server import EmbeddedRedis
from asof.online.redis.store import RedisStore
from asof.settings import OnlineSettings

MOMENTS = int(os.environ.get("ASOF_LAW_CRASHES", "3"))
T, DAY, HALF_HOUR, KEYS = 1_700_000_000_000_000, 86_400_000_000, 1_800_000_000, 40
SETTLED = 60
"""Batches after which events begin to be compacted."""
SOURCE = Source("sales", "sales", "parquet", "ts", None, event_id="id")
KEY = JoinKey("key", "key", "int64")
COUNTS = View(
    "counts", "counts", (KEY,), (Field("n", "int64"),), 0, SOURCE, (Aggregation("n", "batch", "count", 300 * DAY),)
)
TILED = replace(COUNTS, name="tiled", alias="tiled", hop=DAY)
LATEST = View("latest", "latest", (KEY,), (Field("batch", "int64"), Field("text", "string")), 0, SOURCE)
CONTRACT = Contract("crash", "all", (Feature("n", "counts", "n", "int64"), Feature("m", "tiled", "n", "int64"), Feature("batch", "latest", "batch", "int64"), Feature("text", "latest", "text", "string")), (COUNTS, TILED, LATEST))  # fmt: skip


def batch(number: int) -> pa.Table:
    """One event for each key."""
    return pa.table({
        "key": np.arange(KEYS), "id": np.arange(KEYS) + number * KEYS, "batch": np.full(KEYS, number), "text": [f"t{number}"] * KEYS,
        "ts": pa.array(np.full(KEYS, T + number * HALF_HOUR)).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip


def write_for_ever(socket: str, acknowledged: Path) -> None:
    """Write batch after batch, note each one that was acknowledged, start again after the last note."""
    settings = OnlineSettings("embedded", Path("unused"), retries=30, read_timeout=5)
    events.COMPACT_EVERY = 4
    writer = Writer("crash", RedisStore(settings, redis.Redis(unix_socket_path=socket)))
    number = len(acknowledged.read_bytes()) if acknowledged.exists() else 0
    with acknowledged.open("ab", buffering=0) as notes:
        while True:
            for view in (COUNTS, TILED, LATEST):
                writer.write(view, batch(number))
            notes.write(b"x")
            number += 1


@pytest.fixture
def synced(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that syncs every write before it acknowledges it."""
    server = EmbeddedRedis(tmp_path / "redis", fsync="always")
    server.start()
    yield server
    server.stop()


def start_writer(server: EmbeddedRedis, notes: Path) -> BaseProcess:
    """A writer of its own process, forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.laws.test_online_crashes"])
    process = context.Process(target=write_for_ever, args=(server.socket, notes), daemon=True)
    process.start()
    return process


def check(server: EmbeddedRedis, notes: Path) -> int:
    """Every acknowledged batch is in the store once; of the one under way, each key has all or nothing."""
    acknowledged = len(notes.read_bytes()) if notes.exists() else 0
    settings = OnlineSettings("embedded", server.folder)
    reader = Reader(CONTRACT, settings)
    found = reader.read({"key": list(range(KEYS))}, np.full(KEYS, T + 200 * DAY))
    (layout,) = [x for x in reader.store.layouts("crash").values() if x.kind == "buckets"]
    merged = reader.store.fetch("crash", [([b"asof/crash/key/0"], [field_of(layout)])]).values[0][0][0]
    assert merged is not None, "nothing was compacted yet"
    counts = found.column("counts", "n")
    tiled = found.column("tiled", "n")
    assert set(np.unique([counts, tiled])) <= {acknowledged, acknowledged + 1}
    assert (tiled <= counts).all()
    latest, texts = found.column("latest", "batch"), found.column("latest", "text")
    for count, number, text in zip(counts, latest, texts, strict=True):
        assert text == (None if np.isnan(number) else f"t{int(number)}")
        assert acknowledged - 1 <= (-1 if np.isnan(number) else number) <= count - 1
    return acknowledged


def end(writer: BaseProcess) -> None:
    """Kill -9."""
    writer.kill()
    writer.join()
    writer.close()


def test_killed_writers(synced: EmbeddedRedis, tmp_path: Path) -> None:
    """After the writer is killed at any moment, what it had noted as written is stored once, and the next one goes on."""
    rng, notes, before = random.Random(1), tmp_path / "notes", SETTLED
    for _ in range(MOMENTS):
        writer = start_writer(synced, notes)
        wait_for_progress(notes, before)
        time.sleep(rng.uniform(0, 0.05))
        end(writer)
        before = check(synced, notes)
    assert before >= SETTLED + MOMENTS


def test_killed_servers(synced: EmbeddedRedis, tmp_path: Path) -> None:
    """After redis-server is killed at any moment and started again, nothing acknowledged is lost, nothing counted twice."""
    rng, notes, before = random.Random(2), tmp_path / "notes", SETTLED
    writer = start_writer(synced, notes)
    try:
        for _ in range(MOMENTS):
            wait_for_progress(notes, before)
            time.sleep(rng.uniform(0, 0.05))
            os.kill(int((synced.folder / "redis.pid").read_text()), signal.SIGKILL)
            os.kill(writer.pid or 0, signal.SIGSTOP)
            while synced.status().running:
                time.sleep(0.005)
            synced.start()
            before = check(synced, notes)
            os.kill(writer.pid, signal.SIGCONT)
    finally:
        end(writer)
    assert before >= SETTLED + MOMENTS


def wait_for_progress(notes: Path, before: int) -> None:
    deadline = time.monotonic() + 60
    while not notes.exists() or len(notes.read_bytes()) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.005)
