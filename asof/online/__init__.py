"""The online store: what Redis answers now is what DuckDB would answer for now.

The names below are imported when they are used, so that a serving worker gets its reader without Feast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asof.online.connections import connect, connect_async
    from asof.online.feast_store import RedisOnlineStore, RedisOnlineStoreConfig
    from asof.online.memory import AsyncMemoryStore, MemoryStore
    from asof.online.plan import Vectors
    from asof.online.reader import AsyncReader, Reader
    from asof.online.status import Status
    from asof.online.writer import Writer

_HOMES = {
    "AsyncMemoryStore": "memory",
    "AsyncReader": "reader",
    "MemoryStore": "memory",
    "Reader": "reader",
    "RedisOnlineStore": "feast_store",
    "RedisOnlineStoreConfig": "feast_store",
    "Status": "status",
    "Vectors": "plan",
    "Writer": "writer",
    "connect": "connections",
    "connect_async": "connections",
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
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
