"""Status of streams, for ``asof stream status`` and the metrics: heartbeats of consumers, and unread messages.

Each consumer writes its progress into the online store about once a second, for Redis Streams and Kafka alike. The number of unread
messages in a Redis Stream comes from the stream itself, so it is known also while no consumer runs.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from asof.errors import OnlineStoreError
from asof.instants import format_moment
from asof.online.redis.connections import Client, translated
from asof.online.redis.keys import consumers_key
from asof.online.redis.watermarks import RedisWatermark
from asof.settings import OnlineSettings
from asof.streams.consumer import Progress
from asof.streams.redis_source import GROUP, backlog, dead_letter_name

ALIVE_WITHIN = 10.0
"""A consumer without a heartbeat for this many seconds counts as gone."""

MOST = 100_000
"""Unread entries are counted up to this number."""


@dataclass(frozen=True)
class StreamStatus:
    """A table's stream.

    Attributes:
        table: Name of the table.
        stream: Name of the stream.
        lag: Unread events; ``MOST`` means that many or more; None if only the consumers know (Kafka).
        pending: Delivered events that are not settled.
        behind: Seconds between the oldest unread event and the newest.
        dead: Events on the dead-letter stream.
        rate: Events per second over all running consumers.
        freshness: Seconds between an event's arrival in the stream and its visibility to reads, for the slowest running consumer.
        watermark: Moment that reads are held back to; None if they are not.
        consumers: The last heartbeat of each consumer.
    """

    table: str
    stream: str
    lag: int | None
    pending: int | None
    behind: int | None
    dead: int | None
    rate: float
    freshness: float | None
    watermark: str | None
    consumers: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON-ready data."""
        return asdict(self)


class Heartbeats:
    """Heartbeats of consumers, in the online store.

    Args:
        project: Feast project.
        settings: The online store.
        client: A client for it.
    """

    def __init__(self, project: str, settings: OnlineSettings, client: Client) -> None:
        self.settings, self.client = settings, client
        self._key = consumers_key(project)

    def send(self, table: str, stream: str, consumer: str, progress: Progress) -> None:
        """Write a consumer's heartbeat. An unreachable store is ignored here, because the consumer itself reports it."""
        said = {
            "consumer": consumer, "stream": stream, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time(),
            **progress.to_dict(),
        }  # fmt: skip
        try:
            self.client.hset(self._key, f"{table}/{consumer}", json.dumps(said))
        except (redis.RedisError, OSError):
            return

    def read(self, table: str) -> list[dict[str, Any]]:
        """The last heartbeat of each of the table's consumers, with ``alive``.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        with translated(self.settings):
            found: dict[bytes, bytes] = self.client.hgetall(self._key)  # type: ignore[assignment]
        mine = [json.loads(v) for k, v in sorted(found.items()) if k.decode().rpartition("/")[0] == table]
        return [{**said, "alive": time.time() - said["at"] < ALIVE_WITHIN} for said in mine]


def statuses(
    project: str,
    streams: Mapping[str, str],
    settings: OnlineSettings,
    client: Client,
    *,
    group: str = GROUP,
    carrier: tuple[OnlineSettings, Client] | None = None,
) -> list[StreamStatus]:
    """Status of the streams of some tables.

    Args:
        project: Feast project.
        streams: Table -> name of its stream in Redis.
        settings: The online store.
        client: A client for it.
        group: Consumer group.
        carrier: The Redis that holds the streams, if it is another one.

    Raises:
        OnlineStoreError: Redis does not answer.
    """
    heartbeats = Heartbeats(project, settings, client)
    found = []
    for table, stream in streams.items():
        said = heartbeats.read(table)
        watermark = RedisWatermark(project, table, settings, client).value()
        others = {one["stream"] for one in said} - {stream}
        waiting = _waiting(*(carrier or (settings, client)), stream, group) if not others else {}
        found.append(_status(table, next(iter(others), stream), said, waiting, watermark))
    return found


def _waiting(settings: OnlineSettings, client: Client, stream: str, group: str) -> dict[str, int]:
    found = backlog(settings, client, stream, group, MOST)
    with translated(settings):
        return {**found, "dead": int(client.xlen(dead_letter_name(stream)))}


def _status(
    table: str, stream: str, said: Sequence[Mapping[str, Any]], waiting: Mapping[str, int], watermark: int | None
) -> StreamStatus:
    alive = [one for one in said if one["alive"]]
    fresh = [one["freshness"] for one in alive if one["freshness"] is not None]
    return StreamStatus(
        table=table,
        stream=stream,
        lag=waiting.get("unread"),
        pending=waiting.get("pending"),
        behind=waiting.get("behind"),
        dead=waiting.get("dead", sum(one["dead"] for one in said)),
        rate=sum(one["rate"] for one in alive),
        freshness=max(fresh, default=None),
        watermark=None if watermark is None else format_moment(watermark),
        consumers=tuple(said),
    )


def available(settings: OnlineSettings, client: Client) -> bool:
    """Whether the store answers."""
    try:
        with translated(settings):
            return bool(client.ping())
    except OnlineStoreError:
        return False
