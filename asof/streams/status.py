"""What consumers say of themselves, and what waits: behind ``asof stream status`` and the metrics.

Each consumer writes its progress into the online store about once a second, whatever kind of stream it reads. What waits in a
Redis Stream is asked of the stream itself, so that it is known also while nobody consumes.
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
"""Seconds since it last spoke after which a consumer counts as gone."""

MOST = 100_000
"""Up to how many unread entries are counted."""


@dataclass(frozen=True)
class StreamStatus:
    """A table's stream.

    Attributes:
        table: Name of the table.
        stream: Name of the stream.
        lag: Events that nobody has read yet; ``MOST`` stands for that many or more; None where only the consumers can tell.
        pending: Events under way.
        behind: Seconds between the oldest unread event and the newest.
        dead: Events on the dead-letter stream.
        rate: Events per second over all consumers alive.
        freshness: Seconds from an event's entering the stream to reads seeing it, of the slowest consumer alive.
        watermark: Moment that reads are held back to; None where they are not.
        consumers: What each consumer last said.
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


class Bulletin:
    """Where consumers say how they are.

    Args:
        project: Feast project.
        settings: The online store.
        client: A client for it.
    """

    def __init__(self, project: str, settings: OnlineSettings, client: Client) -> None:
        self.settings, self.client = settings, client
        self._key = consumers_key(project)

    def post(self, table: str, stream: str, consumer: str, progress: Progress) -> None:
        """Say how a consumer is; silent where the store is away, which the consumer notices anyway."""
        said = {
            "consumer": consumer, "stream": stream, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time(),
            **progress.to_dict(),
        }  # fmt: skip
        try:
            self.client.hset(self._key, f"{table}/{consumer}", json.dumps(said))
        except (redis.RedisError, OSError):
            return

    def read(self, table: str) -> list[dict[str, Any]]:
        """What the table's consumers said last, with ``alive``.

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
    """How the streams of some tables are.

    Args:
        project: Feast project.
        streams: Table -> name of its stream in Redis.
        settings: The online store.
        client: A client for it.
        group: Consumer group.
        carrier: The Redis that has the streams, where it is another one.

    Raises:
        OnlineStoreError: Redis does not answer.
    """
    bulletin = Bulletin(project, settings, client)
    found = []
    for table, stream in streams.items():
        said = bulletin.read(table)
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
