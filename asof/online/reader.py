"""Reads the features of entity keys: values, statuses and event times, in one round trip.

Create a reader once and use it for many reads. It imports neither Feast nor pandas nor protobuf. New layouts are fetched when a
read first meets them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import Contract
from asof.contract.diff import applied_changes
from asof.online.read_plan import ReadPlan, ViewFeatures
from asof.online.redis.store import AsyncRedisStore, RedisStore
from asof.online.store_protocol import AsyncReadableStore, ReadableStore
from asof.online.vectors import Vectors
from asof.settings import OnlineSettings

Ints = NDArray[np.int64]
Keys = Mapping[str, Sequence[Any]]


class Reader:
    """Reads the stored features of a contract.

    Args:
        contract: The contract.
        store: Where to read: settings of a Redis, or a store such as :class:`asof.online.memory.MemoryStore`.

    Raises:
        OnlineStoreError: The embedded Redis does not start.
    """

    def __init__(self, contract: Contract, store: OnlineSettings | ReadableStore) -> None:
        self.contract = contract
        self.store: ReadableStore = RedisStore(store) if isinstance(store, OnlineSettings) else store
        self.plan = plan_of(contract)

    def read(self, keys: Keys, at: Ints) -> Vectors:
        """The stored features of n rows.

        Args:
            keys: Request column -> n values; None where a key is missing (such a row is NOT_FOUND).
            at: int64[n], the moment of each row, microseconds UTC. Only what was known then is read.

        Raises:
            RequestError: A key column is missing or a value does not fit its type.
            OnlineStoreError: Redis is down, does not answer in time, or a stored value is damaged.
        """
        vectors, self.plan = read(self.plan, self.store, keys, at)
        return vectors

    def check(self) -> list[str]:
        """Differences between the contract and the applied views, one line each; empty if there are none.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        return applied_changes(self.contract, self.store.views(self.contract.project))

    def ping(self) -> None:
        """Raise unless the store answers.

        Raises:
            OnlineStoreError: It does not.
        """
        self.store.ping()

    def close(self) -> None:
        """Release all connections."""
        self.store.close()


class AsyncReader:
    """As :class:`Reader`, for ``asyncio``; belongs to the event loop that first uses it."""

    def __init__(self, contract: Contract, store: OnlineSettings | AsyncReadableStore) -> None:
        self.contract = contract
        self.store: AsyncReadableStore = AsyncRedisStore(store) if isinstance(store, OnlineSettings) else store
        self.plan = plan_of(contract)

    async def read(self, keys: Keys, at: Ints) -> Vectors:
        """As :meth:`Reader.read`."""
        vectors, self.plan = await read_async(self.plan, self.store, keys, at)
        return vectors

    async def check(self) -> list[str]:
        """As :meth:`Reader.check`."""
        return applied_changes(self.contract, await self.store.views(self.contract.project))

    async def ping(self) -> None:
        """As :meth:`Reader.ping`."""
        await self.store.ping()

    async def close(self) -> None:
        """Release all connections."""
        await self.store.close()


def plan_of(contract: Contract) -> ReadPlan:
    """The plan that reads every stored feature of ``contract``."""
    return ReadPlan(contract.project, [ViewFeatures(view, contract.stored(view)) for view in contract.views])


def read(plan: ReadPlan, store: ReadableStore, keys: Keys, at: Ints) -> tuple[Vectors, ReadPlan]:
    """Read by any plan, see :meth:`Reader.read`; also returns the plan for the next read."""
    moments = np.asarray(at, np.int64)
    lookups = plan.lookups(keys, len(moments))
    fetched = store.fetch(plan.project, plan.requests(lookups))
    while fetched.revision != plan.revision:
        plan = plan.with_layouts(store.layouts(plan.project), fetched.revision)
        fetched = store.fetch(plan.project, plan.requests(lookups))
    return plan.vectors(lookups, fetched, moments), plan


async def read_async(plan: ReadPlan, store: AsyncReadableStore, keys: Keys, at: Ints) -> tuple[Vectors, ReadPlan]:
    """As :func:`read`."""
    moments = np.asarray(at, np.int64)
    lookups = plan.lookups(keys, len(moments))
    fetched = await store.fetch(plan.project, plan.requests(lookups))
    while fetched.revision != plan.revision:
        plan = plan.with_layouts(await store.layouts(plan.project), fetched.revision)
        fetched = await store.fetch(plan.project, plan.requests(lookups))
    return plan.vectors(lookups, fetched, moments), plan
