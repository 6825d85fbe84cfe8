"""Watermarks: the moment up to which the online store is known to be complete.

An event is written to its table a little before it is in every view. A read in between would return a value that cannot be
recomputed. Therefore each table may have a watermark in the online store, and a read never answers for a later moment
(:class:`asof.online.Vectors`, ``as_of``). Two rules move it:

*Stamps*, where knowledge time is the moment of arrival. Before an event is written anywhere it gets its knowledge time from the
store's clock, later than every earlier stamp, and keeps it when it is delivered again. While stamped events are being
written, the watermark lies just before the oldest of them. When none is, there is no watermark: every later event is stamped
later than now. Any number of consumers may work in parallel, and may crash.

*Order*, where knowledge time comes with the event and the stream is sorted by it, as in a replay of the past. The watermark
follows the newest written event, one microsecond behind it, because another event of the same moment may follow.

Beside the watermarks is, for each materialized view, the moment that it was materialized for. A materialization keeps what reads
from that moment on need, so a read of an earlier moment may not find what was known then; it says
:attr:`asof.online.Status.NOT_KEPT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

SLACK = 20_000
"""Microseconds by which stamps are ahead of Redis's clock, and by which a service's clock may differ from it."""

PUSH = "push/"
"""Prefix of the positions of pushed batches, which have no position in a stream."""


def materialized_field(view: str) -> str:
    """The name beside the tables under which the moment is kept that a view was materialized for."""
    return f"materialized/{view}"


class Watermark(Protocol):
    """The watermark of one table, in any store."""

    def begin(self, positions: Sequence[str]) -> tuple[Ints, int]:
        """Stamp events that are about to be written.

        Args:
            positions: n unique identifiers, the position of each event in its stream.

        Returns:
            int64[n], the knowledge time of each, unchanged for an event that was begun before; and the clock to write by, a
            moment that no later read precedes: data that only older reads need may be dropped.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        ...

    def finish(self, positions: Sequence[str]) -> None:
        """Mark events as written everywhere, so that reads see them.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        ...

    def under_way(self) -> dict[str, int]:
        """Events that were begun and not finished: position -> stamp."""
        ...

    def value(self) -> int | None:
        """The watermark; None if reads are not held back."""
        ...

    def lift(self, moment: int) -> int:
        """Raise the watermark to ``moment``, up to which every event is written; returns the watermark."""
        ...

    def remove(self) -> None:
        """Delete the watermark: reads are no longer held back."""
        ...
