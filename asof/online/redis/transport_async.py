"""As :mod:`asof.online.redis.transport`, for ``asyncio``: what arrives goes from the event loop straight into the parser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis

from asof.online.redis.connections import BACKOFF_BASE, BACKOFF_CAP
from asof.online.redis.transport import RECEIVE, F, Feedable


class AsyncLines:
    """The lines of one client; they belong to its event loop.

    Args:
        pool: redis-py's pool of connections.
        retries: How often an exchange that failed is tried again, after a pause that doubles.
        limit: Seconds for one exchange.
    """

    def __init__(self, pool: Any, retries: int, limit: float) -> None:
        self._pool, self._retries, self._limit = pool, retries, limit
        self._idle: list[_Line] = []
        self._spare = min(getattr(pool, "max_connections", 64) // 2, 64)

    async def exchange(self, command: bytes, answer: Callable[[], F]) -> F:
        """As :meth:`asof.online.redis.transport.Lines.exchange`."""
        tries = 0
        while True:
            line = None
            try:
                line = self._idle.pop() if self._idle else _Line(await self._pool.get_connection())
                fed = answer()
                await line.exchange(command, fed, self._limit)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                used = await self._broken(line)
                if used and not isinstance(error, redis.TimeoutError):
                    continue  # Redis had gone before we asked; what is idle has been dropped, so this ends
                if tries == self._retries:
                    raise
                await asyncio.sleep(min(BACKOFF_CAP, BACKOFF_BASE * 2**tries))
                tries += 1
            except BaseException:
                await self._broken(line)
                raise
            else:
                await self._kept(line)
                return fed

    async def close(self) -> None:
        """Give the idle connections back to redis-py."""
        while self._idle:
            await self._idle.pop().give_back(self._pool)

    async def _kept(self, line: _Line) -> None:
        if len(self._idle) < self._spare:
            line.used = True
            self._idle.append(line)
        else:
            await line.give_back(self._pool)

    async def _broken(self, line: _Line | None) -> bool:
        """Drop a line whose state nobody knows, and all idle ones if it had been idle too; whether it had."""
        if line is None:
            return False
        idle: list[_Line] = []
        if line.used:
            idle, self._idle = self._idle, []
        for broken in (line, *idle):
            await broken.connection.disconnect(nowait=True)
            await self._pool.release(broken.connection)
        return line.used


class _Line(asyncio.BufferedProtocol):
    """One connection, used by one task at a time. It listens in place of redis-py's own protocol, which gets its turn back."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.used = connection, False
        self._transport: Any = connection._writer.transport  # noqa: SLF001 - redis-py takes several times as long
        self._before: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(RECEIVE))
        self._answer: Feedable | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._lost = False

    async def give_back(self, pool: Any) -> None:
        self._transport.set_protocol(self._before)
        await pool.release(self.connection)

    async def exchange(self, command: bytes, answer: Feedable, limit: float) -> None:
        if self._lost:
            raise redis.ConnectionError("connection closed")
        self._answer, self._done = answer, self._loop.create_future()
        late = self._loop.call_later(limit, self._fail, redis.TimeoutError("timed out"))
        try:
            self._transport.write(command)
            await self._done
        finally:
            late.cancel()
            self._answer = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the event loop: where to put what arrives."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the event loop: so much arrived."""
        if self._answer is None:
            self._lost = True  # nobody asked: whatever this is, the line is out of step
            return
        try:
            if self._answer.feed(self._buffer[:nbytes]) and not self._done.done():
                self._done.set_result(None)
        except Exception as error:  # noqa: BLE001 - goes to whoever waits
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
        self._before.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._done.done():
            self._done.set_exception(error)
