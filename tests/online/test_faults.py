"""When Redis is down, slow, full or guarded: one clear line, nothing half-written, no secret printed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from asof.errors import OnlineStoreError, SettingsError
from asof.online import AsyncReader, Reader, Writer, connect
from asof.online.redis.connections import parse
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings
from tests.online.tables import T, at, contract, plain, rows, windowed

VIEW = plain(("a", "int64"), ("b", "string"))
SPENDING = windowed(("n", "x", "count"))


def remote(address: str, **options: Any) -> OnlineSettings:
    return OnlineSettings(address, Path("unused"), **options)


def test_a_redis_that_is_down_is_one_clear_line() -> None:
    """Reads, pings and writes against an address where nothing listens say so, name it, and hide its password."""
    settings = remote("127.0.0.1:1,password=s3cret", connect_timeout=0.2, retries=1)
    for call in (
        Reader(contract(VIEW), settings).ping,
        lambda: Reader(contract(VIEW), settings).read({"key": [1]}, at(1)),
        lambda: Writer("tests", settings).write(VIEW, rows({"key": [1], "a": [1], "b": ["x"]})),
        lambda: asyncio.run(AsyncReader(contract(VIEW), settings).read({"key": [1]}, at(1))),
    ):
        with pytest.raises(
            OnlineStoreError, match=r"Redis at 127\.0\.0\.1:1,password=\*\*\* cannot be reached"
        ) as caught:
            call()
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_redis_that_does_not_answer_times_out() -> None:
    """A server that takes connections and says nothing is given up after the read time-out and the retries."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings = remote(f"127.0.0.1:{port}", read_timeout=0.1, connect_timeout=0.5, retries=1)
        with pytest.raises(OnlineStoreError, match="does not answer in time"):
            Reader(contract(VIEW), settings).read({"key": [1]}, at(1))


def test_reads_survive_a_restart(server: EmbeddedRedis) -> None:
    """A read whose connection was lost because Redis restarted is tried again and answers."""
    settings = OnlineSettings("embedded", server.folder, retries=6)
    writer, reader = Writer("tests", settings), Reader(contract(VIEW), settings)
    writer.write(VIEW, rows({"key": [1], "a": [1], "b": ["x"]}))
    assert reader.read({"key": [1]}, at(1)).values[0, 0] == 1
    os.kill(server.status().pid or 0, signal.SIGKILL)
    threading.Timer(0.1, server.start).start()
    time.sleep(0.02)
    assert reader.read({"key": [1]}, at(1)).values[0, 0] == 1
    assert writer.write(VIEW, rows({"key": [1], "a": [2], "b": ["y"]}, T + 1)) == 1


def test_a_full_redis_keeps_whole_rows_only(server: EmbeddedRedis) -> None:
    """When Redis runs out of memory the write fails with advice, every stored row is whole, and writing again succeeds."""
    settings = OnlineSettings("embedded", server.folder)
    writer, count = Writer("tests", settings), 20_000
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.config_set("maxmemory", client.info()["used_memory"] + 2_000_000)
        table = rows({"key": list(range(count)), "a": list(range(count)), "b": ["x" * 50] * count})
        with pytest.raises(OnlineStoreError, match="is full; raise its maxmemory"):
            writer.write(VIEW, table)
        found = Reader(contract(VIEW), settings).read({"key": list(range(count))}, at(count))
        present = found.statuses[:, 0] == 0
        assert 0 < present.sum() < count
        assert (found.values[present, 0] == [i for i, p in enumerate(present) if p]).all()
        assert all((b == "x" * 50) == p for b, p in zip(found.objects["profile", "b"], present, strict=True))
        client.config_set("maxmemory", 0)
    writer.write(VIEW, table)
    assert (Reader(contract(VIEW), settings).read({"key": list(range(count))}, at(count)).statuses == 0).all()


def test_a_key_with_too_many_events_is_refused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit a key's value is refused, with what to do; other keys are written and the key stays as it was."""
    monkeypatch.setattr("asof.online.codec.events.LIMIT", 1000)
    writer, count = Writer("tests", store), 100
    writer.write(SPENDING, rows({"key": [1], "x": [1.0]}))
    crowd = rows({"key": [1] * count + [2], "x": [1.0] * (count + 1)})
    with pytest.raises(OnlineStoreError, match="view 'spending': the largest window of 1 key has more events"):
        writer.write(SPENDING, crowd)
    found = Reader(contract(SPENDING), store).read({"key": [1, 2]}, at(2))
    assert found.values.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("address", ["", "nohost", "host:port", "ssl=true", "host:1x,password=s3cret"])
def test_addresses_that_mean_nothing_are_refused(address: str) -> None:
    """A connection string without host and port is refused without being repeated."""
    with pytest.raises(SettingsError, match="expected host:port") as caught:
        parse(address)
    assert "s3cret" not in str(caught.value)


def test_addresses_are_read_as_feast_reads_them() -> None:
    """Hosts, JSON-typed options, passwords with = and numbers in them: as Feast's own store, and hidden in repr."""
    found = parse("one:6379,two:6380,db=3,ssl=true,password=12=34,ssl_cert_reqs=none")
    assert found.hosts == (("one", 6379), ("two", 6380))
    assert found.options == {"db": 3, "ssl": True, "password": "12=34", "ssl_cert_reqs": "none"}
    assert "12=34" not in repr(found)


def test_unknown_options_are_refused_by_name() -> None:
    """An option that redis-py does not know is a wrong setting."""
    with pytest.raises(SettingsError, match="unknown option 'colour'"):
        connect(remote("127.0.0.1:1,colour=red"))


def test_rows_without_key_or_time_belong_to_nobody(store: Any) -> None:
    """Rows whose key or event time is missing are left out; a missing knowledge time means the event time."""
    table = rows({"key": pa.array([1, None, 3]), "a": [1, 2, 3], "b": ["x", "y", "z"]}, kt=[None, T, T])
    table = table.set_column(1, "ts", pa.array([T, T, None], pa.int64()).cast(pa.timestamp("us", "UTC")))
    assert Writer("tests", store).write(VIEW, table) == 1
    assert Reader(contract(VIEW), store).read({"key": [1, 3, None]}, at(3)).statuses[:, 0].tolist() == [0, 3, 3]
