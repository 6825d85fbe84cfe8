"""Exchanges bytes with Redis over connections that redis-py opened, for threads and for ``asyncio``.

redis-py connects, authenticates, sets up TLS and finds the master. After that the bytes are sent and received here, because
redis-py's own path takes about ten times as long. A connection serves one thread or task at a time. Only idempotent commands
may be sent: an exchange that fails is repeated.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import redis

from asof.online.redis.connections import BACKOFF_BASE, BACKOFF_CAP

RECEIVE = 1 << 17
"""Bytes that a connection receives at a time, into a buffer of its own; allocating a buffer for each reply is slower."""


POLL = 100_000 if (os.cpu_count() or 1) > 1 else 0
"""Nanoseconds that a thread polls for a reply before it blocks. A Redis on the same machine answers faster than a blocked thread
wakes up. With a single core, polling would keep Redis from running."""
PATIENCE = 16
"""Replies in a row slower than :data:`POLL`, after which a connection polls in one of :data:`RARELY` exchanges only."""
RARELY = 64
_now = time.perf_counter_ns


class ReplyParser(Protocol):
    """Parses the bytes of a reply."""

    def feed(self, received: memoryview) -> bool:
        """Parse ``received``, which is valid only during the call; returns whether the reply is complete."""


P = TypeVar("P", bound=ReplyParser)


class Transport:
    """Exchanges bytes with one Redis; safe for threads and after a fork.

    Args:
        pool: redis-py's connection pool.
        retries: How often a failed exchange is repeated; the pause before each attempt doubles.
    """

    def __init__(self, pool: Any, retries: int) -> None:
        self._pool, self._retries, self._process = pool, retries, os.getpid()
        self._idle: list[_Connection] = []
        self._max_idle = _max_idle(pool)

    def exchange(self, command: bytes, parser: Callable[[], P]) -> P:
        """Send ``command``, feed the reply to a new ``parser()`` until it is complete, and return the parser.

        Raises:
            redis.RedisError, OSError: As redis-py, after all attempts.
        """
        attempts = _Attempts(self._retries)
        while True:
            connection = None
            try:
                connection = self._take()
                parsed = parser()
                connection.exchange(command, parsed)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                time.sleep(attempts.pause(error, reused=self._discard(connection)))
            except BaseException:
                self._discard(connection)
                raise
            else:
                self._keep(connection)
                return parsed

    def close(self) -> None:
        """Give the idle connections back to redis-py."""
        for connection in self._take_all():
            self._pool.release(connection.connection)

    def _take(self) -> _Connection:
        if self._process != os.getpid():
            self._idle, self._process = [], os.getpid()  # the old ones belong to the parent process
        try:
            return self._idle.pop()
        except IndexError:
            return _Connection(self._pool.get_connection())

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) < self._max_idle:
            connection.reused = True
            self._idle.append(connection)
        else:
            self._pool.release(connection.connection)

    def _discard(self, connection: _Connection | None) -> bool:
        """Disconnect after a failure, all idle connections too if this one was reused; returns whether it was."""
        if connection is None:
            return False
        for broken in (connection, *(self._take_all() if connection.reused else ())):
            broken.connection.disconnect()
            self._pool.release(broken.connection)
        return connection.reused

    def _take_all(self) -> list[_Connection]:
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._idle.pop())
        return found


class _Connection:
    """One of redis-py's connections and its socket."""

    __slots__ = ("_buffer", "_poller", "_slow", "_socket", "connection", "reused")

    def __init__(self, connection: Any) -> None:
        self.connection, self.reused = connection, False
        self._buffer = memoryview(bytearray(RECEIVE))
        self._socket: Any = connection._sock  # noqa: SLF001 - redis-py parses ten times slower
        self._slow, self._poller = 0, select.poll()
        self._poller.register(self._socket, select.POLLIN)

    def exchange(self, command: bytes, parser: ReplyParser) -> None:
        try:
            self._socket.sendall(command)
            self._poll()
            while size := self._socket.recv_into(self._buffer):
                if parser.feed(self._buffer[:size]):
                    return
        except TimeoutError as error:
            raise redis.TimeoutError("timed out") from error
        raise redis.ConnectionError("connection closed")

    def _poll(self) -> None:
        """Poll for the reply, unless the last replies were all too slow for that."""
        if self._slow < PATIENCE or self._slow % RARELY == 0:
            until, poll = _now() + POLL, self._poller.poll
            while _now() < until:
                if poll(0):
                    self._slow = 0
                    return
        self._slow += 1


class AsyncTransport:
    """As :class:`Transport`, for ``asyncio``; belongs to one event loop.

    Args:
        pool: redis-py's connection pool.
        retries: How often a failed exchange is repeated; the pause before each attempt doubles.
        timeout: Seconds for one exchange.
    """

    def __init__(self, pool: Any, retries: int, timeout: float) -> None:
        self._pool, self._retries, self._timeout = pool, retries, timeout
        self._idle: list[_AsyncConnection] = []
        self._max_idle = _max_idle(pool)

    async def exchange(self, command: bytes, parser: Callable[[], P]) -> P:
        """As :meth:`Transport.exchange`."""
        attempts = _Attempts(self._retries)
        while True:
            connection = None
            try:
                connection = self._idle.pop() if self._idle else _AsyncConnection(await self._pool.get_connection())
                parsed = parser()
                await connection.exchange(command, parsed, self._timeout)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                await asyncio.sleep(attempts.pause(error, reused=await self._discard(connection)))
            except BaseException:
                await self._discard(connection)
                raise
            else:
                await self._keep(connection)
                return parsed

    async def close(self) -> None:
        """Give the idle connections back to redis-py."""
        while self._idle:
            await self._idle.pop().give_back(self._pool)

    async def _keep(self, connection: _AsyncConnection) -> None:
        if len(self._idle) < self._max_idle:
            connection.reused = True
            self._idle.append(connection)
        else:
            await connection.give_back(self._pool)

    async def _discard(self, connection: _AsyncConnection | None) -> bool:
        """As :meth:`Transport._discard`."""
        if connection is None:
            return False
        idle: list[_AsyncConnection] = []
        if connection.reused:
            idle, self._idle = self._idle, []
        for broken in (connection, *idle):
            await broken.connection.disconnect(nowait=True)
            await self._pool.release(broken.connection)
        return connection.reused


class _AsyncConnection(asyncio.BufferedProtocol):
    """One of redis-py's connections. While it is used here, this protocol replaces redis-py's on its transport."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.reused = connection, False
        self._transport: Any = connection._writer.transport  # noqa: SLF001 - redis-py takes several times as long
        self._original: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(RECEIVE))
        self._parser: ReplyParser | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._lost = False

    async def give_back(self, pool: Any) -> None:
        self._transport.set_protocol(self._original)
        await pool.release(self.connection)

    async def exchange(self, command: bytes, parser: ReplyParser, timeout: float) -> None:  # noqa: ASYNC109 - a timer is cheaper than a context
        if self._lost:
            raise redis.ConnectionError("connection closed")
        self._parser, self._done = parser, self._loop.create_future()
        timer = self._loop.call_later(timeout, self._fail, redis.TimeoutError("timed out"))
        try:
            self._transport.write(command)
            await self._done
        finally:
            timer.cancel()
            self._parser = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the event loop: the buffer to receive into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the event loop: ``nbytes`` were received."""
        if self._parser is None:
            self._lost = True  # bytes that nobody requested: the connection is out of step
            return
        try:
            if self._parser.feed(self._buffer[:nbytes]) and not self._done.done():
                self._done.set_result(None)
        except Exception as error:  # noqa: BLE001 - raised in the task that waits
            self._fail(error)

    def eof_received(self) -> bool:
        """Called by the event loop; lets it close the transport."""
        self._lost = True
        self._fail(redis.ConnectionError("connection closed"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop; redis-py waits for this as well."""
        self._lost = True
        self._fail(redis.ConnectionError(f"connection lost: {exc}"))
        self._original.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        if self._parser is not None and not self._done.done():
            self._done.set_exception(error)


class _Attempts:
    """Counts the failed attempts of one exchange."""

    __slots__ = ("_failed", "_retries")

    def __init__(self, retries: int) -> None:
        self._failed, self._retries = 0, retries

    def pause(self, error: Exception, *, reused: bool) -> float:
        """Seconds to wait before the next attempt; raises ``error`` after the last one.

        A reused connection may have been closed while it was idle. Replacing it does not count as an attempt; all idle
        connections have been dropped, so this happens once.
        """
        if reused and not isinstance(error, redis.TimeoutError):
            return 0
        if self._failed == self._retries:
            raise error
        self._failed += 1
        return min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** (self._failed - 1))


def _max_idle(pool: Any) -> int:
    return int(min(getattr(pool, "max_connections", 64) // 2, 64))
