"""The watermark of a table in Redis, moved by three Lua scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from redis.cluster import RedisCluster

from asof.online.redis.connections import Client, translated
from asof.online.redis.keys import inflight_key, watermarks_key
from asof.online.watermarks import SLACK, Ints
from asof.settings import OnlineSettings

AT_ONCE = 1_000
"""Positions per call of a script, which blocks Redis for about a millisecond."""

BEGIN = """
-- KEYS: the watermarks; the events being written. ARGV: table, slack, then positions. Returns the watermark, then each one's stamp.
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
-- KEYS: the watermarks; the events being written. ARGV: table, then positions.
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


class RedisWatermark:
    """A :class:`asof.online.watermarks.Watermark` in Redis.

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
        """As :meth:`asof.online.watermarks.Watermark.begin`."""
        stamps: list[bytes] = []
        watermark = 0
        for some in _portions(positions):
            head, *found = self._run(BEGIN, 2, self.table, SLACK, *some)
            watermark = int(head)
            stamps += found
        given = np.array([int(s) for s in stamps], np.int64)
        return given, min(watermark, int(given.max()) - 2 * SLACK)

    def finish(self, positions: Sequence[str]) -> None:
        """As :meth:`asof.online.watermarks.Watermark.finish`."""
        for some in _portions(positions):
            self._run(FINISH, 2, self.table, *some)

    def under_way(self) -> dict[str, int]:
        """As :meth:`asof.online.watermarks.Watermark.under_way`."""
        with translated(self.settings):
            found: Any = self.client.zrange(self._keys[1], 0, -1, withscores=True)
        return {position.decode(): int(stamp) for position, stamp in found}

    def value(self) -> int | None:
        """As :meth:`asof.online.watermarks.Watermark.value`."""
        with translated(self.settings):
            held = self.client.hget(self._keys[0], self.table)
        return None if held is None else int(held)

    def lift(self, moment: int) -> int:
        """As :meth:`asof.online.watermarks.Watermark.lift`."""
        return int(self._run(RAISE, 1, self.table, moment))

    def remove(self) -> None:
        """As :meth:`asof.online.watermarks.Watermark.remove`."""
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
