"""The store in Redis: what :mod:`asof.online.memory` is in a dict, behind the same few methods.

Reads are sent as one packed string of HMGET commands and parsed by hiredis alone; redis-py makes, authenticates and pools
the connections. A cluster is read and written through redis-py's own pipelines, which know where a key lives.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import hiredis
import redis
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from asof.errors import OnlineStoreError
from asof.online.connections import (
    BACKOFF_BASE,
    BACKOFF_CAP,
    AsyncClient,
    Client,
    close_async,
    connect,
    connect_async,
    translated,
)
from asof.online.events import Pruning
from asof.online.layouts import Layout, field_of
from asof.online.names import layouts_key, project_prefix, views_key, watermarks_key
from asof.online.scripts import ADD_LAYOUT, PUT_EVENTS, PUT_ROWS
from asof.online.stores import Fetched, Request, StaleLayoutsError, Target
from asof.settings import OnlineSettings

T = TypeVar("T")

ROWS_AT_ONCE = 256
"""Keys that one call of a script writes: Redis serves nobody else during it, about a millisecond."""
CALLS_AT_ONCE = 8
"""Calls of a script that are sent together."""
BYTES_AT_ONCE = 1 << 18
"""Bytes that one call of a script writes, unless a single value is larger."""
DELETES_AT_ONCE = 500
REVISION = b"revision"
"""Field of the hash of layouts that counts how often a layout was added or removed."""
_RECEIVE = 1 << 18


class RedisStore:
    """The store in Redis.

    Args:
        settings: How to reach it.
        client: A client to use instead of a new one.
    """

    def __init__(self, settings: OnlineSettings, client: Client | None = None) -> None:
        self.settings = settings
        self.client: Any = client if client is not None else connect(settings)

    def ping(self) -> None:
        """Raise unless the store answers.

        Raises:
            OnlineStoreError: It does not.
        """
        with translated(self.settings):
            self.client.ping()

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""
        with translated(self.settings):
            found: Any = self.client.hgetall(layouts_key(project))
        return parsed_layouts(found)

    def add_layout(self, project: str, layout: Layout) -> int:
        """Make ``layout`` known to all readers; must come before the first value that uses it. Returns the revision.

        Raises:
            OnlineStoreError: Another layout has the same id.
        """
        text = layout.to_json()
        with translated(self.settings):
            stored, revision = self.client.eval(ADD_LAYOUT, 1, layouts_key(project), f"{layout.id:08x}", text)
        if stored != text.encode():
            raise OnlineStoreError(
                f"two layouts share the id {layout.id:08x}; rename a feature of view {layout.view!r}"
            )
        return int(revision)

    def views(self, project: str) -> dict[str, str]:
        """What was registered for each view."""
        with translated(self.settings):
            found: Any = self.client.hgetall(views_key(project))
        return {name.decode(): text.decode() for name, text in found.items()}

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register what readers compare their contract with."""
        with translated(self.settings):
            if views:
                self.client.hset(views_key(project), mapping=dict(views))

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """What is stored for every request, in one round trip.

        Raises:
            OnlineStoreError: Redis does not answer after ``settings.retries`` further tries.
        """
        with translated(self.settings):
            asked = [
                ([layouts_key(project)], [REVISION]),
                *((k, f or [REVISION]) for k, f in requests),
            ]  # HMGET needs a field
            if isinstance(self.client, RedisCluster):
                # Nodes answer side by side: what comes first (watermarks) has to be there before the rest is asked for.
                return _fetched(asked, self._cluster_replies(asked[:2]) + self._cluster_replies(asked[2:]))
            return _fetched(asked, self._retried(lambda: self._replies(asked)))

    def put_rows(self, target: Target, keys: Sequence[bytes], rows: Sequence[bytes], now: int, live: int = 0) -> int:
        """Write rows, each one unless the store has a newer one; returns how many were news. See :data:`PUT_ROWS`."""
        head = [field_of(target.layout), now.to_bytes(8, "little", signed=True), str(live).encode()]
        return sum(self._run(PUT_ROWS, target, head, keys, rows))

    def put_events(
        self, target: Target, siblings: Sequence[Layout], pruning: Pruning, keys: Sequence[bytes], blobs: Sequence[bytes],
        now: int, live: int = 0,
    ) -> tuple[int, int]:  # fmt: skip
        """Add events, each id once; returns how many were new and how many keys were refused. See :data:`PUT_EVENTS`."""
        numbers = [pruning.horizon, pruning.slack, now, pruning.limit, live, len(siblings)]
        head = [field_of(target.layout), _width(target.layout), *(str(n).encode() for n in numbers)]
        head += [part for other in siblings for part in (field_of(other), _width(other))]
        answers = self._run(PUT_EVENTS, target, head, keys, blobs)
        return sum(a for a, _ in answers), sum(r for _, r in answers)

    def drop(self, project: str, view: str) -> int:
        """Delete what is stored of one view, in steps that do not block Redis; returns how many keys were visited."""
        with translated(self.settings):
            fields = list({field_of(x) for x in self.layouts(project).values() if x.view == view})
            visited = 0
            for keys in self._scan(project) if fields else ():
                self._delete_fields(keys, fields)
                visited += len(keys)
            self._forget(project, view)
        return visited

    def drop_project(self, project: str) -> int:
        """Delete everything that is stored for a project, in steps; returns how many keys there were."""
        with translated(self.settings):
            deleted = 0
            for keys in self._scan(project):
                with self.client.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.unlink(key)
                    deleted += sum(pipe.execute())
            for key in (layouts_key(project), views_key(project), watermarks_key(project)):
                self.client.delete(key)
        return deleted

    def close(self) -> None:
        """Give back all connections."""
        self.client.close()

    def _forget(self, project: str, view: str) -> None:
        stale = [f"{i:08x}" for i, layout in self.layouts(project).items() if layout.view == view]
        if stale:
            self.client.hdel(layouts_key(project), *stale)
            self.client.hincrby(layouts_key(project), REVISION.decode(), 1)
        self.client.hdel(views_key(project), view)

    def _scan(self, project: str) -> Iterator[list[bytes]]:
        keys: list[bytes] = []
        for key in self.client.scan_iter(_glob(project_prefix(project)) + b"*", count=DELETES_AT_ONCE):
            keys.append(key)
            if len(keys) == DELETES_AT_ONCE:
                yield keys
                keys = []
        if keys:
            yield keys

    def _delete_fields(self, keys: Sequence[bytes], fields: Sequence[bytes]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hdel(key, *fields)
            pipe.execute()

    def _retried(self, attempt: Callable[[], T]) -> T:
        for tries in range(self.settings.retries):
            try:
                return attempt()
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                time.sleep(min(BACKOFF_CAP, BACKOFF_BASE * 2**tries))
        return attempt()

    def _replies(self, requests: Sequence[Request]) -> list[Any]:
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([packed(requests)], check_health=False)
            return _received(connection, sum(len(keys) for keys, _ in requests))
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _cluster_replies(self, requests: Sequence[Request]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for keys, fields in requests:
                for key in keys:
                    pipe.hmget(key, list(fields))
            replies: list[Any] = pipe.execute()
        return replies

    def _run(
        self, script: str, target: Target, head: list[bytes], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Any]:
        """Run a script over all keys, some at a time; idempotent, so a lost connection is answered by sending again."""
        with translated(self.settings):
            if isinstance(self.client, RedisCluster):
                return self._run_in_cluster(script, target, head, keys, values)
            sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
            head, last = [str(target.revision).encode(), *head], layouts_key(target.project)
            calls = [(b"EVALSHA", sha, b - a + 1, *keys[a:b], last, *head, *values[a:b]) for a, b in _portions(values)]
            answers: list[Any] = []
            for at in range(0, len(calls), CALLS_AT_ONCE):
                some = calls[at : at + CALLS_AT_ONCE]
                answers += self._retried(lambda some=some: self._call(script, some))  # type: ignore[misc]
            return answers

    def _run_in_cluster(
        self, script: str, target: Target, head: list[bytes], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Any]:
        """Key by key, for every key may live on another node, and the layouts on yet another."""
        if self.client.hget(layouts_key(target.project), REVISION) != str(target.revision).encode():
            raise StaleLayoutsError
        answers: list[Any] = []
        for at in range(0, len(keys), ROWS_AT_ONCE):
            with self.client.pipeline(transaction=False) as pipe:
                for key, value in zip(keys[at : at + ROWS_AT_ONCE], values[at : at + ROWS_AT_ONCE], strict=True):
                    pipe.execute_command("EVAL", script, 1, key, b"", *head, value)
                answers += pipe.execute()
        return answers

    def _call(self, script: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([hiredis.pack_command(call) for call in calls], check_health=False)
            answers = _received(connection, len(calls), raising=False)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        said = [str(answer) for answer in answers if isinstance(answer, hiredis.ReplyError)]
        if any(text.startswith("NOSCRIPT") for text in said):
            self.client.script_load(script)
            return self._call(script, calls)
        if any(text.startswith("STALE") for text in said):
            raise StaleLayoutsError
        if said:
            raise redis.ResponseError(said[0])
        return answers


class AsyncRedisStore:
    """What readers need of :class:`RedisStore`, for ``asyncio``; bound to the event loop of its first use."""

    def __init__(self, settings: OnlineSettings, client: AsyncClient | None = None) -> None:
        self.settings = settings
        self.client: Any = client if client is not None else connect_async(settings)

    async def ping(self) -> None:
        """As :meth:`RedisStore.ping`."""
        with translated(self.settings):
            await self.client.ping()

    async def layouts(self, project: str) -> dict[int, Layout]:
        """As :meth:`RedisStore.layouts`."""
        with translated(self.settings):
            found: Any = await self.client.hgetall(layouts_key(project))
        return parsed_layouts(found)

    async def views(self, project: str) -> dict[str, str]:
        """As :meth:`RedisStore.views`."""
        with translated(self.settings):
            found: Any = await self.client.hgetall(views_key(project))
        return {name.decode(): text.decode() for name, text in found.items()}

    async def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """As :meth:`RedisStore.fetch`."""
        with translated(self.settings):
            asked = [
                ([layouts_key(project)], [REVISION]),
                *((k, f or [REVISION]) for k, f in requests),
            ]  # HMGET needs a field
            if isinstance(self.client, AsyncRedisCluster):
                return _fetched(asked, await self._cluster_replies(asked[:2]) + await self._cluster_replies(asked[2:]))
            return _fetched(asked, await self._retried(asked))

    async def _retried(self, asked: Sequence[Request]) -> list[Any]:
        for tries in range(self.settings.retries):
            try:
                return await self._replies(asked)
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                await asyncio.sleep(min(BACKOFF_CAP, BACKOFF_BASE * 2**tries))
        return await self._replies(asked)

    async def _replies(self, asked: Sequence[Request]) -> list[Any]:
        pool = self.client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command([packed(asked)], check_health=False)
            async with asyncio.timeout(self.settings.read_timeout):
                return await _received_async(connection, sum(len(keys) for keys, _ in asked))
        except TimeoutError as error:
            await connection.disconnect()
            raise redis.TimeoutError("timed out") from error
        except BaseException:
            await connection.disconnect()
            raise
        finally:
            await pool.release(connection)

    async def _cluster_replies(self, asked: Sequence[Request]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for keys, fields in asked:
            for key in keys:
                pipe.hmget(key, list(fields))
        replies: list[Any] = await pipe.execute()
        return replies

    async def close(self) -> None:
        """Give back all connections."""
        await close_async(self.client)


def packed(requests: Sequence[Request]) -> bytes:
    """The HMGET commands of all requests as one string in Redis's protocol."""
    parts: list[bytes] = []
    for keys, fields in requests:
        head = b"*%d\r\n$5\r\nHMGET\r\n$" % (len(fields) + 2)
        tail = b"".join(b"\r\n$%d\r\n%b" % (len(f), f) for f in fields) + b"\r\n"
        parts += [b"%b%d\r\n%b%b" % (head, len(key), key, tail) for key in keys]
    return b"".join(parts)


def parsed_layouts(found: dict[bytes, bytes]) -> dict[int, Layout]:
    """What the hash of layouts holds, by id."""
    return {int(name, 16): Layout.from_json(text) for name, text in found.items() if name != REVISION}


def _portions(values: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Ranges of ``values`` that are written by one call each."""
    start, size = 0, 0
    for position, value in enumerate(values):
        if position - start == ROWS_AT_ONCE or (size and size + len(value) > BYTES_AT_ONCE):
            yield start, position
            start, size = position, 0
        size += len(value)
    if start < len(values):
        yield start, len(values)


def _received(connection: Any, count: int, *, raising: bool = True) -> list[Any]:
    """``count`` replies, straight from the socket into hiredis."""
    reader = hiredis.Reader()
    replies: list[Any] = []
    try:
        while not _parsed(reader, replies, count):
            reader.feed(_some(connection._sock.recv(_RECEIVE)))  # noqa: SLF001 - redis-py parses ten times slower
    except TimeoutError as error:
        raise redis.TimeoutError("timed out") from error
    return _without_errors(replies) if raising else replies


async def _received_async(connection: Any, count: int) -> list[Any]:
    """As :func:`_received`."""
    reader = hiredis.Reader()
    replies: list[Any] = []
    while not _parsed(reader, replies, count):
        reader.feed(_some(await connection._reader.read(_RECEIVE)))  # noqa: SLF001 - likewise
    return _without_errors(replies)


def _parsed(reader: Any, replies: list[Any], count: int) -> bool:
    """Take the replies that ``reader`` has in full; whether there are ``count`` now."""
    while len(replies) < count and (reply := reader.gets()) is not False:
        replies.append(reply)
    return len(replies) == count


def _some(received: bytes) -> bytes:
    if not received:
        raise redis.ConnectionError("connection closed")
    return received


def _without_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise redis.ResponseError(str(reply))
    return replies


def _fetched(asked: Sequence[Request], replies: list[Any]) -> Fetched:
    grouped, at = [], 1
    for keys, _ in asked[1:]:
        grouped.append(replies[at : at + len(keys)])
        at += len(keys)
    return Fetched(int(replies[0][0] or 0), grouped)


def _width(layout: Layout) -> bytes:
    return b"0" if layout.loose else str(layout.fixed.itemsize).encode()


def _glob(text: bytes) -> bytes:
    for special in (b"\\", b"*", b"?", b"[", b"]"):
        text = text.replace(special, b"\\" + special)
    return text
