"""The store in Redis for ``asyncio``: the part of it that readers need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

from asof.online.codec.layouts import Layout
from asof.online.redis.connections import AsyncClient, close_async, connect_async, translated
from asof.online.redis.keys import layouts_key, views_key
from asof.online.redis.store import answered, expected, grouped, packed, parsed_layouts, questions
from asof.online.redis.transport_async import AsyncLines
from asof.online.store_protocol import Fetched, Request
from asof.settings import OnlineSettings


class AsyncRedisStore:
    """What readers need of :class:`asof.online.redis.store.RedisStore`, for ``asyncio``; bound to the event loop of its first use."""

    def __init__(self, settings: OnlineSettings, client: AsyncClient | None = None) -> None:
        self.settings = settings
        self.client: Any = client if client is not None else connect_async(settings)
        self._lines: AsyncLines | None = None
        if not isinstance(self.client, AsyncRedisCluster):
            self._lines = AsyncLines(self.client.connection_pool, settings.retries, settings.read_timeout)

    async def ping(self) -> None:
        """As :meth:`asof.online.redis.store.RedisStore.ping`."""
        with translated(self.settings):
            await self.client.ping()

    async def layouts(self, project: str) -> dict[int, Layout]:
        """As :meth:`asof.online.redis.store.RedisStore.layouts`."""
        with translated(self.settings):
            found: Any = await self.client.hgetall(layouts_key(project))
        return parsed_layouts(found)

    async def views(self, project: str) -> dict[str, str]:
        """As :meth:`asof.online.redis.store.RedisStore.views`."""
        with translated(self.settings):
            found: Any = await self.client.hgetall(views_key(project))
        return {name.decode(): text.decode() for name, text in found.items()}

    async def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """As :meth:`asof.online.redis.store.RedisStore.fetch`."""
        with translated(self.settings):
            if self._lines is None:
                asked = questions(project, requests)
                return grouped(asked, await self._cluster_replies(asked[:2]) + await self._cluster_replies(asked[2:]))
            return answered(await self._lines.exchange(packed(project, requests), lambda: expected(requests)))

    async def _cluster_replies(self, asked: Sequence[Request]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for keys, fields in asked:
            for key in keys:
                pipe.hmget(key, list(fields))
        replies: list[Any] = await pipe.execute()
        return replies

    async def close(self) -> None:
        """Give back all connections."""
        if self._lines is not None:
            await self._lines.close()
        await close_async(self.client)
