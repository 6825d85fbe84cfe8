"""Reading: one round trip, order, duplicates, keys of several columns, aliases, moments, and what is not imported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

import asof.online
from asof.contract import JoinKey
from asof.online import AsyncMemoryStore, AsyncReader, MemoryStore, Reader, Status, Writer
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings
from tests.online.tables import KEY, SECOND, T, at, contract, plain, rows, windowed

VIEW, OTHER, SPENDING = plain(("a", "int64")), plain(("b", "float64"), name="other"), windowed(("n", "x", "count"))


def test_order_and_duplicates(store: Any) -> None:
    """Rows come in the order asked for, the same key as often as asked for, unknown and missing keys among them."""
    Writer("tests", store).write(VIEW, rows({"key": [1, 2, 3], "a": [10, 20, 30]}))
    found = Reader(contract(VIEW), store).read({"key": [3, None, 1, 9, 3, float("nan")]}, at(6))
    assert [None if np.isnan(v) else v for v in found.values[:, 0]] == [30, None, 10, None, 30, None]
    assert found.statuses[:, 0].tolist() == [0, 3, 0, 3, 0, 3]


def test_no_rows_at_all(store: Any) -> None:
    """Asking for nothing gives nothing, in the right shape; an empty table writes nothing."""
    assert (
        Writer("tests", store).write(VIEW, rows({"key": pa.array([], pa.int64()), "a": pa.array([], pa.int64())})) == 0
    )
    found = Reader(contract(VIEW, SPENDING), store).read({"key": []}, at(0))
    assert found.values.shape == (0, 2)


def test_each_row_has_its_own_moment(store: Any) -> None:
    """Within one read, each row sees what was known at its own moment and nothing later."""
    events = rows(
        {"key": [1, 1, 1], "x": [1.0, 1.0, 1.0]}, [T, T + SECOND, T + 2 * SECOND], [T, T + 5 * SECOND, T + 2 * SECOND]
    )
    Writer("tests", store).write(SPENDING, events)
    moments = np.array([T - 1, T, T + 2 * SECOND, T + 5 * SECOND])
    found = Reader(contract(SPENDING), store).read({"key": [1] * 4}, moments)
    assert found.values[:, 0].tolist() == [0, 1, 2, 3]
    assert found.event_times[:, 0].tolist() == [-1, T, T + 2 * SECOND, T + 2 * SECOND]
    assert found.statuses[0, 0] == Status.NOT_FOUND


def test_keys_of_several_columns(store: Any) -> None:
    """A key of several columns is the same whatever order a view names them in; separators in text do not confuse it."""
    shop, item = JoinKey("shop", "shop", "string"), JoinKey("item", "item", "int64")
    first, second = plain(("a", "int64"), keys=(shop, item)), plain(("b", "int64"), name="other", keys=(item, shop))
    texts = ["x", "x\x1f1", "x\\", "\\s"]
    columns = {"shop": texts, "item": [1, 2, 3, 4]}
    Writer("tests", store).write(first, rows({**columns, "a": [1, 2, 3, 4]}))
    Writer("tests", store).write(second, rows({**columns, "b": [5, 6, 7, 8]}))
    found = Reader(contract(first, second), store).read(columns, at(4))
    assert found.values.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert (Reader(contract(first), store).read({**columns, "item": [2, 1, 4, 3]}, at(4)).statuses == 3).all()


def test_aliases_read_the_same_view_under_two_keys(store: Any) -> None:
    """A view used twice, for two key columns of the request, reads each row's two keys."""
    Writer("tests", store).write(VIEW, rows({"key": [1, 2], "a": [10, 20]}))
    twins = [replace(VIEW, alias=n, join_keys=(JoinKey("key", n, "int64"),)) for n in ("sender", "receiver")]
    found = Reader(contract(*twins), store).read({"sender": [1, 2], "receiver": [2, 9]}, at(2))
    assert found.column("sender", "a").tolist() == [10, 20]
    assert found.column("receiver", "a")[0] == 20
    assert np.isnan(found.column("receiver", "a")[1])


def test_views_without_entities(store: Any) -> None:
    """A view without entities has one row for everybody."""
    everybody = plain(("a", "int64"), name="market", keys=())
    Writer("tests", store).write(everybody, rows({"a": [7]}))
    assert Reader(contract(everybody), store).read({}, at(3)).values.tolist() == [[7.0]] * 3


def test_key_types(store: Any) -> None:
    """Keys of every type that Feast allows find what was written under them."""
    moment = pa.array([T], pa.int64()).cast(pa.timestamp("us", "UTC"))
    for dtype, column, asked in (
        ("string", pa.array(["ü/*"]), "ü/*"), ("int32", pa.array([-5], pa.int32()), np.int32(-5)), ("bool", pa.array([True]), True),
        ("bytes", pa.array([b"\xff"]), b"\xff"), ("unixtimestamp", moment, T),
    ):  # fmt: skip
        view = plain(("a", "int64"), name=f"by_{dtype}", keys=(JoinKey(f"k_{dtype}", "k", dtype),))
        Writer("tests", store).write(view, rows({f"k_{dtype}": column, "a": [1]}))
        assert Reader(contract(view), store).read({"k": [asked]}, at(1)).values.tolist() == [[1.0]]


def test_async_equals_sync(store: Any) -> None:
    """The async reader gives what the sync one gives, also for reads under way at the same time."""
    Writer("tests", store).write(VIEW, rows({"key": [1, 2], "a": [1, 2]}))
    Writer("tests", store).write(SPENDING, rows({"key": [1, 2], "x": [1.0, 2.0]}))

    async def go() -> list[Any]:
        reader = AsyncReader(
            contract(VIEW, SPENDING), AsyncMemoryStore(store) if isinstance(store, MemoryStore) else store
        )
        await reader.ping()
        found = await asyncio.gather(*(reader.read({"key": [k, 1]}, at(2)) for k in (1, 2, 3)))
        assert await reader.check() == Reader(contract(VIEW, SPENDING), store).check()
        await reader.close()
        return [f.values.tolist() for f in found]

    reader = Reader(contract(VIEW, SPENDING), store)
    assert repr(asyncio.run(go())) == repr([reader.read({"key": [k, 1]}, at(2)).values.tolist() for k in (1, 2, 3)])


def test_one_round_trip(server: EmbeddedRedis) -> None:
    """All views of all rows are read by one batch of commands, one HMGET for each distinct key."""
    settings = OnlineSettings("embedded", server.folder)
    writer, reader = Writer("tests", settings), Reader(contract(VIEW, OTHER, SPENDING), settings)
    writer.write(VIEW, rows({"key": [1], "a": [1]}))
    reader.read({"key": [1]}, at(1))
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.config_resetstat()
        reader.read({"key": [1, 2, 3, 2, 1] * 20}, at(100))
        calls = {name: s["calls"] for name, s in client.info("commandstats").items()}
    entities = 3
    assert calls.pop("cmdstat_hmget") <= entities + 2
    assert set(calls) <= {"cmdstat_config|resetstat", "cmdstat_config", "cmdstat_info"}


def test_dropping_a_project_leaves_others_alone(store: Any) -> None:
    """Deleting a project, also one whose name starts another's or looks like a pattern, removes exactly its own keys."""
    names = ["tests", "tests2", "te*", "t?sts"]
    for name in names:
        Writer(name, store).write(VIEW, rows({"key": [1], "a": [1]}))
    for name in ("te*", "t?sts"):
        assert Writer(name, store).drop_project() == 1
    for name, left in (("tests", 0), ("tests2", 0), ("te*", 3), ("t?sts", 3)):
        found = Reader(replace(contract(VIEW), project=name), store).read({"key": [1]}, at(1))
        assert found.statuses.tolist() == [[left]]
    Writer("tests2", store).drop_project()


def test_a_row_that_is_not_known_yet_hides_nothing(store: Any) -> None:
    """A row from the future is kept beside the newest known one, and answers from its own moment on."""
    writer = Writer("tests", store)
    writer.write(VIEW, rows({"key": [1], "a": [1]}), now=T)
    writer.write(VIEW, rows({"key": [1], "a": [2]}, T + 9 * SECOND), now=T + SECOND)
    reader = Reader(contract(VIEW), store)
    assert reader.read({"key": [1, 1]}, np.array([T + SECOND, T + 9 * SECOND])).values.tolist() == [[1], [2]]


def test_key_expiry(server: EmbeddedRedis) -> None:
    """With key_ttl_seconds a key may be forgotten that long after its last write."""
    settings = OnlineSettings("embedded", server.folder, key_ttl_seconds=100)
    Writer("tests", settings).write(VIEW, rows({"key": [1], "a": [1]}))
    with redis.Redis(unix_socket_path=server.socket) as client:
        assert 90 < client.ttl("asof/tests/key/1") <= 100


def test_the_reader_imports_no_feast() -> None:
    """Reader, writer and the in-memory store import neither Feast nor pandas nor protobuf nor DuckDB."""
    code = (
        "import sys; from asof.online import AsyncReader, MemoryStore, Reader, Writer, connect; "
        "print([m for m in ('feast', 'pandas', 'google.protobuf', 'duckdb', 'whylogs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    """`asof.online` exports exactly these names, each importable."""
    assert asof.online.__all__ == sorted(asof.online.__all__)
    assert {n for n in asof.online.__all__ if getattr(asof.online, n, None) is None} == set()
    assert {"AsyncReader", "MemoryStore", "Reader", "RedisOnlineStore", "Status", "Vectors", "Writer"} <= set(
        asof.online.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = asof.online.Nothing


def test_equal_rows_without_an_id(store: Any) -> None:
    """Without an id column two equal rows of one batch are two events, and the batch delivered again adds none."""
    view, writer = windowed(("n", "x", "count"), event_id=None), Writer("tests", store)
    batch = rows({"key": [1, 1, 1], "x": [1.0, 1.0, 2.0]}).drop_columns(["id"])
    assert writer.write(view, batch) == 3
    assert writer.write(view, batch) == 0
    with_more = batch.append_column("new", pa.nulls(3, pa.string()))
    assert writer.write(view, with_more) == 0
    assert Reader(contract(view), store).read({"key": [1]}, at(1)).values.tolist() == [[3.0]]


def test_int64_features_beyond_the_mantissa_stay_exact(store: Any) -> None:
    """Plans that want exact values give integers that a float64 cannot hold."""
    from asof.online.read_plan import ReadPlan, ViewFeatures
    from asof.online.reader import read

    Writer("tests", store).write(VIEW, rows({"key": [1], "a": [2**62 + 1]}))
    reader = Reader(contract(VIEW), store)
    found, _ = read(ReadPlan("tests", [ViewFeatures(VIEW, ("a",))], exact=True), reader.store, {"key": [1]}, at(1))
    assert found.objects["profile", "a"] == [2**62 + 1]
    assert VIEW.join_keys == (KEY,)
