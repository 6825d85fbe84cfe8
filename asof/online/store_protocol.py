"""What a store has to do: the interface behind which Redis and memory are alike.

A store holds bytes and keeps two promises about them: of a plain view's rows the newest known one of each key is kept, and
of a windowed view's events each is kept once. What the bytes mean is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout
from asof.online.compaction import Exchange
from asof.online.watermarks import Watermark

Request = tuple[Sequence[bytes], Sequence[bytes]]
"""Keys, and the fields to read of each."""


@dataclass(slots=True)
class Fetched:
    """What a store answered.

    Attributes:
        revision: Of its layouts.
        values: Per request, per key, per field the value or None.
        meanwhile: What the caller had made meanwhile; None for nothing.
    """

    revision: int
    values: Sequence[Sequence[Sequence[bytes | None]]]
    meanwhile: Any = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a write belongs: project, layout of what is written, and the revision of the layouts that the writer knows."""

    project: str
    layout: Layout
    revision: int


@dataclass(frozen=True, slots=True)
class Added:
    """What became of events.

    Attributes:
        new: How many were new.
        refused: How many keys were refused because their value would grow too large.
        grown: The keys whose events are to be folded.
    """

    new: int
    refused: int
    grown: list[bytes]


Role = Literal["events", "buckets", "old", "foreign"]
"""What a further layout of a view is to events that are written: other events, the buckets that they are merged into, buckets of
earlier definitions, or buckets that the view's hop cannot be made of. Where a key gets an event it loses the foreign ones."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another layout of the view that events are written to."""

    layout: Layout
    role: Role


class StaleLayoutsError(Exception):
    """Inside the package: a writer did not know all layouts of its project, so nothing was written."""


class ReadableStore(Protocol):
    """What a reader needs of a store."""

    def nudge(self) -> None:
        """Be told that :meth:`fetch` is about to be called."""

    def ping(self) -> None:
        """Raise :class:`asof.errors.OnlineStoreError` unless the store answers."""

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""

    def views(self, project: str) -> dict[str, str]:
        """What was registered for each view."""

    def fetch(
        self, project: str, requests: Sequence[Request], meanwhile: Callable[[], object] | None = None
    ) -> Fetched:
        """What is stored for every request, in one round trip.

        Args:
            project: The project.
            requests: The requests.
            meanwhile: What may be called while the store works, again if it is asked again; what it gave last is part of the answer.
        """

    def close(self) -> None:
        """Give back all connections."""


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
    """What a writer needs of a store."""

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """What is stored for every request."""

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""

    def add_layout(self, project: str, layout: Layout) -> int:
        """Make ``layout`` known to all readers; must come before the first value that uses it. Returns the revision."""

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register what readers compare their contract with."""

    def put_rows(self, target: Target, keys: Sequence[bytes], rows: Sequence[bytes], now: int, live: int = 0) -> int:
        """Write rows, each one unless the store has a newer one.

        Args:
            target: Where they belong.
            keys: n keys.
            rows: n packed rows.
            now: Moment that decides which rows are known, microseconds UTC.
            live: Seconds after which a key may be forgotten, 0 for never.

        Returns:
            How many rows were news.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``; learn them and write again.
        """

    def put_events(
        self, target: Target, siblings: Sequence[Sibling], pruning: Pruning, keys: Sequence[bytes],
        blobs: Sequence[bytes], now: int, live: int = 0,
    ) -> Added:  # fmt: skip
        """Add events, each id once.

        Args:
            target: Where they belong.
            siblings: Other layouts of the same view.
            pruning: What may be forgotten.
            keys: n distinct keys.
            blobs: Packed events of each key, sorted by event time.
            now: The writer's clock, microseconds UTC.
            live: Seconds after which a key may be forgotten, 0 for never.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``; learn them and write again.
        """

    def exchange(
        self, target: Target, layout: Layout, keys: Sequence[bytes], exchanges: Sequence[Exchange]
    ) -> list[bool]:
        """Put new events and buckets in place of old ones, both in one step, where neither changed; whether that was so.

        Args:
            target: Where the events belong.
            layout: The layout of the buckets.
            keys: n keys.
            exchanges: What to put where, for each key.

        Raises:
            StaleLayoutsError: The layouts changed since ``target.revision``.
        """

    def watermark(self, project: str, table: str) -> Watermark:
        """The watermark of a table."""

    def drop(self, project: str, view: str) -> int:
        """Delete what is stored of one view; returns how many keys were visited."""

    def drop_project(self, project: str) -> int:
        """Delete everything that is stored for a project; returns how many keys there were."""

    def close(self) -> None:
        """Give back all connections."""
