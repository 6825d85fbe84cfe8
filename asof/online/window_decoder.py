"""Decodes the stored events and buckets of one windowed view and aggregates them with the kernel that is used offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof import windows
from asof.contract import View
from asof.instants import from_micros
from asof.online.codec import buckets
from asof.online.codec.buckets import NEVER
from asof.online.codec.events import StoredEvents
from asof.online.codec.layouts import Layout
from asof.online.vectors import Vectors, statuses
from asof.windows.partial_aggregates import PartialColumn, Partials, combine

Ints = NDArray[np.int64]

_PYTHON: dict[str, Callable[[Any], Any]] = {"unixtimestamp": from_micros, "int32": int, "int64": int, "bool": bool}


class WindowDecoder:
    """Decodes the events of one view, under any number of layouts, and aggregates them.

    Args:
        view: The view.
        features: The features to read.
        start: Column of the first of them in the result.
        layouts: The layouts of its events and buckets.
        fields: Their fields among the fetched fields of a key, in the order of ``layouts``.
        exact: Whether numbers are also returned as Python values.
    """

    def __init__(
        self, view: View, features: Sequence[str], start: int, layouts: Sequence[Layout], fields: slice, *, exact: bool
    ) -> None:
        self.view, self.features, self.start = view, tuple(features), start
        self.aggregations = [next(a for a in view.aggregations if a.name == name) for name in features]
        self.numeric = [view.feature(name).numeric for name in features]
        self._exact = exact
        stored = list(zip(layouts, range(fields.start, fields.stop), strict=True))
        self._events = [(x, p) for x, p in stored if x.kind == "events"]
        self._buckets = [(x, p) for x, p in stored if x.kind == "buckets"]

    def decode(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, result: Vectors
    ) -> None:
        """Fill this view's columns of ``result``; see :meth:`asof.online.row_decoder.RowDecoder.decode`."""
        parts = [StoredEvents.of(layout, [fields[p] for fields in fetched]) for layout, p in self._events]
        events, questions = _events(parts, {a.column for a in self.aggregations}), windows.Questions(row, at)
        newest = windows.newest(events, questions)
        found = newest >= 0
        ts = events.ts[newest] if len(events.ts) else np.zeros(len(at), np.int64)
        merged = self._bucket_values(fetched)
        if merged:
            table = combine(_parts(events, merged), questions, self.aggregations, self.view.hop)
            ts = _later(np.where(found, ts, NEVER), merged, questions)
            found = ts > NEVER
        else:
            table = windows.aggregate(events, questions, self.aggregations, self.view.hop)
        result.event_times[found, member] = ts[found]
        stale = found & (at - ts > self.view.ttl) if self.view.ttl else np.zeros(len(at), bool)
        self._place(table, found, stale, result)

    def _bucket_values(self, fetched: Sequence[Sequence[bytes | None]]) -> list[buckets.StoredBuckets]:
        """The buckets of each layout; empty if there are none."""
        found = []
        for layout, p in self._buckets:
            values = [fields[p] for fields in fetched]
            if any(v is not None for v in values):
                found.append(buckets.unpack(layout, values))
        return found

    def _place(
        self, table: dict[str, NDArray[Any]], found: NDArray[np.bool_], stale: NDArray[np.bool_], result: Vectors
    ) -> None:
        missing = np.zeros((len(found), len(self.features)), bool)
        for position, (name, numeric) in enumerate(zip(self.features, self.numeric, strict=True)):
            column = table[name]
            if numeric:
                values = np.where(stale, np.nan, column.astype(np.float64))
                missing[:, position] = np.isnan(values)
                result.values[:, self.start + position] = values
            if self._exact or not numeric:
                listed = _objects(column, stale, self.view.feature(name).dtype)
                missing[:, position] = [v is None for v in listed]
                result.objects[self.view.alias, name] = listed  # type: ignore[index]
        result.statuses[:, self.start : self.start + len(self.features)] = statuses(found, stale, missing)


def _objects(column: NDArray[Any], stale: NDArray[np.bool_], dtype: str) -> list[Any]:
    listed = [None if v is None or v != v or s else v for v, s in zip(column.tolist(), stale.tolist(), strict=True)]
    convert = _PYTHON.get(dtype)
    return [None if v is None else convert(v) for v in listed] if convert else listed


def _later(ts: Ints, merged: Sequence[buckets.StoredBuckets], questions: windows.Questions) -> Ints:
    """Per question, the later of ``ts`` and the newest event in a bucket."""
    for stored in merged:
        mine = np.append(stored.newest, NEVER)[questions.key]
        ts = np.maximum(ts, np.where(mine <= questions.t, mine, NEVER))
    return ts


def _parts(events: windows.Events, merged: Sequence[buckets.StoredBuckets]) -> Partials:
    """Buckets and single events as parts; buckets first, because their events came first. Every read knows all of a bucket."""
    counted = [stored.columns[""] for stored in merged]
    columns = {"": PartialColumn.joined([*counted, PartialColumn.counting(np.ones(len(events.ts), np.int64))])}
    for name, values in events.columns.items():
        single = PartialColumn.of_events(values, events.ts, events.kt)
        held = [
            stored.columns.get(name) or PartialColumn.absent(len(count.count), values.dtype)
            for stored, count in zip(merged, counted, strict=True)
        ]
        columns[name] = PartialColumn.joined([*held, single], values.dtype)
    return Partials(
        np.concatenate([*(stored.owner for stored in merged), events.key]),
        np.concatenate([*(stored.start for stored in merged), events.ts]),
        np.concatenate([*(np.full(len(stored.owner), NEVER) for stored in merged), events.arrival]),
        columns,
    )


def _events(parts: Sequence[StoredEvents], wanted: set[str]) -> windows.Events:
    names = sorted(n for n in wanted if n)
    if len(parts) == 1 and all(n in parts[0].columns for n in names):
        one = parts[0]
        return windows.Events(one.owner, one.ts, np.maximum(one.ts, one.kt), one.kt, one.columns)
    key, ts, kt = (_joined([getattr(p, n) for p in parts]) for n in ("owner", "ts", "kt"))
    columns = {name: _column(parts, name) for name in names}
    return windows.Events(key, ts, np.maximum(ts, kt), kt, columns)


def _joined(arrays: list[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _column(parts: Sequence[StoredEvents], name: str) -> NDArray[Any]:
    """A column over all layouts; missing where a layout lacks it or has another type of value than the newest layout."""
    kinds = [p.columns[name].dtype for p in parts if name in p.columns]
    if not kinds:
        return np.full(sum(len(p.ts) for p in parts), np.nan)
    kind = kinds[-1]
    absent: Any = None if kind.hasobject else np.nan
    return np.concatenate(
        [
            p.columns[name] if name in p.columns and p.columns[name].dtype == kind else np.full(len(p.ts), absent, kind)
            for p in parts
        ]
    )
