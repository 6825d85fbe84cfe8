"""Reads the stored features that a contract needs, and reconnects when Redis was unreachable."""

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

ReaderFactory = Callable[[Contract, OnlineSettings], AsyncReader]


@dataclass
class FeatureFetcher:
    """Reads the features of one contract. Use each instance in one event loop only.

    If the repo's embedded Redis has ended, the next :meth:`check` starts it again.

    Args:
        contract: The contract.
        settings: How to reach Redis.
        connect: Makes the reader; tests replace it.
    """

    contract: Contract
    settings: OnlineSettings
    connect: ReaderFactory = AsyncReader
    _reader: AsyncReader | None = field(default=None, init=False)
    _unreachable: str | None = field(default=None, init=False)

    async def read(self, keys: Keys, at: NDArray[np.int64]) -> Vectors:
        """The stored features of each row, as known at the row's moment.

        Raises:
            OnlineStoreError: Redis cannot be read.
        """
        if self._reader is None:
            raise OnlineStoreError(self._unreachable or f"{self.settings.server} was not reached yet")
        return await self._reader.read(keys, at)

    async def check(self) -> list[str]:
        """The differences between the contract and the applied views, one line each; empty if they fit.

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
            self._unreachable = str(error)
            if self.settings.embedded:
                await self.close()
            raise

    async def close(self) -> None:
        """Close all connections."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()
