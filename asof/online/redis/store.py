"""The online store in Redis, for threads and for ``asyncio``.

A read sends all its HMGET commands as one string of bytes (:mod:`asof.online.redis.transport`). A cluster is read and written through
redis-py's pipelines, which know the node of each key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import hiredis
import redis
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from asof.errors import OnlineStoreError
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout, field_of
from asof.online.redis.connections import (
    AsyncClient,
    Client,
    close_async,
    connect,
    connect_async,
    online_store_error,
    translated,
)
from asof.online.redis.keys import layouts_key, project_prefix, streams_prefix, views_key
from asof.online.redis.resp_decoding import HashReplies, Replies
from asof.online.redis.resp_encoding import BulkStrings, frame
from asof.online.redis.scripts import ADD_LAYOUT, PUT_EVENTS, PUT_ROWS, REPLACE
from asof.online.redis.transport import AsyncTransport, Transport
from asof.online.redis.watermarks import RedisWatermark
from asof.online.store_protocol import (
    EventsWritten,
    Fetched,
    Replacement,
    Request,
    Sibling,
    StaleLayoutsError,
    WriteTarget,
)
from asof.online.watermarks import Watermark
from asof.settings import OnlineSettings

ROWS_AT_ONCE = 256
"""Keys per call of a script, which blocks Redis for about a millisecond."""
CALLS_AT_ONCE = 8
"""Calls of a script per round trip."""
BYTES_AT_ONCE = 1 << 18
"""Bytes per call of a script, unless a single value is larger."""
DELETES_AT_ONCE = 500
REVISION = b"revision"
"""Field of the layouts' hash that counts how often a layout was added or removed."""
_ROLES = {"buckets": b"b", "old": b"o", "foreign": b"x"}


class RedisStore:
    """The store in Redis.

    Args:
        settings: How to reach it.
        client: A client to use instead of a new one.
    """

    def __init__(self, settings: OnlineSettings, client: Client | None = None) -> None:
        self.settings = settings
        self.client: Any = client if client is not None else connect(settings)
        self._transport: Transport | None = None
        if not isinstance(self.client, RedisCluster):
            self._transport = Transport(self.client.connection_pool, settings.retries)

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
        """Register ``layout``, which must happen before the first value that uses it; returns the revision.

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
        """The registered definition of each view."""
        with translated(self.settings):
            found: Any = self.client.hgetall(views_key(project))
        return {name.decode(): text.decode() for name, text in found.items()}

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register the definitions that readers compare their contract with."""
        with translated(self.settings):
            if views:
                self.client.hset(views_key(project), mapping=dict(views))

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """The stored values for every request, in one round trip.

        Raises:
            OnlineStoreError: Redis does not answer after ``settings.retries`` further attempts.
        """
        try:
            if self._transport is None:
                all_requests = with_revision(project, requests)
                # Nodes answer in parallel: the watermarks must have been read before the keys are requested.
                replies = self._cluster_replies(all_requests[:2]) + self._cluster_replies(all_requests[2:])
                return fetched_in_cluster(all_requests, replies)
            return fetched(self._transport.exchange(packed(project, requests), lambda: reply_parser(requests)))
        except (redis.RedisError, OSError) as error:
            raise online_store_error(self.settings, error) from error

    def put_rows(
        self, target: WriteTarget, keys: Sequence[bytes], rows: Sequence[bytes], now: int, key_ttl: int = 0
    ) -> int:
        """Write rows, each one unless the store has a newer one; returns the number of rows written. See :data:`PUT_ROWS`."""
        head = [field_of(target.layout), now.to_bytes(8, "little", signed=True), str(key_ttl).encode()]
        return sum(self._run(PUT_ROWS, target, head, keys, rows))

    def put_events(
        self, target: WriteTarget, siblings: Sequence[Sibling], pruning: Pruning, keys: Sequence[bytes],
        blobs: Sequence[bytes], now: int, key_ttl: int = 0,
    ) -> EventsWritten:  # fmt: skip
        """Add events, each id once. See :data:`PUT_EVENTS`."""
        numbers = [pruning.horizon, pruning.slack, now, pruning.limit, pruning.compact_every, key_ttl, len(siblings)]
        head = [field_of(target.layout), _width(target.layout), *(str(n).encode() for n in numbers)]
        head += [part for s in siblings for part in (field_of(s.layout), _ROLES.get(s.role) or _width(s.layout))]
        answers = self._run(PUT_EVENTS, target, head, keys, blobs)
        return EventsWritten(sum(a[0] for a in answers), sum(a[1] for a in answers), [k for a in answers for k in a[2]])

    def replace(
        self, target: WriteTarget, layout: Layout, keys: Sequence[bytes], replacements: Sequence[Replacement]
    ) -> list[bool]:
        """Replace events and buckets of each key if neither has changed; returns whether they were. See :data:`REPLACE`."""
        head = [field_of(target.layout), field_of(layout)]
        answers = self._run(REPLACE, target, head, keys, [r.packed() for r in replacements])
        return [bool(done) for answer in answers for done in answer]

    def watermark(self, project: str, table: str) -> Watermark:
        """The watermark of a table."""
        return RedisWatermark(project, table, self.settings, self.client)

    def drop(self, project: str, view: str) -> int:
        """Delete everything stored of one view, in steps that do not block Redis; returns the number of keys visited."""
        with translated(self.settings):
            fields = list({field_of(x) for x in self.layouts(project).values() if x.view == view})
            visited = 0
            for keys in self._scan(project_prefix(project)) if fields else ():
                self._delete_fields(keys, fields)
                visited += len(keys)
            self._forget(project, view)
        return visited

    def drop_project(self, project: str) -> int:
        """Delete everything stored for a project, in steps; returns the number of keys deleted."""
        with translated(self.settings):
            deleted = self._unlink(project_prefix(project))
            self._unlink(streams_prefix(project))
            for key in (layouts_key(project), views_key(project)):
                self.client.delete(key)
        return deleted

    def close(self) -> None:
        """Give back all connections."""
        if self._transport is not None:
            self._transport.close()
        self.client.close()

    def _forget(self, project: str, view: str) -> None:
        stale = [f"{i:08x}" for i, layout in self.layouts(project).items() if layout.view == view]
        if stale:
            self.client.hdel(layouts_key(project), *stale)
            self.client.hincrby(layouts_key(project), REVISION.decode(), 1)
        self.client.hdel(views_key(project), view)

    def _unlink(self, prefix: bytes) -> int:
        deleted = 0
        for keys in self._scan(prefix):
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.unlink(key)
                deleted += sum(pipe.execute())
        return deleted

    def _scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        keys: list[bytes] = []
        for key in self.client.scan_iter(_glob(prefix) + b"*", count=DELETES_AT_ONCE):
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

    def _cluster_replies(self, requests: Sequence[Request]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for keys, fields in requests:
                for key in keys:
                    pipe.hmget(key, list(fields))
            replies: list[Any] = pipe.execute()
        return replies

    def _run(
        self, script: str, target: WriteTarget, head: list[bytes], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Any]:
        """Run a script over all keys in portions. The scripts are idempotent, so a failed exchange is repeated."""
        with translated(self.settings):
            if self._transport is None:
                return self._run_in_cluster(script, target, head, keys, values)
            sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
            owners, written, count = BulkStrings.of(keys), BulkStrings.of(values), 3 + 2 + len(head)
            after = b"".join(map(frame, (layouts_key(target.project), str(target.revision).encode(), *head)))
            calls = [
                b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n%b%b%b%b"
                % (
                    count + 2 * (b - a),
                    sha,
                    frame(b"%d" % (b - a + 1)),
                    owners.framed(a, b),
                    after,
                    written.framed(a, b),
                )
                for a, b in written.portions(ROWS_AT_ONCE, BYTES_AT_ONCE)
            ]
            answers: list[Any] = []
            for at in range(0, len(calls), CALLS_AT_ONCE):
                answers += self._call(self._transport, script, calls[at : at + CALLS_AT_ONCE])
            return answers

    def _run_in_cluster(
        self, script: str, target: WriteTarget, head: list[bytes], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Any]:
        """Run a script key by key, because each key, and the layouts, may be on different nodes."""
        if self.client.hget(layouts_key(target.project), REVISION) != str(target.revision).encode():
            raise StaleLayoutsError
        answers: list[Any] = []
        for at in range(0, len(keys), ROWS_AT_ONCE):
            with self.client.pipeline(transaction=False) as pipe:
                for key, value in zip(keys[at : at + ROWS_AT_ONCE], values[at : at + ROWS_AT_ONCE], strict=True):
                    pipe.execute_command("EVAL", script, 1, key, b"", *head, value)
                answers += pipe.execute()
        return answers

    def _call(self, transport: Transport, script: str, calls: Sequence[bytes]) -> list[Any]:
        answers = transport.exchange(b"".join(calls), lambda: Replies(len(calls))).found
        said = [str(answer) for answer in answers if isinstance(answer, hiredis.ReplyError)]
        if any(text.startswith("NOSCRIPT") for text in said):
            self.client.script_load(script)
            return self._call(transport, script, calls)
        if any(text.startswith("STALE") for text in said):
            raise StaleLayoutsError
        if said:
            raise redis.ResponseError(said[0])
        return answers


class AsyncRedisStore:
    """The readable part of :class:`RedisStore` for ``asyncio``; belongs to the event loop of its first use.

    Args:
        settings: How to reach it.
        client: A client to use instead of a new one.
    """

    def __init__(self, settings: OnlineSettings, client: AsyncClient | None = None) -> None:
        self.settings = settings
        self.client: Any = client if client is not None else connect_async(settings)
        self._transport: AsyncTransport | None = None
        if not isinstance(self.client, AsyncRedisCluster):
            self._transport = AsyncTransport(self.client.connection_pool, settings.retries, settings.read_timeout)

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
        try:
            if self._transport is None:
                all_requests = with_revision(project, requests)
                replies = await self._cluster_replies(all_requests[:2]) + await self._cluster_replies(all_requests[2:])
                return fetched_in_cluster(all_requests, replies)
            return fetched(await self._transport.exchange(packed(project, requests), lambda: reply_parser(requests)))
        except (redis.RedisError, OSError) as error:
            raise online_store_error(self.settings, error) from error

    async def close(self) -> None:
        """Release all connections."""
        if self._transport is not None:
            await self._transport.close()
        await close_async(self.client)

    async def _cluster_replies(self, requests: Sequence[Request]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for keys, fields in requests:
            for key in keys:
                pipe.hmget(key, list(fields))
        replies: list[Any] = await pipe.execute()
        return replies


def with_revision(project: str, requests: Sequence[Request]) -> list[Request]:
    """The request of the layouts' revision, then ``requests``; HMGET needs at least one field."""
    return [((layouts_key(project),), (REVISION,)), *((k, f or (REVISION,)) for k, f in requests)]


def packed(project: str, requests: Sequence[Request]) -> bytes:
    """The HMGET commands of :func:`with_revision` in Redis's protocol."""
    commands = [_revision(project)]
    for keys, fields in requests:
        if type(keys) is tuple:
            commands.append(_cached_commands(keys, tuple(fields)))
        elif keys:
            commands.append(_commands(keys, *_frame(tuple(fields))))
    return b"".join(commands)


@lru_cache(maxsize=64)
def _revision(project: str) -> bytes:
    return _commands((layouts_key(project),), *_frame((REVISION,)))


@lru_cache(maxsize=256)
def _cached_commands(keys: tuple[bytes, ...], fields: tuple[bytes, ...]) -> bytes:
    """The commands of keys that every read requests; such keys are given as a tuple."""
    return _commands(keys, *_frame(fields)) if keys else b""


def _commands(keys: Sequence[bytes], head: bytes, tail: bytes) -> bytes:
    """One command for each key; the bytes between two keys depend only on the size of the second."""
    if len(keys) == 1:
        return b"%b%d\r\n%b%b" % (head, len(keys[0]), keys[0], tail)
    between = {size: b"%b%b%d\r\n" % (tail, head, size) for size in set(map(len, keys))}
    if len(between) == 1:
        (one,) = between.values()
        return b"%b%b%b" % (one[len(tail) :], one.join(keys), tail)
    return b"".join([between[len(key)] + key for key in keys])[len(tail) :] + tail


@lru_cache(maxsize=1024)
def _frame(fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """The bytes before and after the key of an HMGET command, which needs at least one field."""
    fields = fields or (REVISION,)
    tail = b"".join(b"\r\n$%d\r\n%b" % (len(f), f) for f in fields)
    return b"*%d\r\n$5\r\nHMGET\r\n$" % (len(fields) + 2), tail + b"\r\n"


def reply_parser(requests: Sequence[Request]) -> HashReplies:
    """A parser for the reply to :func:`packed` commands."""
    return HashReplies([1, *[len(keys) for keys, _ in requests]])


def fetched(replies: HashReplies) -> Fetched:
    """The values in the reply to :func:`packed` commands."""
    first, *found = replies.groups()
    return Fetched(int(first[0][0] or 0), found)


def fetched_in_cluster(requests: Sequence[Request], replies: list[Any]) -> Fetched:
    """The values in a list of replies, one for each key of ``requests``, the revision first."""
    groups, at = [], 1
    for keys, _ in requests[1:]:
        groups.append(replies[at : at + len(keys)])
        at += len(keys)
    return Fetched(int(replies[0][0] or 0), groups)


def parsed_layouts(found: dict[bytes, bytes]) -> dict[int, Layout]:
    """The layouts in their hash, by id."""
    return {int(name, 16): Layout.from_json(text) for name, text in found.items() if name != REVISION}


def _width(layout: Layout) -> bytes:
    return b"0" if layout.variable_width else str(layout.fixed.itemsize).encode()


def _glob(text: bytes) -> bytes:
    for special in (b"\\", b"*", b"?", b"[", b"]"):
        text = text.replace(special, b"\\" + special)
    return text
