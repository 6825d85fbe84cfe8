"""Reading: from entity keys to numbers, statuses and event times, in one round trip.

A reader is made once and used for many reads. It imports neither Feast nor pandas nor protobuf. Layouts that appear while
it lives are fetched when a read first meets them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import NUMERIC_TYPES, Contract, View, view_fingerprint
from asof.online.read_plan import ReadPlan, Vectors, Wanted
from asof.online.redis.store import RedisStore
from asof.online.redis.store_async import AsyncRedisStore
from asof.online.store_protocol import AsyncReadableStore, ReadableStore
from asof.settings import OnlineSettings

Ints = NDArray[np.int64]
Keys = Mapping[str, Sequence[Any]]


class Reader:
    """Reads what a contract needs.

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
            at: int64[n], the moment of each row, microseconds UTC. Nothing is seen that was not known then.

        Raises:
            RequestError: A key column is missing or a value does not fit its type.
            OnlineStoreError: Redis is down, does not answer in time, or what is stored is damaged.
        """
        vectors, self.plan = read(self.plan, self.store, keys, at)
        return vectors

    def check(self) -> list[str]:
        """Differences between the contract and what is applied in the store, a line each; empty where they fit.

        Raises:
            OnlineStoreError: Redis cannot be asked.
        """
        return differences(self.contract, self.store.views(self.contract.project))

    def ping(self) -> None:
        """Raise unless the store answers.

        Raises:
            OnlineStoreError: It does not.
        """
        self.store.ping()

    def close(self) -> None:
        """Give back all connections."""
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
        return differences(self.contract, await self.store.views(self.contract.project))

    async def ping(self) -> None:
        """As :meth:`Reader.ping`."""
        await self.store.ping()

    async def close(self) -> None:
        """Give back all connections."""
        await self.store.close()


def plan_of(contract: Contract) -> ReadPlan:
    """How to read every stored feature that ``contract`` needs."""
    return ReadPlan(contract.project, [Wanted(view, contract.stored(view)) for view in contract.views])


def read(plan: ReadPlan, store: ReadableStore, keys: Keys, at: Ints) -> tuple[Vectors, ReadPlan]:
    """Read by any plan; see :meth:`Reader.read`. Also gives the plan to use from now on."""
    moments = np.asarray(at, np.int64)
    if len(moments) == 1:  # before more could be asked, Redis would be asleep again
        store.nudge()
    asked, blank = plan.ask(keys, len(moments)), partial(plan.blank, len(moments))
    fetched = store.fetch(plan.project, plan.requests(asked), blank)
    while fetched.revision != plan.revision:
        plan = plan.with_layouts(store.layouts(plan.project), fetched.revision)
        fetched = store.fetch(plan.project, plan.requests(asked), blank)
    return plan.vectors(asked, fetched, moments), plan


async def read_async(plan: ReadPlan, store: AsyncReadableStore, keys: Keys, at: Ints) -> tuple[Vectors, ReadPlan]:
    """As :func:`read`."""
    moments = np.asarray(at, np.int64)
    asked = plan.ask(keys, len(moments))
    fetched = await store.fetch(plan.project, plan.requests(asked))
    while fetched.revision != plan.revision:
        plan = plan.with_layouts(await store.layouts(plan.project), fetched.revision)
        fetched = await store.fetch(plan.project, plan.requests(asked))
    return plan.vectors(asked, fetched, moments), plan


def differences(contract: Contract, registered: Mapping[str, str]) -> list[str]:
    """What ``contract`` needs and the applied views, as registered, do not have; a line each, by view and feature."""
    lines: list[str] = []
    for view in contract.views:
        if view.name not in registered:
            lines.append(f"view {view.name}: is not applied; run `asof apply`")
            continue
        known = json.loads(registered[view.name])
        if known["fingerprint"] != view_fingerprint(view):
            lines += _view_differences(view, contract.stored(view), known["view"])
    return lines


def _view_differences(view: View, needed: Sequence[str], applied: Mapping[str, Any]) -> list[str]:
    types = {f["name"]: f["dtype"] for f in applied["features"]}
    windows = {a["name"]: a for a in applied["aggregations"]}
    lines = []
    for name in needed:
        declared = view.feature(name).dtype
        if name not in types:
            lines.append(f"feature {view.name}:{name}: is gone")
        elif types[name] != declared and not {types[name], declared} <= NUMERIC_TYPES:
            lines.append(f"feature {view.name}:{name}: was {declared}, is {types[name]}")
        elif mine := next((a for a in view.aggregations if a.name == name), None):
            theirs = windows.get(name)
            now = theirs and (theirs["column"], theirs["function"], theirs["window"])
            if now != (mine.column, mine.function, mine.window):
                lines.append(
                    f"feature {view.name}:{name}: was {mine.function} of {mine.column} over {mine.window} us, is {now}"
                )
    keys = [(k["column"], k["dtype"]) for k in applied["join_keys"]]
    if sorted(keys) != sorted((k.column, k.dtype) for k in view.join_keys):
        lines.append(
            f"view {view.name}: the keys were {sorted(k.column for k in view.join_keys)}, are {sorted(k for k, _ in keys)}"
        )
    changed = [what for what in ("ttl", "hop") if applied[what] != getattr(view, what)]
    return lines + [f"view {view.name}: {what} was {getattr(view, what)} us, is {applied[what]} us" for what in changed]
