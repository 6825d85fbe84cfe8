"""An online store in memory that can be slow or unreachable, for tests of how the service reacts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from asof.contract import Contract
from asof.errors import OnlineStoreError
from asof.online import AsyncMemoryStore, MemoryStore, Writer

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def fill(contract: Contract, writer: Writer) -> None:
    """Machine 1 had loads 2, 4 and 6 on the first of May and 9 the day before; site "north" is fresh, "old" is not."""
    hours = [NOON - timedelta(hours=h) for h in (1, 2, 3, 26)]
    loads = pa.table(
        {
            "machine_id": [1, 1, 1, 1],
            "load": [2.0, 4.0, 6.0, 9.0],
            "read_at": pa.array(hours, pa.timestamp("us", "UTC")),
            "known_at": pa.array(hours, pa.timestamp("us", "UTC")),
            "reading_id": [1, 2, 3, 4],
        }
    )
    seen = [NOON - timedelta(days=1), NOON - timedelta(days=9)]
    sites = pa.table(
        {
            "site": ["north", "old"],
            "crew": pa.array([5, 7], pa.int32()),
            "grade": ["A", "B"],
            "open": [True, False],
            "seen_at": pa.array(seen, pa.timestamp("us", "UTC")),
        }
    )
    writer.register(contract.views)
    writer.write(contract.view("machine_loads"), loads)
    writer.write(contract.view("site_state"), sites)


class UnreliableStore(AsyncMemoryStore):
    """A store that can be told to be down or slow.

    Attributes:
        memory: What it holds.
        down: Whether it is unreachable.
        delay: Seconds that a read takes.
        failure: What a read raises, if anything.
    """

    def __init__(self, contract: Contract) -> None:
        self.memory = MemoryStore()
        super().__init__(self.memory)
        self.down, self.delay = False, 0.0
        self.failure: Exception | None = None
        fill(contract, Writer(contract.project, self.memory))

    async def views(self, project: str) -> dict[str, str]:
        """The views, unless the store is down."""
        self._check()
        return await super().views(project)

    async def fetch(self, project: str, requests: Sequence[Any]) -> Any:
        """The stored rows, after :attr:`delay` seconds."""
        self._check()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        return await super().fetch(project, requests)

    def _check(self) -> None:
        if self.down:
            raise OnlineStoreError("Redis at test does not answer; start it")
