"""Lines to Redis: bytes out, bytes in, over connections that redis-py made.

redis-py opens a connection, authenticates, guards it with TLS and finds the master; from then on a line sends and receives
by itself, which costs a tenth of redis-py's way. Whoever exchanges bytes has a line alone. Everything that is sent here may be sent twice.
"""

from __future__ import annotations

import os
import select
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import redis

from asof.online.redis.connections import BACKOFF_BASE, BACKOFF_CAP

POLL = 100_000 if (os.cpu_count() or 1) > 1 else 0
"""Nanoseconds for which an answer is asked for again and again before the thread sleeps: to fall asleep and to wake up takes
longer than a Redis on the same machine needs to answer. With a single core Redis would have to wait for us."""
PATIENCE = 16
"""Answers in a row that came later than that; from then on the line polls once in :data:`RARELY` exchanges only."""
RARELY = 64
RECEIVE = 1 << 17
"""Bytes that a line receives at a time, into memory of its own: larger pieces of new memory cost more than what is in them."""
FIRST = b"*"
"""What every command begins with."""
_now = time.perf_counter_ns


class Feedable(Protocol):
    """What takes the bytes of an answer."""

    def feed(self, received: memoryview) -> bool:
        """Take what arrived, which is gone afterwards; whether this was all."""


F = TypeVar("F", bound=Feedable)


class Lines:
    """The lines of one client; safe for threads and after a fork.

    Args:
        pool: redis-py's pool of connections.
        retries: How often an exchange that failed is tried again, after a pause that doubles.
    """

    def __init__(self, pool: Any, retries: int) -> None:
        self._pool, self._retries, self._process = pool, retries, os.getpid()
        self._idle: list[_Line] = []
        self._spare = min(getattr(pool, "max_connections", 64) // 2, 64)

    def exchange(self, command: bytes, answer: Callable[[], F]) -> F:
        """Send ``command``, feed what comes back to ``answer()`` until it has all, and return that.

        Raises:
            redis.RedisError, OSError: As redis-py, after all tries.
        """
        tries = 0
        while True:
            line = None
            try:
                line = self._taken()
                fed = line.exchange(command, answer)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                used = self._broken(line)
                if used and not isinstance(error, redis.TimeoutError):
                    continue  # Redis had gone before we asked; what is idle has been dropped, so this ends
                if tries == self._retries:
                    raise
                time.sleep(min(BACKOFF_CAP, BACKOFF_BASE * 2**tries))
                tries += 1
            except BaseException:
                self._broken(line)
                raise
            else:
                self._kept(line)
                return fed

    def nudge(self) -> None:
        """Wake Redis for a question that is about to come: to wake takes it as long as to answer, and we may think meanwhile.

        What is sent is how every command begins; the line's next exchange sends the rest. Nothing is promised.
        """
        if self._process != os.getpid():
            return
        try:
            line = self._idle.pop()
        except IndexError:
            return
        try:
            line.nudge()
        except BaseException:
            self._broken(line)
            raise
        self._idle.append(line)

    def close(self) -> None:
        """Give the idle connections back to redis-py."""
        for line in self._emptied():
            line.give_back(self._pool)

    def _taken(self) -> _Line:
        if self._process != os.getpid():
            self._idle, self._process = [], os.getpid()  # those are the parent's
        try:
            return self._idle.pop()
        except IndexError:
            return _Line(self._pool.get_connection())

    def _kept(self, line: _Line) -> None:
        if len(self._idle) < self._spare:
            line.used = True
            self._idle.append(line)
        else:
            line.give_back(self._pool)

    def _broken(self, line: _Line | None) -> bool:
        """Drop a line whose state nobody knows, and all idle ones if it had been idle too; whether it had."""
        if line is None:
            return False
        for broken in (line, *(self._emptied() if line.used else ())):
            broken.connection.disconnect()
            self._pool.release(broken.connection)
        return line.used

    def _emptied(self) -> list[_Line]:
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._idle.pop())
        return found


class _Line:
    """One connection, used by one thread at a time. A plain socket does not block here; redis-py gets it back as it was."""

    __slots__ = ("_buffer", "_late", "_nudged", "_plain", "_socket", "_timeout", "connection", "used")

    def __init__(self, connection: Any) -> None:
        self.connection, self.used, self._late, self._nudged = connection, False, 0, 0
        self._buffer = memoryview(bytearray(RECEIVE))
        self._socket: Any = connection._sock  # noqa: SLF001 - redis-py parses ten times slower
        self._timeout = self._socket.gettimeout()
        self._plain = not isinstance(self._socket, ssl.SSLSocket)
        if self._plain:
            self._socket.setblocking(False)

    def give_back(self, pool: Any) -> None:
        if self._nudged:
            self.connection.disconnect()  # redis-py cannot know what was begun
        elif self._plain:
            self._socket.settimeout(self._timeout)
        pool.release(self.connection)

    def nudge(self) -> None:
        """Send the first byte of the next command, unless Redis is too far away or too busy for that to matter."""
        if self._plain and POLL and self._late < PATIENCE and not self._nudged:
            try:
                self._nudged = self._socket.send(FIRST)
            except OSError:
                return  # the exchange meets it again

    def exchange(self, command: bytes, answer: Callable[[], F]) -> F:
        """What takes the answer is made while Redis works."""
        try:
            if self._plain:
                self._send(command)
                fed = answer()
                size = self._polled()
                while not fed.feed(self._buffer[: some(size)]):
                    size = self._received()
            else:
                self._socket.sendall(command)
                fed = answer()
                while not fed.feed(self._buffer[: some(self._socket.recv_into(self._buffer))]):
                    pass
        except TimeoutError as error:
            raise redis.TimeoutError("timed out") from error
        return fed

    def _send(self, command: bytes) -> None:
        sent, self._nudged = self._nudged, 0
        while sent < len(command):
            try:
                sent += self._socket.send(command[sent:] if sent else command)
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def _polled(self) -> int:
        if self._late < PATIENCE or self._late % RARELY == 0:
            until = _now() + POLL
            receive, buffer = self._socket.recv_into, self._buffer
            while _now() < until:
                try:
                    size: int = receive(buffer)
                except BlockingIOError:
                    continue
                self._late = 0
                return size
        self._late += 1
        return self._received()

    def _received(self) -> int:
        while True:
            with suppress(BlockingIOError):
                size: int = self._socket.recv_into(self._buffer)
                return size
            self._wait(select.POLLIN)

    def _wait(self, event: int) -> None:
        waiting = select.poll()
        waiting.register(self._socket, event)
        if not waiting.poll(None if self._timeout is None else 1000 * self._timeout):
            raise TimeoutError


def some(size: int) -> int:
    """How many bytes were received, unless that is the end of the connection."""
    if not size:
        raise redis.ConnectionError("connection closed")
    return size
