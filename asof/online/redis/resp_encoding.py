"""Many byte strings in one buffer, framed as RESP bulk strings, so that sending them has no cost per string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

END = b"\r\n"
_LARGE = pa.large_binary()


class BulkStrings(Sequence[bytes]):
    """n byte strings, each framed as ``$size CRLF bytes CRLF``.

    Args:
        framed: All of them, one after another.
        starts: int64[n + 1], where each begins, and where the last one ends.
    """

    def __init__(self, framed: Any, starts: NDArray[np.int64]) -> None:
        self.starts, self._framed = starts, memoryview(framed)

    @classmethod
    def of(cls, values: Sequence[bytes]) -> BulkStrings:
        """From any byte strings."""
        if isinstance(values, BulkStrings):
            return values
        framed = [frame(value) for value in values]
        return cls(b"".join(framed), np.cumsum([0, *map(len, framed)], dtype=np.int64))

    @classmethod
    def of_arrow(cls, column: pa.Array) -> BulkStrings:
        """From a column of binary values without nulls."""
        sizes = pc.binary_length(column).cast(pa.large_string()).cast(_LARGE)
        dollar, end, nothing = (pa.scalar(text, _LARGE) for text in (b"$", END, b""))
        whole = pc.binary_join_element_wise(dollar, sizes, end, column.cast(_LARGE), end, nothing)
        starts = np.frombuffer(whole.buffers()[1], np.int64, len(whole) + 1, whole.offset * 8)
        return cls(memoryview(whole.buffers()[2])[starts[0] : starts[-1]], starts - starts[0])

    def framed(self, start: int, stop: int) -> bytes:
        """The strings from ``start`` to ``stop``, framed."""
        return bytes(self._framed[self.starts[start] : self.starts[stop]])

    def portions(self, count: int, size: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most ``count`` strings, and of at most ``size`` bytes unless a single one is larger."""
        start, past = 0, len(self)
        while start < past:
            fits = int(np.searchsorted(self.starts, self.starts[start] + size, "right")) - 1
            stop = min(start + count, max(fits, start + 1), past)
            yield start, stop
            start = stop

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        at = position % len(self)
        return self.framed(at, at + 1).partition(END)[2][: -len(END)]

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))


def frame(value: bytes) -> bytes:
    """One byte string as a RESP bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)
