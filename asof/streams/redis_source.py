"""Reads a Redis Stream through a consumer group; names of streams.

A stream and its dead-letter stream share a hash tag, so that one script can write to both on a cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import redis
from redis.cluster import RedisCluster

from asof.online.redis.connections import Client, translated
from asof.settings import OnlineSettings
from asof.streams.messages import DeadLetter, Message

GROUP = "asof"
FIELD = b"event"
"""Field of an entry that holds the event as JSON; an entry without it is an event whose fields are texts."""

WAIT = 0.5
"""Seconds that a poll waits for the first message; a consumer checks its stop event between polls."""

CLAIM_AFTER = 30.0
"""Seconds after which unsettled messages of another consumer are claimed."""

SETTLE = """
-- KEYS: stream, dead-letter stream. ARGV: group, 1 to delete settled entries, number of dead letters, three values for each
-- (event, position, reason), then the positions to acknowledge.
local at = 4
for i = 1, tonumber(ARGV[3]) do
  if redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at + 1], ARGV[at + 1], 1)[1] then
    redis.call('XADD', KEYS[2], '*', 'event', ARGV[at], 'position', ARGV[at + 1], 'reason', ARGV[at + 2])
  end
  at = at + 3
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, at))
if ARGV[2] == '1' then redis.call('XDEL', KEYS[1], unpack(ARGV, at)) end
"""

_AT_ONCE = 1_000


def stream_name(project: str, table: str) -> str:
    """The stream of a table, unless another one is named: ``asof:{project}:stream:table``."""
    return f"asof:{{{quote(project, safe='')}}}:stream:{quote(table, safe='')}"


def dead_letter_name(stream: str) -> str:
    """The dead-letter stream beside ``stream``, in the same slot of a cluster."""
    return f"{stream}:dead" if "{" in stream else f"{{{stream}}}:dead"


class RedisSource:
    """One consumer of a Redis Stream.

    Args:
        settings: The Redis that holds the stream.
        client: A client for it.
        stream: Name of the stream; it is created if it does not exist.
        consumer: Name of this consumer; messages delivered to this name before and not settled come first.
        group: Consumer group.
        claim_after: Seconds, see :data:`CLAIM_AFTER`.
        forget: Whether settled entries are deleted from the stream.

    Raises:
        OnlineStoreError: Redis does not answer.
    """

    def __init__(
        self, settings: OnlineSettings, client: Client, stream: str, consumer: str, *, group: str = GROUP,
        claim_after: float = CLAIM_AFTER, forget: bool = False,
    ) -> None:  # fmt: skip
        self.settings, self.client, self.stream, self.consumer, self.group = settings, client, stream, consumer, group
        self.claim_after, self.forget = claim_after, forget
        self._own: str | None = "0"
        self._claimed = 0.0
        self._make_group()

    @property
    def name(self) -> str:
        """The stream's own name."""
        return self.stream

    def poll(self, count: int, linger: float) -> list[Message]:
        """As :meth:`asof.streams.messages.EventSource.poll`: first this consumer's unsettled messages, then abandoned ones of others, then new ones."""
        with translated(self.settings):
            try:
                return self._unsettled(count) or self._abandoned(count) or self._new(count, linger)
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._make_group()
                return []

    def settle(self, messages: Sequence[Message], dead_letters: Sequence[DeadLetter]) -> None:
        """Move dead letters to the dead-letter stream and acknowledge all messages, a thousand at a time, each once."""
        reasons = {dead_letter.message.position: dead_letter.reason for dead_letter in dead_letters}
        for at in range(0, len(messages), _AT_ONCE):
            some = messages[at : at + _AT_ONCE]
            dead = [m for m in some if m.position in reasons]
            said = [part for m in dead for part in (m.payload or b"", m.position, reasons[m.position])]
            arguments = [self.group, int(self.forget), len(dead), *said, *(m.position for m in some)]
            self._run(arguments)

    def drained(self) -> bool:
        """Whether every entry was delivered and acknowledged."""
        found = self.backlog(1)
        return found["unread"] == 0 and found["pending"] == 0

    def pending(self) -> list[str]:
        """Positions that were delivered to any consumer and not acknowledged."""
        found: list[str] = []
        start = "-"
        with translated(self.settings):
            while True:
                some: list[Any] = self.client.xpending_range(self.stream, self.group, start, "+", _AT_ONCE)
                found += [entry["message_id"].decode() for entry in some]
                if len(some) < _AT_ONCE:
                    return found
                start = f"({found[-1]}"

    def backlog(self, most: int = 10_000) -> dict[str, int]:
        """Counts of ``unread`` (up to ``most``) and ``pending`` entries, and the seconds that the last delivery is ``behind``."""
        return backlog(self.settings, self.client, self.stream, self.group, most)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _unsettled(self, count: int) -> list[Message]:
        if self._own is None:
            return []
        found: Any = self.client.xreadgroup(self.group, self.consumer, {self.stream: self._own}, count=count)
        messages = _messages(found[0][1]) if found else []
        self._own = messages[-1].position if messages else None
        return messages

    def _abandoned(self, count: int) -> list[Message]:
        if time.monotonic() - self._claimed < self.claim_after / 4:
            return []
        found: Any = self.client.xautoclaim(
            self.stream, self.group, self.consumer, min_idle_time=int(self.claim_after * 1000), count=count
        )
        messages = _messages(found[1])
        if not messages:
            self._claimed = time.monotonic()
        return messages

    def _new(self, count: int, linger: float) -> list[Message]:
        messages = self._read(count, WAIT)
        deadline = time.monotonic() + linger
        while messages and len(messages) < count and (left := deadline - time.monotonic()) > 0.001:
            messages += self._read(count - len(messages), left)
        return messages

    def _read(self, count: int, seconds: float) -> list[Message]:
        found: Any = self.client.xreadgroup(
            self.group, self.consumer, {self.stream: ">"}, count=count, block=max(1, int(seconds * 1000))
        )
        return _messages(found[0][1]) if found else []

    def _make_group(self) -> None:
        with translated(self.settings):
            try:
                self.client.xgroup_create(self.stream, self.group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def _run(self, arguments: list[Any]) -> None:
        keys = [self.stream, dead_letter_name(self.stream)]
        with translated(self.settings):
            if isinstance(self.client, RedisCluster):
                self.client.eval(SETTLE, len(keys), *keys, *arguments)
            else:
                self.client.register_script(SETTLE)(keys=keys, args=arguments)


def backlog(settings: OnlineSettings, client: Client, stream: str, group: str, most: int) -> dict[str, int]:
    """As :meth:`RedisSource.backlog`; all entries are unread where there is no group yet.

    Raises:
        OnlineStoreError: Redis does not answer.
    """
    with translated(settings):
        if not client.exists(stream):
            return {"unread": 0, "pending": 0, "behind": 0}
        groups: list[Any] = client.xinfo_groups(stream)
        mine = next((g for g in groups if g["name"] == group.encode()), None)
        last = mine["last-delivered-id"].decode() if mine else "0-0"
        unread: Any = client.xrange(stream, f"({last}", "+", count=most)
        newest = int(client.xinfo_stream(stream)["last-generated-id"].split(b"-")[0])
    behind = (newest - int(unread[0][0].split(b"-")[0])) // 1000 if unread else 0
    return {"unread": len(unread), "pending": mine["pending"] if mine else 0, "behind": behind}


def _messages(entries: Sequence[Any]) -> list[Message]:
    return [_message(position, fields) for position, fields in entries if position is not None]


def _message(position: bytes, fields: dict[bytes, bytes] | None) -> Message:
    sent = int(position.split(b"-")[0]) * 1000
    if not fields:
        return Message(position.decode(), None, sent)
    payload = fields.get(FIELD)
    if payload is None:
        texts = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in fields.items()}
        payload = json.dumps(texts).encode()
    return Message(position.decode(), payload, sent)
