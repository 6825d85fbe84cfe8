"""Lines: what a read survives on its way, sync and async, on plain sockets, Unix sockets and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis

from asof.errors import OnlineStoreError, RequestError
from asof.online import AsyncReader, Reader, Vectors, Writer
from asof.online.redis import transport
from asof.online.redis.resp_decoding import HashReplies, Replies
from asof.online.redis.server import EmbeddedRedis
from asof.online.redis.store import RedisStore
from asof.settings import OnlineSettings
from tests.online import servers
from tests.online.tables import at, contract, plain, rows

VIEW = plain(("a", "float64"), ("b", "float64"))
COUNT = 300
KEYS = {"key": list(range(COUNT))}
Handle = Callable[[socket.socket, bytes], None]


def written(settings: OnlineSettings) -> None:
    columns = {"key": KEYS["key"], "a": [float(k) for k in KEYS["key"]], "b": [k / 7 for k in KEYS["key"]]}
    Writer("tests", settings).write(VIEW, rows(columns))


def read_sync(settings: OnlineSettings, times: int = 1) -> list[Vectors]:
    reader = Reader(contract(VIEW), settings)
    found = [reader.read(KEYS, at(COUNT)) for _ in range(times)]
    reader.close()
    return found


def read_async(settings: OnlineSettings, times: int = 1) -> list[Vectors]:
    async def go() -> list[Vectors]:
        reader = AsyncReader(contract(VIEW), settings)
        found = [await reader.read(KEYS, at(COUNT)) for _ in range(times)]
        await reader.close()
        return found

    return asyncio.run(go())


@contextmanager
def between(target: int, meddle: Callable[[int, bytes], Iterator[bytes | float | None]]) -> Iterator[int]:
    """A proxy before a Redis: ``meddle(connection, answer)`` gives pieces of the answer, pauses in seconds, None to hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                for number in range(1000):
                    outer, _ = listener.accept()
                    threading.Thread(target=relay, args=(number, outer), daemon=True).start()

        def relay(number: int, outer: socket.socket) -> None:
            with contextlib.suppress(OSError), outer, socket.create_connection(("127.0.0.1", target)) as inner:
                threading.Thread(target=forward, args=(outer, inner), daemon=True).start()
                while answer := inner.recv(1 << 20):
                    for piece in meddle(number, answer):
                        if piece is None:
                            outer.shutdown(socket.SHUT_RDWR)
                            return
                        if isinstance(piece, float):
                            time.sleep(piece)
                        else:
                            outer.sendall(piece)

        def forward(outer: socket.socket, inner: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := outer.recv(1 << 16):
                    inner.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis on a loopback port that holds the rows."""
    (number,) = servers.free_ports(1)
    with servers.server(tmp_path_factory.mktemp("lines"), number):
        written(to(number))
        yield number


def to(port: int, **options: Any) -> OnlineSettings:
    return OnlineSettings(f"127.0.0.1:{port}", Path("unused"), **options)


both = pytest.mark.parametrize("read", [read_sync, read_async], ids=["sync", "async"])


@both
def test_answers_in_many_pieces(port: int, read: Any) -> None:
    """An answer that arrives in pieces, with pauses between them, is the answer."""

    def meddle(_: int, answer: bytes) -> Iterator[bytes | float | None]:
        for start in range(0, len(answer), 4001):
            yield answer[start : start + 4001]
            yield 0.001

    with between(port, meddle) as proxy:
        (found,) = read(to(proxy))
    assert found.values[:, 0].tolist() == KEYS["key"]


@both
def test_a_connection_that_dies_in_the_middle_of_an_answer(port: int, read: Any) -> None:
    """Half an answer is thrown away and the read is made again on a new connection."""
    died = []

    def meddle(_: int, answer: bytes) -> Iterator[bytes | float | None]:
        if len(answer) > 2000 and not died:
            died.append(True)
            yield answer[:1500]
            yield None
        yield answer

    with between(port, meddle) as proxy:
        found = read(to(proxy, retries=1), 3)
    assert died
    assert all(f.values[:, 0].tolist() == KEYS["key"] for f in found)


@both
def test_an_answer_that_stops_in_the_middle_times_out(port: int, read: Any) -> None:
    """When the rest of an answer does not come, the read fails after its time-out and names what to look at."""

    def meddle(_: int, answer: bytes) -> Iterator[bytes | float | None]:
        yield answer[:1500]
        if len(answer) > 2000:
            yield 2.0

    with between(port, meddle) as proxy, pytest.raises(OnlineStoreError, match="does not answer in time"):
        read(to(proxy, retries=0, read_timeout=0.2))


@both
def test_a_connection_that_died_while_idle_costs_no_try(port: int, read: Any) -> None:
    """Without any retries, a read still gets its answer when its connection was closed since the last read."""
    asked: dict[int, int] = {}

    def meddle(number: int, answer: bytes) -> Iterator[bytes | float | None]:
        yield answer
        asked[number] = asked.get(number, 0) + (len(answer) > 2000)
        if asked[number] == 2:
            yield None

    with between(port, meddle) as proxy:
        found = read(to(proxy, retries=0), 6)
    assert len(asked) > 1
    assert all(f.values[:, 0].tolist() == KEYS["key"] for f in found)


@both
def test_tls(tmp_path: Path, port: int, read: Any) -> None:
    """Large answers arrive whole through TLS."""
    with servers.tls(tmp_path, port) as (guarded, trusted):
        settings = OnlineSettings(f"127.0.0.1:{guarded},ssl=true,ssl_ca_certs={trusted}", Path("unused"))
        found = read(settings, 2)
    assert all(f.values[:, 0].tolist() == KEYS["key"] for f in found)


def test_a_silent_server_behind_tls_times_out(tmp_path: Path, port: int) -> None:
    """The time-out holds behind TLS, too."""

    def meddle(_: int, answer: bytes) -> Iterator[bytes | float | None]:
        yield answer if len(answer) < 2000 else 2.0

    with between(port, meddle) as proxy, servers.tls(tmp_path, proxy) as (guarded, trusted):
        address = f"127.0.0.1:{guarded},ssl=true,ssl_ca_certs={trusted}"
        with pytest.raises(OnlineStoreError, match="does not answer in time"):
            read_sync(OnlineSettings(address, Path("unused"), retries=0, read_timeout=0.2))


def test_a_slow_server_is_not_polled_for_ever(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is always later than polling lasts is soon waited for asleep, and still answers."""
    looked: list[int] = []

    def clock() -> int:
        looked.append(1)
        return time.perf_counter_ns()

    monkeypatch.setattr(transport, "_now", clock)

    def meddle(_: int, answer: bytes) -> Iterator[bytes | float | None]:
        yield 0.002
        yield answer

    with between(port, meddle) as proxy, redis.Redis(port=proxy, protocol=2) as client:
        mine, command = transport.Transport(client.connection_pool, 0), hiredis.pack_command(("PING",))
        for number in range(3 * transport.PATIENCE):
            looked.clear()
            assert mine.exchange(command, lambda: Replies(1)).found == [b"PONG"]
            assert bool(looked) == (number < transport.PATIENCE)
        mine.close()


def test_threads_share_a_reader(port: int) -> None:
    """Reads from many threads at once each get their own answer."""
    reader, wrong = Reader(contract(VIEW), to(port)), []

    def work(first: int) -> None:
        for shift in range(50):
            keys = [(first * 31 + shift * 7 + i) % COUNT for i in range(40)]
            if reader.read({"key": keys}, at(40)).values[:, 0].tolist() != keys:
                wrong.append(keys)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader.close()
    assert not wrong


def test_a_fork_does_not_share_lines(port: int) -> None:
    """A child process opens connections of its own; parent and child both keep reading right."""
    reader = Reader(contract(VIEW), to(port))
    reader.read(KEYS, at(COUNT))
    child = os.fork()
    if child == 0:
        right = all(reader.read(KEYS, at(COUNT)).values[:, 0].tolist() == KEYS["key"] for _ in range(50))
        os._exit(0 if right else 1)
    assert all(reader.read(KEYS, at(COUNT)).values[:, 0].tolist() == KEYS["key"] for _ in range(50))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reader.close()


def test_no_connection_is_kept_back(server: EmbeddedRedis) -> None:
    """After readers are closed Redis has no connection of theirs left, also where only one is allowed."""
    settings = OnlineSettings("embedded", server.folder)
    written(settings)
    for read in (read_sync, read_async):
        read(settings, 2)
    with redis.Redis(unix_socket_path=server.socket) as client:
        servers.until(lambda: len(client.client_list()) <= 2)
        assert len(client.client_list()) <= 2


@both
def test_one_connection_is_enough(port: int, read: Any) -> None:
    """A client that may have a single connection reads, learns layouts and reads again over it."""
    found = read(OnlineSettings(f"127.0.0.1:{port},max_connections=1", Path("unused")), 3)
    assert all(f.values[:, 0].tolist() == KEYS["key"] for f in found)


def test_a_cancelled_read_leaves_no_answer_behind(port: int) -> None:
    """A read that is given up does not hand its answer to the next one."""

    async def go() -> list[float]:
        reader = AsyncReader(contract(VIEW), to(port))
        await reader.read({"key": [0]}, at(1))
        for key in range(20):
            task = asyncio.create_task(reader.read({"key": [key]}, at(1)))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        found = await reader.read({"key": [7]}, at(1))
        await reader.close()
        return list(found.values[:, 0])

    assert asyncio.run(go()) == [7.0]


ONE = {"key": [7]}


def one(reader: Reader) -> list[float]:
    return reader.read(ONE, at(1)).values[0].tolist()


def test_a_read_that_fails_before_it_is_sent(port: int) -> None:
    """After a read whose keys turn out wrong, the next read, a write, and redis-py itself get their replies."""
    store = RedisStore(to(port, retries=0))
    reader = Reader(contract(VIEW), store)
    assert one(reader) == [7.0, 1.0]
    for _ in range(3):
        with pytest.raises(RequestError):
            reader.read({"key": ["seven"]}, at(1))
    assert one(reader) == [7.0, 1.0]
    Writer("tests", store).write(VIEW, rows({"key": [7], "a": [7.0], "b": [1.0]}))
    reader.close()
    store.ping()
    assert one(reader) == [7.0, 1.0]
    reader.close()


@both
def test_an_interrupted_read_leaks_no_connection(port: int, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may end a read at any moment; its connection is dropped then, and a slot is free for the next read."""
    settings = OnlineSettings(f"127.0.0.1:{port},max_connections=2", Path("unused"))
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Replies, "feed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(HashReplies, "feed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                read(settings)
    (found,) = read(settings)
    assert found.values[:, 0].tolist() == KEYS["key"]


def test_a_connection_that_was_killed_while_idle_costs_no_try(port: int) -> None:
    """Without any retries, a read of one key whose connection was closed since the last read gets its answer."""
    reader = Reader(contract(VIEW), to(port, retries=0))
    with redis.Redis(port=port) as other:
        for pause in (0.0, 0.0, 0.05):
            assert one(reader) == [7.0, 1.0]
            other.client_kill_filter(_type="normal", skipme=True)
            time.sleep(pause)
    assert one(reader) == [7.0, 1.0]
    reader.close()
