"""The online store as a worker sees it: it may be away when the worker starts, go, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from asof.contract import Contract
from asof.errors import OnlineStoreError
from asof.online import AsyncReader, Vectors
from asof.online.reader import Keys
from asof.settings import OnlineSettings

Connect = Callable[[Contract, OnlineSettings], AsyncReader]


@dataclass
class Store:
    """Reads what a contract needs; belongs to one event loop.

    A Redis of the repo's own that has ended is started again by the next :meth:`check`.

    Args:
        contract: The contract.
        settings: How to reach Redis.
        connect: Makes the reader.
    """

    contract: Contract
    settings: OnlineSettings
    connect: Connect = AsyncReader
    _reader: AsyncReader | None = field(default=None, init=False)
    _away: str | None = field(default=None, init=False)

    async def read(self, keys: Keys, at: NDArray[np.int64]) -> Vectors:
        """The stored features of each row, as known at its moment.

        Raises:
            OnlineStoreError: Redis cannot be read.
        """
        if self._reader is None:
            raise OnlineStoreError(self._away or f"Redis at {self.settings.address} was not reached yet")
        return await self._reader.read(keys, at)

    async def check(self) -> list[str]:
        """Differences between the contract and what is applied in the store, a line each; empty where they fit.

        Raises:
            OnlineStoreError: Redis cannot be reached.
        """
        reader = self._reader
        if reader is None:
            reader = await asyncio.to_thread(self.connect, self.contract, self.settings)
            self._reader = reader
        try:
            return await reader.check()
        except OnlineStoreError as error:
            self._away = str(error)
            if self.settings.embedded:
                await self.close()
            raise

    async def close(self) -> None:
        """Give back all connections."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()
