"""A reader of stored features that answers from memory, for tests of what happens around a read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import Contract
from asof.errors import OnlineStoreError


@dataclass
class Stored:
    """What a read answers; the shape of :class:`asof.online.Vectors`."""

    columns: tuple[tuple[str, str], ...]
    values: NDArray[np.float64]
    objects: dict[tuple[str, str], list[Any]]
    statuses: NDArray[np.uint8]
    event_times: NDArray[np.int64]


@dataclass
class MemoryReader:
    """Machine 1 at site "north" is known; others are not. Machine 2's site is too old to be used.

    Attributes:
        down: Whether Redis is to be unreachable.
        differences: What :meth:`check` finds.
        delay: Seconds that a read takes.
    """

    contract: Contract
    down: bool = False
    differences: list[str] = field(default_factory=list)
    delay: float = 0.0

    async def read(self, keys: Mapping[str, Sequence[Any]], at: NDArray[np.int64]) -> Stored:
        """As the contract of a reader says."""
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.down:
            raise OnlineStoreError("Redis at test does not answer; start it")
        columns = tuple((v.alias, name) for v in self.contract.views for name in self.contract.stored(v))
        rows = [self._row(m, s) for m, s in zip(keys["machine_id"], keys["site"], strict=True)]
        return Stored(
            columns,
            np.array([r[0] for r in rows], dtype=np.float64),
            {("site_state", "grade"): [r[2] for r in rows]},
            np.array([r[1] for r in rows], dtype=np.uint8),
            np.full((len(at), len(self.contract.views)), -1, dtype=np.int64),
        )

    async def check(self) -> list[str]:
        """The differences that the test set."""
        if self.down:
            raise OnlineStoreError("Redis at test does not answer; start it")
        return self.differences

    def _row(self, machine: int | None, site: str | None) -> tuple[list[float], list[int], str | None]:
        nan = float("nan")
        loads = ([3.0, 4.0, 9.0], [0, 0, 0]) if machine == 1 else ([0.0, nan, nan], [3, 3, 3])
        if site == "north":
            return [*loads[0], 5.0, nan, 1.0], [*loads[1], 0, 0, 0], "A"
        return [*loads[0], nan, nan, nan], [*loads[1], *([2] * 3 if site == "old" else [3] * 3)], None
