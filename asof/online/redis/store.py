"""The store in Redis: what :mod:`asof.online.memory` is in a dict, behind the same few methods.

Reads are sent as one packed string of HMGET commands over lines of our own (:mod:`asof.online.redis.transport`); redis-py makes and
authenticates their connections. A cluster is read and written through redis-py's own pipelines, which know where a key lives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import hiredis
import redis
from redis.cluster import RedisCluster

from asof.errors import OnlineStoreError
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout, field_of
from asof.online.compaction import Exchange
from asof.online.redis.connections import Client, connect, translated
from asof.online.redis.keys import layouts_key, project_prefix, streams_prefix, views_key
from asof.online.redis.resp_decoding import HashReplies, Replies
from asof.online.redis.resp_encoding import Bulk, frame
from asof.online.redis.scripts import ADD_LAYOUT, EXCHANGE, PUT_EVENTS, PUT_ROWS
from asof.online.redis.transport import Lines
from asof.online.store_protocol import Added, Fetched, Request, Sibling, StaleLayoutsError, Target
from asof.online.watermarks import RedisWatermark, Watermark
from asof.settings import OnlineSettings

ROWS_AT_ONCE = 256
"""Keys that one call of a script writes: Redis serves nobody else during it, about a millisecond."""
CALLS_AT_ONCE = 8
"""Calls of a script that are sent together."""
BYTES_AT_ONCE = 1 << 18
"""Bytes that one call of a script writes, unless a single value is larger."""
DELETES_AT_ONCE = 500
REVISION = b"revision"
"""Field of the hash of layouts that counts how often a layout was added or removed."""
_ROLES = {"buckets": b"b", "old": b"o", "foreign": b"x"}


class RedisStore:
    """The store in Redis.

    Args:
        settings: How to reach it.
        client: A client to use instead of a new one.
    """

    def __init__(self, settings: OnlineSettings, client: Client | None = None) -> None:
        self.settings, self._translated = settings, translated(settings)
        self.client: Any = client if client is not None else connect(settings)
        self._lines: Lines | None = None
        if not isinstance(self.client, RedisCluster):
            self._lines = Lines(self.client.connection_pool, settings.retries)

    def ping(self) -> None:
        """Raise unless the store answers.

        Raises:
            OnlineStoreError: It does not.
        """
        with self._translated:
            self.client.ping()

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""
        with self._translated:
            found: Any = self.client.hgetall(layouts_key(project))
        return parsed_layouts(found)

    def add_layout(self, project: str, layout: Layout) -> int:
        """Make ``layout`` known to all readers; must come before the first value that uses it. Returns the revision.

        Raises:
            OnlineStoreError: Another layout has the same id.
        """
        text = layout.to_json()
        with self._translated:
            stored, revision = self.client.eval(ADD_LAYOUT, 1, layouts_key(project), f"{layout.id:08x}", text)
        if stored != text.encode():
            raise OnlineStoreError(
                f"two layouts share the id {layout.id:08x}; rename a feature of view {layout.view!r}"
            )
        return int(revision)

    def views(self, project: str) -> dict[str, str]:
        """What was registered for each view."""
        with self._translated:
            found: Any = self.client.hgetall(views_key(project))
        return {name.decode(): text.decode() for name, text in found.items()}

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register what readers compare their contract with."""
        with self._translated:
            if views:
                self.client.hset(views_key(project), mapping=dict(views))

    def nudge(self) -> None:
        """Wake Redis for a question that is about to come."""
        if self._lines is not None:
            self._lines.nudge()

    def fetch(
        self, project: str, requests: Sequence[Request], meanwhile: Callable[[], object] | None = None
    ) -> Fetched:
        """What is stored for every request, in one round trip; ``meanwhile`` is called for each question that was sent.

        Raises:
            OnlineStoreError: Redis does not answer after ``settings.retries`` further tries.
        """
        with self._translated:
            if self._lines is None:
                asked = questions(project, requests)
                # Nodes answer side by side: what comes first (watermarks) has to be there before the rest is asked for.
                return grouped(asked, self._cluster_replies(asked[:2]) + self._cluster_replies(asked[2:]))
            return answered(self._lines.exchange(packed(project, requests), lambda: expected(requests, meanwhile)))

    def put_rows(self, target: Target, keys: Sequence[bytes], rows: Sequence[bytes], now: int, live: int = 0) -> int:
        """Write rows, each one unless the store has a newer one; returns how many were news. See :data:`PUT_ROWS`."""
        head = [field_of(target.layout), now.to_bytes(8, "little", signed=True), str(live).encode()]
        return sum(self._run(PUT_ROWS, target, head, keys, rows))

    def put_events(
        self, target: Target, siblings: Sequence[Sibling], pruning: Pruning, keys: Sequence[bytes],
        blobs: Sequence[bytes], now: int, live: int = 0,
    ) -> Added:  # fmt: skip
        """Add events, each id once. See :data:`PUT_EVENTS`."""
        numbers = [pruning.horizon, pruning.slack, now, pruning.limit, pruning.fold, live, len(siblings)]
        head = [field_of(target.layout), _width(target.layout), *(str(n).encode() for n in numbers)]
        head += [part for s in siblings for part in (field_of(s.layout), _ROLES.get(s.role) or _width(s.layout))]
        answers = self._run(PUT_EVENTS, target, head, keys, blobs)
        return Added(sum(a[0] for a in answers), sum(a[1] for a in answers), [k for a in answers for k in a[2]])

    def exchange(
        self, target: Target, layout: Layout, keys: Sequence[bytes], exchanges: Sequence[Exchange]
    ) -> list[bool]:
        """Put new events and buckets in place of old ones where neither changed; whether that was so. See :data:`EXCHANGE`."""
        head = [field_of(target.layout), field_of(layout)]
        answers = self._run(EXCHANGE, target, head, keys, [e.packed() for e in exchanges])
        return [bool(done) for answer in answers for done in answer]

    def watermark(self, project: str, table: str) -> Watermark:
        """The watermark of a table."""
        return RedisWatermark(project, table, self.settings, self.client)

    def drop(self, project: str, view: str) -> int:
        """Delete what is stored of one view, in steps that do not block Redis; returns how many keys were visited."""
        with self._translated:
            fields = list({field_of(x) for x in self.layouts(project).values() if x.view == view})
            visited = 0
            for keys in self._scan(project_prefix(project)) if fields else ():
                self._delete_fields(keys, fields)
                visited += len(keys)
            self._forget(project, view)
        return visited

    def drop_project(self, project: str) -> int:
        """Delete everything that is stored for a project, in steps; returns how many keys there were."""
        with self._translated:
            deleted = self._unlink(project_prefix(project))
            self._unlink(streams_prefix(project))
            for key in (layouts_key(project), views_key(project)):
                self.client.delete(key)
        return deleted

    def close(self) -> None:
        """Give back all connections."""
        if self._lines is not None:
            self._lines.close()
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
        self, script: str, target: Target, head: list[bytes], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Any]:
        """Run a script over all keys, some at a time; idempotent, so a lost connection is answered by sending again."""
        with self._translated:
            if self._lines is None:
                return self._run_in_cluster(script, target, head, keys, values)
            sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
            owners, written, count = Bulk.of(keys), Bulk.of(values), 3 + 2 + len(head)
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
                answers += self._call(self._lines, script, calls[at : at + CALLS_AT_ONCE])
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

    def _call(self, lines: Lines, script: str, calls: Sequence[bytes]) -> list[Any]:
        answers = lines.exchange(b"".join(calls), lambda: Replies(len(calls))).found
        said = [str(answer) for answer in answers if isinstance(answer, hiredis.ReplyError)]
        if any(text.startswith("NOSCRIPT") for text in said):
            self.client.script_load(script)
            return self._call(lines, script, calls)
        if any(text.startswith("STALE") for text in said):
            raise StaleLayoutsError
        if said:
            raise redis.ResponseError(said[0])
        return answers


def questions(project: str, requests: Sequence[Request]) -> list[Request]:
    """What a read asks Redis: the revision of the layouts first, then ``requests``. HMGET needs a field."""
    return [((layouts_key(project),), (REVISION,)), *((k, f or (REVISION,)) for k, f in requests)]


def packed(project: str, requests: Sequence[Request]) -> bytes:
    """The HMGET commands of :func:`questions` as one string in Redis's protocol."""
    commands = [_revision(project)]
    for keys, fields in requests:
        if type(keys) is tuple:
            commands.append(_remembered(keys, tuple(fields)))
        elif keys:
            commands.append(_commands(keys, *_frame(tuple(fields))))
    return b"".join(commands)


@lru_cache(maxsize=64)
def _revision(project: str) -> bytes:
    return _commands((layouts_key(project),), *_frame((REVISION,)))


@lru_cache(maxsize=256)
def _remembered(keys: tuple[bytes, ...], fields: tuple[bytes, ...]) -> bytes:
    """The commands of keys that are asked for at every read, which come as a tuple."""
    return _commands(keys, *_frame(fields)) if keys else b""


def _commands(keys: Sequence[bytes], head: bytes, tail: bytes) -> bytes:
    """A command for each key; what stands between two keys depends only on the size of the second."""
    if len(keys) == 1:
        return b"%b%d\r\n%b%b" % (head, len(keys[0]), keys[0], tail)
    between = {size: b"%b%b%d\r\n" % (tail, head, size) for size in set(map(len, keys))}
    if len(between) == 1:
        (one,) = between.values()
        return b"%b%b%b" % (one[len(tail) :], one.join(keys), tail)
    return b"".join([between[len(key)] + key for key in keys])[len(tail) :] + tail


@lru_cache(maxsize=1024)
def _frame(fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """What comes before and after the key of an HMGET command, which needs a field."""
    fields = fields or (REVISION,)
    tail = b"".join(b"\r\n$%d\r\n%b" % (len(f), f) for f in fields)
    return b"*%d\r\n$5\r\nHMGET\r\n$" % (len(fields) + 2), tail + b"\r\n"


def expected(requests: Sequence[Request], meanwhile: Callable[[], object] | None = None) -> HashReplies:
    """What takes the answer to :func:`questions`."""
    return HashReplies([1, *[len(keys) for keys, _ in requests]], meanwhile)


def answered(replies: HashReplies) -> Fetched:
    """What the answer to :func:`questions` says."""
    first, *found = replies.groups()
    return Fetched(int(first[0][0] or 0), found, replies.meanwhile)


def parsed_layouts(found: dict[bytes, bytes]) -> dict[int, Layout]:
    """What the hash of layouts holds, by id."""
    return {int(name, 16): Layout.from_json(text) for name, text in found.items() if name != REVISION}


def grouped(asked: Sequence[Request], replies: list[Any]) -> Fetched:
    """As :func:`answered`, from single replies."""
    groups, at = [], 1
    for keys, _ in asked[1:]:
        groups.append(replies[at : at + len(keys)])
        at += len(keys)
    return Fetched(int(replies[0][0] or 0), groups)


def _width(layout: Layout) -> bytes:
    return b"0" if layout.loose else str(layout.fixed.itemsize).encode()


def _glob(text: bytes) -> bytes:
    for special in (b"\\", b"*", b"?", b"[", b"]"):
        text = text.replace(special, b"\\" + special)
    return text
