"""Redis in all its forms: password, Sentinel, Cluster and TLS, each with real servers, hold the same values."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asof.errors import OnlineStoreError
from asof.online import AsyncReader, Reader, Writer
from asof.settings import OnlineSettings
from tests.online import servers
from tests.online.tables import SECOND, T, at, contract, plain, rows, windowed

PROFILE, SPENDING = plain(("a", "int64"), ("b", "string")), windowed(("n", "x", "count"), ("m", "x", "mean"))
CONTRACT = contract(PROFILE, SPENDING)
COUNT = 300


def settings(address: str, **options: Any) -> OnlineSettings:
    return OnlineSettings(address, Path("unused"), retries=1, **options)


def check_all(given: OnlineSettings) -> None:
    """Write, write again, read sync and async, drop one view, drop all."""
    writer = Writer("tests", given)
    keys = list(range(COUNT))
    table = rows({"key": keys, "a": keys, "b": [f"t{k}" for k in keys], "x": [1.0] * COUNT})
    assert [writer.write(v, table) for v in (PROFILE, SPENDING, PROFILE, SPENDING)] == [COUNT, COUNT, 0, 0]
    older = rows({"key": keys, "a": [0] * COUNT, "b": [""] * COUNT}, T - SECOND)
    assert writer.write(PROFILE, older) == 0
    reader = Reader(CONTRACT, given)
    found = reader.read({"key": [*keys, -1]}, at(COUNT + 1))
    assert found.values[:COUNT, 0].tolist() == keys
    assert found.column("spending", "n").tolist() == [1.0] * COUNT + [0.0]
    assert asyncio.run(read_async(given)) == repr(found.values[:5].tolist())
    writer.drop("profile")
    assert (reader.read({"key": keys}, at(COUNT)).statuses[:, :2] == 3).all()
    assert writer.drop_project() == COUNT


async def read_async(given: OnlineSettings) -> str:
    reader = AsyncReader(CONTRACT, given)
    await reader.ping()
    found = await reader.read({"key": [0, 1, 2, 3, 4]}, at(5))
    await reader.close()
    return repr(found.values.tolist())


def test_password(tmp_path: Path) -> None:
    """A server with a password: the right one works, a wrong or missing one is one line without the password."""
    (port,) = servers.free_ports(1)
    with servers.server(tmp_path, port, "--requirepass", "s3cret=1"):
        check_all(settings(f"127.0.0.1:{port},password=s3cret=1,db=2"))
        for wrong in (f"127.0.0.1:{port},password=n0t", f"127.0.0.1:{port}"):
            with pytest.raises(OnlineStoreError, match="refuse") as caught:
                Reader(CONTRACT, settings(wrong)).ping()
            assert "n0t" not in str(caught.value)


def test_sentinel(tmp_path: Path) -> None:
    """The master that Sentinel names is read and written."""
    (port,) = servers.free_ports(1)
    with servers.server(tmp_path / "m", port), servers.sentinel(tmp_path / "s", port, "shop") as watcher:
        check_all(settings(f"127.0.0.1:{watcher}", redis_type="redis_sentinel", sentinel_master="shop"))
        with pytest.raises(OnlineStoreError, match="cannot be reached"):
            Reader(
                CONTRACT, settings(f"127.0.0.1:{watcher}", redis_type="redis_sentinel", sentinel_master="other")
            ).ping()


def test_cluster(tmp_path: Path) -> None:
    """A real cluster of three nodes: keys are spread over all of them and hold the same values."""
    with servers.cluster(tmp_path) as ports:
        given = settings(servers.addresses(ports), redis_type="redis_cluster")
        Writer("spread", given).write(PROFILE, rows({"key": list(range(60)), "a": list(range(60)), "b": ["x"] * 60}))
        import redis

        assert all(redis.Redis(port=p).dbsize() > 5 for p in ports)
        check_all(given)


def test_tls(tmp_path: Path) -> None:
    """Behind TLS, with the certificate checked; a client that does not trust it is refused."""
    (port,) = servers.free_ports(1)
    with servers.server(tmp_path / "r", port), servers.tls(tmp_path / "t", port) as (guarded, trusted):
        check_all(settings(f"127.0.0.1:{guarded},ssl=true,ssl_ca_certs={trusted}"))
        with pytest.raises(OnlineStoreError, match="cannot be reached"):
            Reader(CONTRACT, settings(f"127.0.0.1:{guarded},ssl=true")).ping()
