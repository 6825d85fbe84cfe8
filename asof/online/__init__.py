"""The online store: reads and writes the current features of entity keys, in Redis or in memory.

The names below are imported on first use, so that a serving worker can import its reader without Feast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asof.feast.online_store import RedisOnlineStore, RedisOnlineStoreConfig
    from asof.online.memory import AsyncMemoryStore, MemoryStore
    from asof.online.reader import AsyncReader, Reader
    from asof.online.redis.connections import connect, connect_async
    from asof.online.vectors import Status, Vectors
    from asof.online.writer import Writer

_HOMES = {
    "AsyncMemoryStore": "asof.online.memory",
    "AsyncReader": "asof.online.reader",
    "MemoryStore": "asof.online.memory",
    "Reader": "asof.online.reader",
    "RedisOnlineStore": "asof.feast.online_store",
    "RedisOnlineStoreConfig": "asof.feast.online_store",
    "Status": "asof.online.vectors",
    "Vectors": "asof.online.vectors",
    "Writer": "asof.online.writer",
    "connect": "asof.online.redis.connections",
    "connect_async": "asof.online.redis.connections",
}

__all__ = [
    "AsyncMemoryStore",
    "AsyncReader",
    "MemoryStore",
    "Reader",
    "RedisOnlineStore",
    "RedisOnlineStoreConfig",
    "Status",
    "Vectors",
    "Writer",
    "connect",
    "connect_async",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
