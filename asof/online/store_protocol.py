"""The interface of an online store, which Redis and the in-memory store implement.

A store holds bytes and guarantees two things about them: it keeps the newest known row of each key of a plain view, and it keeps
each event of a windowed view once. It does not interpret feature values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout
from asof.online.watermarks import Watermark

Request = tuple[Sequence[bytes], Sequence[bytes]]
"""Keys, and the fields to read of each."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The reply of a store to a list of requests.

    Attributes:
        revision: Revision of the project's layouts.
        values: Per request, per key, per field the value or None.
    """

    revision: int
    values: Sequence[Sequence[Sequence[bytes | None]]]


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """Where values are written: project, their layout, and the revision of the layouts that the writer knows."""

    project: str
    layout: Layout
    revision: int


@dataclass(frozen=True, slots=True)
class EventsWritten:
    """The result of a write of events.

    Attributes:
        written: Number of events that were not stored before.
        refused: Number of keys that were refused because their value would grow too large.
        grown: Keys that are due for compaction.
    """

    written: int
    refused: int
    grown: list[bytes]


Role = Literal["events", "buckets", "old", "foreign"]
"""The relation of another layout of a view to events that are written: other events; the buckets that the events are merged into;
buckets of earlier definitions; or buckets that do not fit the view's hop, which a key loses when an event is written to it."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another layout of the view that events are written to."""

    layout: Layout
    role: Role


@dataclass(frozen=True, slots=True)
class Replacement:
    """New events and buckets of a key, and the fingerprints of the old ones that they replace."""

    old_events: bytes
    old_buckets: bytes
    events: bytes
    buckets: bytes

    def packed(self) -> bytes:
        """The replacement as one argument of a script."""
        return self.old_events + self.old_buckets + len(self.events).to_bytes(4, "little") + self.events + self.buckets


def fingerprint(value: bytes | None) -> bytes:
    """The hexadecimal SHA-1 of a stored value; 40 times ``-`` for none."""
    return b"-" * 40 if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest().encode()


class StaleLayoutsError(Exception):
    """Inside the package: the writer did not know all layouts of its project, so nothing was written."""


class ReadableStore(Protocol):
    """The methods that a reader calls."""

    def ping(self) -> None:
        """Raise :class:`asof.errors.OnlineStoreError` unless the store answers."""

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""

    def views(self, project: str) -> dict[str, str]:
        """The registered definition of each view."""

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """The stored values for every request, in one round trip."""

    def close(self) -> None:
        """Release all connections."""


class AsyncReadableStore(Protocol):
    """As :class:`ReadableStore`, for ``asyncio``."""

    async def ping(self) -> None:
        """As :meth:`ReadableStore.ping`."""

    async def layouts(self, project: str) -> dict[int, Layout]:
        """As :meth:`ReadableStore.layouts`."""

    async def views(self, project: str) -> dict[str, str]:
        """As :meth:`ReadableStore.views`."""

    async def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """As :meth:`ReadableStore.fetch`."""

    async def close(self) -> None:
        """As :meth:`ReadableStore.close`."""


class WritableStore(Protocol):
    """The methods that a writer calls."""

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """The stored values for every request."""

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""

    def add_layout(self, project: str, layout: Layout) -> int:
        """Register ``layout``, which must happen before the first value that uses it; returns the revision."""

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register the definitions that readers compare their contract with."""

    def put_rows(
        self, target: WriteTarget, keys: Sequence[bytes], rows: Sequence[bytes], now: int, key_ttl: int = 0
    ) -> int:
        """Write rows, each one unless the store has a newer one.

        Args:
            target: Where to write.
            keys: n keys.
            rows: n packed rows.
            now: Moment that decides which rows are known, microseconds UTC.
            key_ttl: Seconds after which the key may expire, 0 for never.

        Returns:
            Number of rows written.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``; fetch them and write again.
        """

    def put_events(
        self, target: WriteTarget, siblings: Sequence[Sibling], pruning: Pruning, keys: Sequence[bytes],
        blobs: Sequence[bytes], now: int, key_ttl: int = 0,
    ) -> EventsWritten:  # fmt: skip
        """Add events, each id once.

        Args:
            target: Where to write.
            siblings: Other layouts of the same view.
            pruning: Which events are dropped.
            keys: n distinct keys.
            blobs: Packed events of each key, sorted by event time.
            now: The writer's clock, microseconds UTC.
            key_ttl: Seconds after which the key may expire, 0 for never.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``; fetch them and write again.
        """

    def replace(
        self, target: WriteTarget, layout: Layout, keys: Sequence[bytes], replacements: Sequence[Replacement]
    ) -> list[bool]:
        """Replace events and buckets of each key in one step, if neither has changed; returns whether it was replaced.

        Args:
            target: Project and layout of the events.
            layout: The layout of the buckets.
            keys: n keys.
            replacements: The new values of each key.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``.
        """

    def watermark(self, project: str, table: str) -> Watermark:
        """The watermark of a table."""

    def drop(self, project: str, view: str) -> int:
        """Delete everything stored of one view; returns the number of keys visited."""

    def drop_project(self, project: str) -> int:
        """Delete everything stored for a project; returns the number of keys deleted."""

    def close(self) -> None:
        """Release all connections."""
