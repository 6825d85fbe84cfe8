"""The online store in a dict: a public fake for tests and notebooks that obeys the same laws as Redis.

    store = MemoryStore()
    Writer("shop", store).write(view, table)
    Reader(contract, store).read({"customer_id": [1]}, at)

It stores the same bytes as Redis. Its rules are written independently in plain Python, so that each implementation checks the other.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from asof.online.codec.buckets import HEADER
from asof.online.codec.events import HEAD, Pruning
from asof.online.codec.events import split as split_events
from asof.online.codec.layouts import Layout, field_of
from asof.online.codec.rows import split as split_rows
from asof.online.redis.keys import project_prefix, watermarks_key
from asof.online.store_protocol import (
    EventsWritten,
    Fetched,
    Replacement,
    Request,
    Sibling,
    StaleLayoutsError,
    WriteTarget,
    fingerprint,
)
from asof.online.watermarks import SLACK, Ints, Watermark


class MemoryStore:
    """An online store in this object; safe for threads."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, dict[bytes, bytes]] = {}
        self._layouts: dict[str, dict[int, Layout]] = {}
        self._views: dict[str, dict[str, str]] = {}
        self._revisions: dict[str, int] = {}
        self._begun: dict[tuple[str, str], dict[str, int]] = {}
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Does nothing: memory is always available."""

    def layouts(self, project: str) -> dict[int, Layout]:
        """Every layout that was ever written in ``project``, by id."""
        return dict(self._layouts.get(project, {}))

    def add_layout(self, project: str, layout: Layout) -> int:
        """Register ``layout``; returns the revision of the layouts."""
        with self._lock:
            known = self._layouts.setdefault(project, {})
            if layout.id not in known:
                known[layout.id] = layout
                self._revisions[project] = self._revisions.get(project, 0) + 1
            return self._revisions[project]

    def views(self, project: str) -> dict[str, str]:
        """The registered definition of each view."""
        return dict(self._views.get(project, {}))

    def set_views(self, project: str, views: Mapping[str, str]) -> None:
        """Register the definitions that readers compare their contract with."""
        self._views.setdefault(project, {}).update(views)

    def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """The stored values for every request."""
        with self._lock:
            values = [[[self._hashes.get(k, {}).get(f) for f in fields] for k in keys] for keys, fields in requests]
            return Fetched(self._revisions.get(project, 0), values)

    def put_rows(
        self, target: WriteTarget, keys: Sequence[bytes], rows: Sequence[bytes], now: int, key_ttl: int = 0
    ) -> int:
        """Write rows, each one unless the store has a newer one; returns the number of rows written."""
        accepted, field = 0, field_of(target.layout)
        with self._lock:
            self._check(target)
            for key, row in zip(keys, rows, strict=True):
                stored = self._hashes.setdefault(key, {})
                kept = _kept(split_rows(stored[field]) if field in stored else [], row, now)
                if kept is not None:
                    stored[field] = b"".join(kept)
                    accepted += 1
        return accepted

    def put_events(
        self, target: WriteTarget, siblings: Sequence[Sibling], pruning: Pruning, keys: Sequence[bytes],
        blobs: Sequence[bytes], now: int, key_ttl: int = 0,
    ) -> EventsWritten:  # fmt: skip
        """Add events, each id once."""
        added, refused, grown = 0, 0, []
        with self._lock:
            self._check(target)
            for key, blob in zip(keys, blobs, strict=True):
                stored, field = self._hashes.setdefault(key, {}), field_of(target.layout)
                before = len(split_events(target.layout, stored.get(field, b"")[HEAD:]))
                new, full = _add(stored, target.layout, siblings, pruning, blob, now)
                added, refused = added + new, refused + full
                if pruning.compact_every and before // pruning.compact_every < (before + new) // pruning.compact_every:
                    grown.append(key)
        return EventsWritten(added, refused, grown)

    def replace(
        self, target: WriteTarget, layout: Layout, keys: Sequence[bytes], replacements: Sequence[Replacement]
    ) -> list[bool]:
        """Replace events and buckets of each key if neither has changed; returns whether they were replaced."""
        fields, done = (field_of(target.layout), field_of(layout)), []
        with self._lock:
            self._check(target)
            for key, new in zip(keys, replacements, strict=True):
                stored = self._hashes.get(key, {})
                done.append([fingerprint(stored.get(f)) for f in fields] == [new.old_events, new.old_buckets])
                if done[-1]:
                    stored.update(zip(fields, (new.events, new.buckets), strict=True))
        return done

    def watermark(self, project: str, table: str) -> Watermark:
        """The watermark of a table."""
        held = self._hashes.setdefault(watermarks_key(project), {})
        return MemoryWatermark(table, held, self._begun.setdefault((project, table), {}), self._lock)

    def drop(self, project: str, view: str) -> int:
        """Delete everything stored of one view; returns the number of keys visited."""
        with self._lock:
            mine = [layout for layout in self._layouts.get(project, {}).values() if layout.view == view]
            keys = [k for k in self._hashes if k.startswith(project_prefix(project))]
            for key in keys:
                for layout in mine:
                    self._hashes[key].pop(field_of(layout), None)
                if not self._hashes[key]:
                    del self._hashes[key]
            for layout in mine:
                del self._layouts[project][layout.id]
                self._revisions[project] += 1
            self._views.get(project, {}).pop(view, None)
        return len(keys)

    def drop_project(self, project: str) -> int:
        """Delete everything stored for a project; returns the number of keys deleted."""
        with self._lock:
            keys = [k for k in self._hashes if k.startswith(project_prefix(project))]
            for key in keys:
                del self._hashes[key]
            self._layouts.pop(project, None)
            self._views.pop(project, None)
            self._revisions.pop(project, None)
            self._hashes.pop(watermarks_key(project), None)
            self._begun = {place: begun for place, begun in self._begun.items() if place[0] != project}
        return len(keys)

    def close(self) -> None:
        """Does nothing: there are no connections."""

    def _check(self, target: WriteTarget) -> None:
        if target.revision != self._revisions.get(target.project, 0):
            raise StaleLayoutsError


class MemoryWatermark:
    """The :class:`asof.online.watermarks.Watermark` of a :class:`MemoryStore`.

    Args:
        table: Name of the table.
        held: The project's hash: table -> watermark, as readers fetch it; ``#table`` -> the last stamp.
        begun: Position -> stamp of the events being written to the table.
        lock: The store's.
    """

    def __init__(
        self, table: str, held: MutableMapping[bytes, bytes], begun: dict[str, int], lock: AbstractContextManager[Any]
    ) -> None:
        self._table, self._last = table.encode(), f"#{table}".encode()
        self._held, self._begun, self._lock = held, begun, lock

    def begin(self, positions: Sequence[str]) -> tuple[Ints, int]:
        """As :meth:`asof.online.watermarks.Watermark.begin`."""
        with self._lock:
            stamp = max(time.time_ns() // 1_000 + SLACK, int(self._held.get(self._last, b"0")) + 1)
            self._held[self._last] = b"%d" % stamp
            stamps = [self._begun.setdefault(p, stamp) for p in positions]
            return np.array(stamps, np.int64), min(self._settle(), max(stamps) - 2 * SLACK)

    def finish(self, positions: Sequence[str]) -> None:
        """As :meth:`asof.online.watermarks.Watermark.finish`."""
        with self._lock:
            for position in positions:
                self._begun.pop(position, None)
            self._settle()

    def under_way(self) -> dict[str, int]:
        """As :meth:`asof.online.watermarks.Watermark.under_way`."""
        return dict(self._begun)

    def value(self) -> int | None:
        """As :meth:`asof.online.watermarks.Watermark.value`."""
        held = self._held.get(self._table)
        return None if held is None else int(held)

    def lift(self, moment: int) -> int:
        """As :meth:`asof.online.watermarks.Watermark.lift`."""
        with self._lock:
            highest = max(moment, int(self._held.get(self._table, moment)))
            self._held[self._table] = b"%d" % highest
            return highest

    def remove(self) -> None:
        """As :meth:`asof.online.watermarks.Watermark.remove`."""
        with self._lock:
            self._held.pop(self._table, None)

    def _settle(self) -> int:
        """Set the watermark just before the oldest event being written, or delete it; returns it, 0 for none."""
        if not self._begun:
            self._held.pop(self._table, None)
            return 0
        watermark = min(self._begun.values()) - 1
        self._held[self._table] = b"%d" % watermark
        return watermark


class AsyncMemoryStore:
    """A :class:`MemoryStore` for :class:`asof.online.AsyncReader`."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def ping(self) -> None:
        """Does nothing: memory is always available."""

    async def layouts(self, project: str) -> dict[int, Layout]:
        """As :meth:`MemoryStore.layouts`."""
        return self.store.layouts(project)

    async def views(self, project: str) -> dict[str, str]:
        """As :meth:`MemoryStore.views`."""
        return self.store.views(project)

    async def fetch(self, project: str, requests: Sequence[Request]) -> Fetched:
        """As :meth:`MemoryStore.fetch`."""
        return self.store.fetch(project, requests)

    async def close(self) -> None:
        """Does nothing: there are no connections."""


def _number(stored: bytes, at: int) -> int:
    return int.from_bytes(stored[at : at + 8], "little", signed=True)


def _age(row: bytes) -> tuple[int, int]:
    return _number(row, 8), _number(row, 16)


def _kept(rows: list[bytes], row: bytes, now: int) -> list[bytes] | None:
    """The rows to store after a write of ``row``; None if nothing changes."""
    if row in rows:
        return None
    rows = [*rows, row]
    known = [r for r in rows if max(_age(r)) <= now]
    best = max(reversed(known), key=_age) if known else None
    kept = [r for r in rows if r is best or (max(_age(r)) > now and (best is None or _age(r) >= _age(best)))]
    return kept if any(r is row for r in kept) else None


def _add(
    stored: dict[bytes, bytes], layout: Layout, siblings: Sequence[Sibling], pruning: Pruning, blob: bytes, now: int
) -> tuple[int, int]:
    field, at = field_of(layout), 4 if layout.variable_width else 0
    old = stored.get(field, b"")
    others = {s.layout: stored[field_of(s.layout)] for s in siblings if field_of(s.layout) in stored}
    ours = {s.layout for s in siblings if s.role != "foreign"}
    seen = {i for x, value in others.items() if x in ours for i in _ids(value, x)} | _ids(old, layout)
    fresh = [e for e in split_events(layout, blob) if _id(e, layout) not in seen]
    if not fresh:
        return 0, 0
    events = split_events(layout, old[HEAD:])
    for event in fresh:
        events.insert(bisect_right(events, _number(event, at), key=lambda e: _number(e, at)), event)
    latest = max([_arrival(e, at) for e in fresh] + ([_number(old, 0)] if old else []))
    safe = min(latest, now) - pruning.slack
    body = b"".join(_pruned(events, at, safe, pruning.horizon))
    if HEAD + len(body) > pruning.limit - sum(len(v) for x, v in others.items() if x in ours and x.kind == "buckets"):
        return 0, 1
    stored[field] = latest.to_bytes(8, "little", signed=True) + body
    for sibling in siblings:
        value = others.get(sibling.layout)
        if value is not None and _ended(sibling, value, safe - pruning.horizon):
            del stored[field_of(sibling.layout)]
    return len(fresh), 0


def _ended(sibling: Sibling, value: bytes, outside: int) -> bool:
    """Whether a value of another layout can be deleted, because no window can contain any of it or it cannot be read."""
    if sibling.role == "old":
        return _number(value, 0) <= outside
    if sibling.role == "events":
        ending = split_events(sibling.layout, value[HEAD:])[-1:]
        return not ending or _number(ending[0], 4 if sibling.layout.variable_width else 0) <= outside
    return sibling.role == "foreign"


def _pruned(events: list[bytes], at: int, safe: int, horizon: int) -> list[bytes]:
    """Events that can still be in a window, and, if none of them is known at ``safe``, the newest one that is."""
    inside = [e for e in events if _number(e, at) > safe - horizon]
    outside = [e for e in events if _number(e, at) <= safe - horizon and _arrival(e, at) <= safe]
    newest = [] if any(_arrival(e, at) <= safe for e in inside) else outside[-1:]
    return newest + inside


def _arrival(event: bytes, at: int) -> int:
    return max(_number(event, at), _number(event, at + 8))


def _ids(value: bytes, layout: Layout) -> set[bytes]:
    """The ids in a value of events or of buckets."""
    if layout.kind == "buckets":
        ids = HEADER.unpack_from(value)[2]
        return {value[i : i + 8] for i in range(ids, len(value), 8)}
    return {_id(e, layout) for e in split_events(layout, value[HEAD:])}


def _id(event: bytes, layout: Layout) -> bytes:
    at = (4 if layout.variable_width else 0) + 16
    return event[at : at + 8]
