"""Writes rows of plain views and events of windowed views from Arrow tables.

Every write is idempotent and atomic per key: the store ends up the same however often, in whatever order and by however many
writers a row is written. After a failure, write again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof import windows
from asof.contract import View, view_fingerprint
from asof.contract.arrow_types import COLUMN_TYPES, parsed_moments
from asof.errors import OnlineStoreError, SchemaError
from asof.online.codec import events, rows
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout, buckets_layout, events_layout, row_layout
from asof.online.compaction import compact
from asof.online.redis.keys import entity_prefix, ordered_keys, table_keys
from asof.online.redis.resp_encoding import BulkStrings
from asof.online.redis.store import RedisStore
from asof.online.store_protocol import EventsWritten, Role, Sibling, StaleLayoutsError, WritableStore, WriteTarget
from asof.online.watermarks import Watermark, materialized_field
from asof.quantities import counted
from asof.settings import OnlineSettings

Ints = NDArray[np.int64]
T = TypeVar("T")

BATCH = 4_096
"""Events of one key per write, for views with a hop; the key can be compacted after each write."""


class Writer:
    """Writes to the online store of one project.

    Args:
        project: Feast project.
        store: Where to write: settings of Redis, or a store such as :class:`asof.online.memory.MemoryStore`.

    Raises:
        OnlineStoreError: The embedded Redis does not start.
    """

    def __init__(self, project: str, store: OnlineSettings | WritableStore) -> None:
        self.project = project
        self.key_ttl = store.key_ttl_seconds if isinstance(store, OnlineSettings) else 0
        self.store: WritableStore = RedisStore(store) if isinstance(store, OnlineSettings) else store
        self._known = _KnownLayouts({}, -1)

    def register(self, views: Iterable[View]) -> None:
        """Register the applied views, for :meth:`asof.online.Reader.check`.

        Raises:
            OnlineStoreError: Redis does not answer or is full.
        """
        self.store.set_views(self.project, {v.name: _registered(v) for v in views})

    def write(self, view: View, table: pa.Table, *, now: int | None = None) -> int:
        """Write rows of a plain view, or events of a windowed one.

        Args:
            view: The view.
            table: Join keys, event time, knowledge time where the view has one (without it, or where it is null, event time is
                knowledge time), and the features of a plain view, or the aggregated columns and the event id of a windowed
                one; named as in the view. Rows without a key or an event time are skipped.
            now: The clock, microseconds UTC; by default this machine's. It decides which rows are not known yet, and
                only events before it may be dropped.

        Returns:
            Rows written: not older than the stored row, or events that were not stored before.

        Raises:
            SchemaError: A column is missing or does not fit its type.
            OnlineStoreError: Redis is down or full, or a key has too many events. Keys written before the error stay; writing again
                is safe.
        """
        clock = time.time_ns() // 1000 if now is None else now
        valid = _valid_rows(view, table)
        if not valid.num_rows:
            return 0
        keys = table_keys(ordered_keys(view), valid)
        if view.windowed:
            return self._write_events(view, valid, keys, clock)
        return self._write_rows(view, valid, keys, clock)

    def watermark(self, table: str) -> Watermark:
        """The watermark of a table."""
        return self.store.watermark(self.project, table)

    def materializing(self, view: View, end: int) -> None:
        """Note that what is stored is what reads from ``end`` on need; a moment in the future means now.

        A materialization notes it before it writes, a replay of the past after it has written.
        """
        self.watermark(materialized_field(view.name)).lift(min(end, time.time_ns() // 1000))

    def kept_from(self, view: View) -> int:
        """The earliest moment of which a windowed view keeps everything, as far as was noted; 0 if nothing was."""
        end = self.watermark(materialized_field(view.name)).value()
        return 0 if end is None else end - Pruning.of(view).slack

    def drop(self, view: str) -> None:
        """Delete everything stored of one view, in steps that do not block Redis."""
        self.store.drop(self.project, view)
        self.watermark(materialized_field(view)).remove()

    def drop_project(self) -> int:
        """Delete everything stored for the project, in steps; returns the number of keys deleted."""
        return self.store.drop_project(self.project)

    def close(self) -> None:
        """Release all connections."""
        self.store.close()

    def _write_rows(self, view: View, table: pa.Table, keys: pa.Array, now: int) -> int:
        layout = row_layout(view.name, [(f.name, f.dtype) for f in view.features])
        ts, kt = _times(view, table)
        chosen = _newest(_codes(keys), ts, kt, now)
        if chosen is not None:
            table, keys, ts, kt = table.take(chosen), keys.take(chosen), ts[chosen], kt[chosen]
        columns = {f.name: table.column(f.name).combine_chunks() for f in view.features}
        packed = rows.pack(layout, columns, ts, kt)
        owners = self._keys(view, keys)
        return self._put((layout,), lambda target: self.store.put_rows(target, owners, packed, now, self.key_ttl))

    def _write_events(self, view: View, table: pa.Table, keys: pa.Array, now: int) -> int:
        layout = self._events_layout(view, table)
        ts, kt = _times(view, table)
        ids = _ids(view, table)
        codes = _codes(keys)
        order = _once(codes, ids, ts, kt)
        columns = {name: _event_column(view, name, table.column(name)) for name in view.event_columns}
        added = refused = 0
        for some in _batches(order, codes, BATCH if view.hop > 1 else len(order)):
            mine = codes[some]
            bounds = np.flatnonzero(np.r_[True, mine[1:] != mine[:-1], True])
            values = {name: column.take(some) for name, column in columns.items()}
            blobs = events.pack(layout, values, ts[some], kt[some], ids[some], bounds)
            found = self._put_events(view, layout, self._keys(view, keys.take(some[bounds[:-1]])), blobs, now)
            added, refused = added + found.written, max(refused, found.refused)
        if refused:
            raise OnlineStoreError(
                f"view {view.name!r}: the largest window of {counted(refused, 'key')} has more events than fit into "
                f"{Pruning.of(view).limit} bytes; shorten the window{'' if view.hop > 1 else ' or declare a hop'}; "
                "all other keys were written"
            )
        return added

    def _put_events(
        self, view: View, layout: Layout, owners: Sequence[bytes], blobs: Sequence[bytes], now: int
    ) -> EventsWritten:
        """Add events of distinct keys, and compact the keys that have grown."""
        pruning = Pruning.of(view)
        distinct = [a.column for a in view.aggregations if a.function == "count_distinct"]
        into = buckets_layout(layout, view.hop, distinct) if view.hop > 1 else None
        layouts = (layout,) if into is None else (layout, into)

        def put(target: WriteTarget) -> EventsWritten:
            siblings = self._siblings(view, layout, into)
            return self.store.put_events(target, siblings, pruning, owners, blobs, now, self.key_ttl)

        added = self._put(layouts, put)
        if into is not None and added.grown:
            self._put(layouts, lambda target: compact(self.store, target, into, pruning, added.grown, now))
        return added

    def _events_layout(self, view: View, table: pa.Table) -> Layout:
        """The layout of the table's events; a column without any value takes the type that it had before."""
        types = {name: _event_type(view, name, table.column(name).type) for name in view.event_columns}
        if None in types.values():
            before = [
                x.dtypes
                for x in self.store.layouts(self.project).values()
                if x.kind == "events" and x.view == view.name
            ]
            for name in (n for n, t in types.items() if t is None):
                types[name] = next((d[name] for d in before if name in d), "float64")
        return events_layout(view.name, [(name, dtype or "float64") for name, dtype in types.items()])

    def _put(self, layouts: Sequence[Layout], put: Callable[[WriteTarget], T]) -> T:
        """Write under the first layout, after registering all; repeats if other layouts were registered in between."""
        while True:
            known = self._known
            if all(layout.id in known.layouts for layout in layouts):
                try:
                    return put(WriteTarget(self.project, layouts[0], known.revision))
                except StaleLayoutsError:
                    pass
            revision = max([self.store.add_layout(self.project, layout) for layout in layouts])
            self._known = _KnownLayouts(self.store.layouts(self.project), revision)

    def _siblings(self, view: View, layout: Layout, into: Layout | None = None) -> list[Sibling]:
        """The other layouts of a view: ``into`` is that of the buckets that events of ``layout`` are merged into."""
        others = [x for x in self._known.layouts.values() if x.view == view.name and x.id != layout.id]
        found = [Sibling(x, "events") for x in others if x.kind == "events"]
        for other in (x for x in others if x.kind == "buckets"):
            ours: Role = "buckets" if other == into else "old"
            found.append(Sibling(other, "foreign" if view.hop % other.hop else ours))
        return found

    def _keys(self, view: View, keys: pa.Array) -> BulkStrings:
        prefix = entity_prefix(self.project, (k.column for k in view.join_keys))
        return BulkStrings.of_arrow(pc.binary_join_element_wise(prefix, keys.cast(pa.binary()), b""))


@dataclass(frozen=True, slots=True)
class _KnownLayouts:
    """The layouts that a writer knows, and their revision."""

    layouts: dict[int, Layout]
    revision: int


def _registered(view: View) -> str:
    return json.dumps({"fingerprint": view_fingerprint(view), "view": asdict(view)})


def _valid_rows(view: View, table: pa.Table) -> pa.Table:
    """The rows that have a key and an event time, with columns cast to their declared types."""
    source, mapping = view.source, view.source.field_mapping
    needed = {k.column: k.dtype for k in view.join_keys}
    needed |= {_in_view(mapping, source.timestamp_field): "unixtimestamp"}
    if view.windowed:
        needed |= dict.fromkeys(view.event_columns, "") | (
            {_in_view(mapping, source.event_id): ""} if source.event_id else {}
        )
    else:
        needed |= {f.name: f.dtype for f in view.features}
    if missing := sorted(set(needed) - set(table.column_names)):
        raise SchemaError(f"view {view.name!r}: got columns {sorted(table.column_names)}, expected also {missing}")
    for name, dtype in needed.items():
        if dtype in COLUMN_TYPES:
            column = _cast(view, name, table.column(name), dtype)
            table = table.set_column(table.column_names.index(name), name, column)
    absent = [
        table.column(n).is_null()
        for n in (*(k.column for k in view.join_keys), _in_view(mapping, source.timestamp_field))
    ]
    if (
        any(column.null_count for column in (table.column(k.column) for k in view.join_keys))
        or table.column(_in_view(mapping, source.timestamp_field)).null_count
    ):
        keep = pc.invert(_any(absent))
        table = table.filter(keep)
    return table


def _any(flags: list[Any]) -> Any:
    result = flags[0]
    for flag in flags[1:]:
        result = pc.or_(result, flag)
    return result


def _in_view(mapping: Mapping[str, str], raw: str) -> str:
    return mapping.get(raw, raw)


def _cast(view: View, name: str, column: pa.ChunkedArray, dtype: str) -> pa.ChunkedArray:
    """A column in its declared type, as datasets have it: NaN is a missing whole number, and floats take the nearest value."""
    target = COLUMN_TYPES[dtype]
    if column.type == target or (dtype == "json" and not pa.types.is_null(column.type)):
        return column
    try:
        if dtype == "unixtimestamp":
            return _moments(column)
        if pa.types.is_integer(target) and pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column.cast(target, safe=not pa.types.is_floating(target))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaError(f"view {view.name!r}, column {name!r}: got {column.type}, expected {dtype}") from error


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Any Arrow time, or text in ISO 8601, as microseconds UTC; a naive one means UTC, integers mean microseconds."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = parsed_moments(column)
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        return micros.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    return column.cast(pa.timestamp("us", "UTC"))


def _times(view: View, table: pa.Table) -> tuple[Ints, Ints]:
    mapping, created = view.source.field_mapping, view.source.created_timestamp_column
    ts = _micros(table.column(_in_view(mapping, view.source.timestamp_field)))
    name = _in_view(mapping, created) if created else None
    if name is None or name not in table.column_names:
        return ts, ts
    column = _cast(view, name, table.column(name), "unixtimestamp")
    return ts, np.where(np.asarray(column.is_null()), ts, _micros(column))


def _micros(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0)).astype(np.int64)


def _codes(keys: pa.Array) -> Ints:
    return np.asarray(pc.dictionary_encode(keys).indices).astype(np.int64)


def _newest(codes: Ints, ts: Ints, kt: Ints, now: int) -> Ints | None:
    """Positions of the newest known row of each key and of all rows that are not known yet; None for all rows."""
    keys = int(codes.max()) + 1
    if len(codes) == keys:
        return None
    arrival = np.maximum(ts, kt)
    questions = windows.Questions(np.arange(keys), np.full(keys, now))
    newest = windows.newest(windows.Events(codes, ts, arrival, kt, {}), questions)
    return np.concatenate([newest[newest >= 0], np.flatnonzero(arrival > now)])


def _once(codes: Ints, ids: NDArray[np.uint64], ts: Ints, kt: Ints) -> Ints:
    """Positions of the first event of each (key, id), by (key, event time, knowledge time, source order)."""
    by_id = np.lexsort((ids, codes))
    first = np.r_[True, (codes[by_id][1:] != codes[by_id][:-1]) | (ids[by_id][1:] != ids[by_id][:-1])]
    kept = np.sort(by_id[first])
    return kept[np.lexsort((kt[kept], ts[kept], codes[kept]))]


def _batches(order: Ints, codes: Ints, most: int) -> Iterator[Ints]:
    """``order``, which is sorted by code, in batches of at most ``most`` of each code."""
    mine = codes[order]
    starts = np.flatnonzero(np.r_[True, mine[1:] != mine[:-1]])
    rank = np.arange(len(mine)) - np.repeat(starts, np.diff(np.r_[starts, len(mine)]))
    greatest = int(rank.max())
    if greatest < most:
        yield order
        return
    for first in range(0, greatest + 1, most):
        yield order[(rank >= first) & (rank < first + most)]


def _ids(view: View, table: pa.Table) -> NDArray[np.uint64]:
    if view.source.event_id:
        return events.ids_of_column(
            table.column(_in_view(view.source.field_mapping, view.source.event_id)).combine_chunks()
        )
    return events.ids_of_rows(table)


def _event_type(view: View, name: str, arrow: pa.DataType) -> str | None:
    if pa.types.is_null(arrow):
        return None
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_dictionary(arrow):
        return "string"
    if pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow):
        return "bytes"
    numeric = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_timestamp,
    )
    if any(fits(arrow) for fits in numeric):
        return "float64"
    raise SchemaError(
        f"view {view.name!r}: column {name!r} is {arrow}; windows aggregate numbers, times, text and bytes"
    )


def _event_column(view: View, name: str, column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    wanted = _event_type(view, name, whole.type)
    if wanted in ("string", "bytes"):
        return whole.cast(COLUMN_TYPES[wanted])
    if pa.types.is_timestamp(whole.type):
        whole = whole.cast(pa.timestamp("us", whole.type.tz), safe=False).cast(pa.int64())
    return whole.cast(pa.float64(), safe=False)
