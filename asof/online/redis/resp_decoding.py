"""Parses Redis's replies from the received bytes, for sockets and for ``asyncio``.

hiredis parses the replies to a few commands. The replies for many keys usually all have the same size; then they stay in the
receive buffer as :class:`UniformReplies`, which numpy reads all at once. If one reply differs, hiredis parses all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import hiredis
import numpy as np
import redis

FEW = 32
"""Number of replies up to which hiredis is faster."""

Reply = Sequence[bytes | None]


class Replies:
    """The replies to ``count`` commands, parsed by hiredis; an error is a reply too."""

    def __init__(self, count: int) -> None:
        self.found: list[Any] = []
        self._count, self._reader = count, hiredis.Reader()

    def feed(self, received: bytes | memoryview) -> bool:
        """Parse ``received``; returns whether the reply is complete."""
        reader, found = self._reader, self.found
        reader.feed(received)  # type: ignore[arg-type]  # it takes any memory
        while len(found) < self._count and (reply := reader.gets()) is not False:
            found.append(reply)
        return len(found) == self._count


@dataclass(frozen=True, slots=True)
class UniformReplies(Sequence[Reply]):
    """Replies of HMGET that have the same sizes, in the receive buffer.

    Attributes:
        data: The receive buffer.
        start: Where the first reply begins.
        stride: Bytes from one reply to the next.
        places: Of each field of a reply its position in the reply, and its size; -1 if there is no value.
        replies: How many replies there are.
    """

    data: bytes | bytearray
    start: int
    stride: int
    places: tuple[tuple[int, int], ...]
    replies: int

    def __len__(self) -> int:
        return self.replies

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(self.replies))]
        if not -self.replies <= position < self.replies:
            raise IndexError(position)
        at = self.start + position % self.replies * self.stride
        return [
            bytes(self.data[at + offset : at + offset + size]) if size >= 0 else None for offset, size in self.places
        ]

    def __iter__(self) -> Iterator[Reply]:
        return (self[i] for i in range(self.replies))


class HashReplies:
    """Parses the replies to HMGET commands, grouped by request.

    Args:
        counts: Number of keys of each group.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = counts
        self._total = sum(counts)
        self._bounds = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
        self._replies: Replies | None = Replies(self._total) if self._total <= FEW else None
        self._data = bytearray()
        self._uniform: list[UniformReplies] = []
        self._at = self._verified = 0
        self._shape: _Shape | None = None

    def feed(self, received: bytes | memoryview) -> bool:
        """Parse ``received``; returns whether the reply is complete."""
        if self._replies is not None:
            return self._replies.feed(received)
        self._data += received
        try:
            while len(self._uniform) < len(self._counts):
                if not self._parse_group(self._counts[len(self._uniform)]):
                    return False
        except _UnevenError:
            self._uniform, self._replies = [], Replies(self._total)
            return self._replies.feed(bytes(self._data))
        return True

    def groups(self) -> list[Sequence[Reply]]:
        """The replies of each group.

        Raises:
            redis.ResponseError: Redis refused a command.
        """
        if self._replies is None:
            return list(self._uniform)
        found = self._replies.found
        for error in [reply for reply in found if type(reply) is not list]:
            raise redis.ResponseError(str(error))
        return [found[bounds] for bounds in self._bounds]

    def _parse_group(self, count: int) -> bool:
        """Parse the replies of one group; returns whether all have been received.

        It never waits for bytes that may not come: as long as the received bytes are like the first reply, so is their size.
        """
        if count and self._shape is None:
            self._shape = _Shape.of(self._data, self._at)
            if self._shape is None:
                return False
        shape = self._shape or _Shape(0, (), ())
        whole = min(count, (len(self._data) - self._at) // shape.stride) if count else 0
        self._verified = shape.verified(self._data, self._at, self._verified, whole)
        if whole < count:
            shape.verify_part(self._data, self._at + whole * shape.stride)
            return False
        self._uniform.append(UniformReplies(self._data, self._at, shape.stride, shape.places, count))
        self._at, self._verified, self._shape = self._at + count * shape.stride, 0, None
        return True


class _UnevenError(Exception):
    """Inside this module: the replies do not all have the same sizes."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The first reply of a group: its size, where its values lie, and the bytes before each, which tell its size."""

    stride: int
    places: tuple[tuple[int, int], ...]
    between: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, data: bytearray, start: int) -> _Shape | None:
        """The shape of the reply that begins at ``start``; None while it is incomplete."""
        at = data.find(b"\r\n", start)
        if at < 0:
            return None
        if data[start : start + 1] != b"*":
            raise _UnevenError
        places, between, before, end = [], [], start, at + 2
        for _ in range(int(data[start + 1 : at])):
            head, at = end, data.find(b"\r\n", end)
            if at < 0:
                return None
            if data[head : head + 1] != b"$":
                raise _UnevenError
            size, end = int(data[head + 1 : at]), at + 2
            places.append((end - start, size))
            if size >= 0:
                between.append((before - start, bytes(data[before:end])))
                before, end = end + size, end + size + 2
        if not places or places[-1][1] < 0:  # otherwise only the end of the last value is left
            between.append((before - start, bytes(data[before:end])))
        return None if end > len(data) else cls(end - start, tuple(places), tuple(between))

    def verified(self, data: bytearray, start: int, verified: int, whole: int) -> int:
        """Raise unless the replies from ``verified`` to ``whole`` are as the first; returns ``whole``."""
        if whole > verified:
            for offset, text in self.between:
                place = start + verified * self.stride + offset
                if (np.ndarray(whole - verified, f"S{len(text)}", data, place, self.stride) != text).any():
                    raise _UnevenError
        return whole

    def verify_part(self, data: bytearray, start: int) -> None:
        """Raise unless the incomplete reply at ``start`` is as the first as far as it goes."""
        for offset, text in self.between:
            found = data[start + offset : start + offset + len(text)]
            if found != text[: len(found)]:
                raise _UnevenError
