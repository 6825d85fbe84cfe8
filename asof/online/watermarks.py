"""Watermarks: up to which moment the online store is known to hold everything.

An event that is being written is in the table a little before it is in every view. A reader that looks in between would see
what nobody can recompute. So each table may have a watermark in the online store, and a read never answers for a later
moment (:class:`asof.online.Vectors`, ``as_of``). Two rules move it:

*Stamps*, where knowledge time is the moment of arrival. An event gets its knowledge time from the store's clock before it is
written anywhere, later than every stamp before it, and keeps it however often it is delivered again. While stamped events are under way
the watermark lies just before the oldest of them; when none is, there is none: whatever comes next will be stamped later
than now. Any number of consumers may work side by side, and die.

*Order*, where knowledge time comes with the event and the stream is in its order, as in a replay of the past. The watermark
follows the newest event that was written, one microsecond behind it, as another event of the same moment may follow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from redis.cluster import RedisCluster

from asof.online.redis.connections import Client, translated
from asof.online.redis.keys import inflight_key, watermarks_key
from asof.settings import OnlineSettings

Ints = NDArray[np.int64]

SLACK = 20_000
"""Microseconds by which stamps are ahead of Redis's clock: how far from it, before or behind, a service's clock may be."""

AT_ONCE = 1_000
"""Positions that one call of a script stamps or clears: Redis serves nobody else during it, about a millisecond."""

BEGIN = """
-- KEYS: the watermarks; the events under way. ARGV: table, slack, then positions. Returns the watermark, then each one's stamp.
local clock = redis.call('TIME')
local last = tonumber(redis.call('HGET', KEYS[1], '#' .. ARGV[1]) or '0')
local stamp = string.format('%.0f', math.max(clock[1] * 1000000 + clock[2] + tonumber(ARGV[2]), last + 1))
redis.call('HSET', KEYS[1], '#' .. ARGV[1], stamp)
local answer = {''}
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[2], 'NX', stamp, ARGV[i])
  answer[#answer + 1] = string.format('%.0f', tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i])))
end
local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
answer[1] = string.format('%.0f', tonumber(oldest[2]) - 1)
redis.call('HSET', KEYS[1], ARGV[1], answer[1])
return answer
"""

FINISH = """
-- KEYS: the watermarks; the events under way. ARGV: table, then positions.
for i = 2, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end
local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if oldest[2] then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', tonumber(oldest[2]) - 1))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
"""

RAISE = """
-- KEYS: the watermarks. ARGV: table, moment. Returns the watermark, which never falls.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held or tonumber(held) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  return ARGV[2]
end
return held
"""


PUSH = "push/"
"""What the positions of pushed batches start with; they have none in a stream."""


class Watermark(Protocol):
    """The watermark of one table, in any store."""

    def begin(self, positions: Sequence[str]) -> tuple[Ints, int]:
        """Stamp events that are about to be written.

        Args:
            positions: What tells each of n events from others: its position in its stream.

        Returns:
            int64[n], the knowledge time of each, the same as before for one that was begun before; and a moment that no
            read to come is earlier than, which is the clock to write by: what older reads need may be forgotten.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        ...

    def finish(self, positions: Sequence[str]) -> None:
        """Events are written everywhere: let readers see them.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        ...

    def under_way(self) -> dict[str, int]:
        """What was begun and not finished: position -> stamp."""
        ...

    def value(self) -> int | None:
        """The watermark; None where reads are not held back."""
        ...

    def lift(self, moment: int) -> int:
        """Everything known at ``moment`` is written, and nothing more of it will come; returns the watermark."""
        ...

    def remove(self) -> None:
        """Hold reads back no more."""
        ...


class RedisWatermark:
    """A :class:`Watermark` in Redis.

    Args:
        project: Feast project.
        table: Name of the table.
        settings: The online store.
        client: A client for it.
    """

    def __init__(self, project: str, table: str, settings: OnlineSettings, client: Client) -> None:
        self.table, self.settings, self.client = table, settings, client
        self._keys = (watermarks_key(project), inflight_key(project, table))

    def begin(self, positions: Sequence[str]) -> tuple[Ints, int]:
        """As :meth:`Watermark.begin`."""
        stamps: list[bytes] = []
        watermark = 0
        for some in _portions(positions):
            head, *found = self._run(BEGIN, 2, self.table, SLACK, *some)
            watermark = int(head)
            stamps += found
        given = np.array([int(s) for s in stamps], np.int64)
        return given, min(watermark, int(given.max()) - 2 * SLACK)

    def finish(self, positions: Sequence[str]) -> None:
        """As :meth:`Watermark.finish`."""
        for some in _portions(positions):
            self._run(FINISH, 2, self.table, *some)

    def under_way(self) -> dict[str, int]:
        """As :meth:`Watermark.under_way`."""
        with translated(self.settings):
            found: Any = self.client.zrange(self._keys[1], 0, -1, withscores=True)
        return {position.decode(): int(stamp) for position, stamp in found}

    def value(self) -> int | None:
        """As :meth:`Watermark.value`."""
        with translated(self.settings):
            held = self.client.hget(self._keys[0], self.table)
        return None if held is None else int(held)

    def lift(self, moment: int) -> int:
        """As :meth:`Watermark.lift`."""
        return int(self._run(RAISE, 1, self.table, moment))

    def remove(self) -> None:
        """As :meth:`Watermark.remove`."""
        with translated(self.settings):
            self.client.hdel(self._keys[0], self.table)

    def _run(self, script: str, keys: int, *arguments: Any) -> Any:
        with translated(self.settings):
            if isinstance(self.client, RedisCluster):
                return self.client.eval(script, keys, *self._keys[:keys], *arguments)
            return self.client.register_script(script)(keys=self._keys[:keys], args=arguments)


def _portions(positions: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(positions), AT_ONCE):
        yield positions[at : at + AT_ONCE]


class MemoryWatermark:
    """A :class:`Watermark` in the hash of watermarks of a store in memory.

    Args:
        table: Name of the table.
        held: The project's hash: table -> watermark, as readers fetch it; ``#table`` -> the last stamp.
        begun: Position -> stamp of the events under way into the table.
        lock: The store's.
    """

    def __init__(
        self, table: str, held: MutableMapping[bytes, bytes], begun: dict[str, int], lock: AbstractContextManager[Any]
    ) -> None:
        self._table, self._last = table.encode(), f"#{table}".encode()
        self._held, self._begun, self._lock = held, begun, lock

    def begin(self, positions: Sequence[str]) -> tuple[Ints, int]:
        """As :meth:`Watermark.begin`."""
        with self._lock:
            stamp = max(time.time_ns() // 1_000 + SLACK, int(self._held.get(self._last, b"0")) + 1)
            self._held[self._last] = b"%d" % stamp
            stamps = [self._begun.setdefault(p, stamp) for p in positions]
            return np.array(stamps, np.int64), min(self._settle(), max(stamps) - 2 * SLACK)

    def finish(self, positions: Sequence[str]) -> None:
        """As :meth:`Watermark.finish`."""
        with self._lock:
            for position in positions:
                self._begun.pop(position, None)
            self._settle()

    def under_way(self) -> dict[str, int]:
        """As :meth:`Watermark.under_way`."""
        return dict(self._begun)

    def value(self) -> int | None:
        """As :meth:`Watermark.value`."""
        held = self._held.get(self._table)
        return None if held is None else int(held)

    def lift(self, moment: int) -> int:
        """As :meth:`Watermark.lift`."""
        with self._lock:
            highest = max(moment, int(self._held.get(self._table, moment)))
            self._held[self._table] = b"%d" % highest
            return highest

    def remove(self) -> None:
        """As :meth:`Watermark.remove`."""
        with self._lock:
            self._held.pop(self._table, None)

    def _settle(self) -> int:
        """Put the watermark just before the oldest event under way, or away; returns it."""
        if not self._begun:
            self._held.pop(self._table, None)
            return 0
        watermark = min(self._begun.values()) - 1
        self._held[self._table] = b"%d" % watermark
        return watermark
