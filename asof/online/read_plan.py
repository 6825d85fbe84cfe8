"""Compiles views and features into requests to a store, and decodes the replies.

A plan is compiled once for a list of (view, features). :meth:`ReadPlan.lookups` gives the distinct stored keys of a read,
:meth:`ReadPlan.requests` the requests to the store, and :meth:`ReadPlan.vectors` decodes the replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import JoinKey, View
from asof.errors import RequestError
from asof.online.codec.events import Pruning
from asof.online.codec.layouts import Layout, field_of
from asof.online.redis.keys import entity_prefix, ordered_keys, request_keys, watermarks_key
from asof.online.row_decoder import RowDecoder
from asof.online.store_protocol import Fetched, Request
from asof.online.vectors import NOT_FOUND, NOT_KEPT, Vectors
from asof.online.watermarks import materialized_field
from asof.online.window_decoder import WindowDecoder
from asof.quantities import counted

Ints = NDArray[np.int64]

_FIRST = np.zeros(1, np.int64)
_FIRST.flags.writeable = False
NEVER = 2**63 - 1
"""Later than every moment."""
EXACT = 2**53
"""Every integer up to this one is exact as float64."""


@dataclass(frozen=True, slots=True)
class ViewFeatures:
    """A view and the features to read of it."""

    view: View
    features: tuple[str, ...]


@dataclass(slots=True)
class _Group:
    """The views that share their keys' hashes and take the key values from the same request columns."""

    prefix: bytes
    view: View
    keys: list[JoinKey]
    members: list[int] = field(default_factory=list)


@dataclass(slots=True)
class KeyLookup:
    """The keys of one group: the distinct keys, and for each of n rows the position of its key among them (-1: none)."""

    row: Ints
    keys: list[bytes]


class ReadPlan:
    """Reads some features of some views. Immutable, so that concurrent reads can share it.

    Args:
        project: Feast project.
        wanted: The views and their features.
        layouts: The layouts in the store.
        revision: The revision of these layouts; -1 before any were read.
        exact: Whether integers beyond 2**53, which a float64 cannot hold, are also returned as Python values, and with them
            all numbers of windowed views.
    """

    def __init__(
        self, project: str, wanted: Sequence[ViewFeatures], layouts: Mapping[int, Layout] | None = None, revision: int = -1,
        *, exact: bool = False,
    ) -> None:  # fmt: skip
        self.project, self.wanted, self.revision, self.exact = project, tuple(wanted), revision, exact
        self.columns = tuple((w.view.alias, name) for w in wanted for name in w.features)
        self.views = tuple(w.view.alias for w in wanted)
        self._groups = _groups(project, self.wanted)
        self._empty_row = self._empty(1)
        tables = tuple(sorted({w.view.source.name.encode() for w in self.wanted}))
        self._tables = len(tables)
        ends = tuple(materialized_field(w.view.name).encode() for w in self.wanted)
        self._watermarks: Request = ((watermarks_key(project),), (*tables, *ends))
        self._decoders: dict[int, RowDecoder | WindowDecoder] = {}
        self._exact_decoders: dict[int, RowDecoder] = {}
        self._fields: list[tuple[bytes, ...]] = []
        starts = np.cumsum([0, *(len(w.features) for w in wanted)]).tolist()
        for group in self._groups:
            fields: list[bytes] = []
            for member in group.members:
                one, found = self.wanted[member], _layouts_of(self.wanted[member].view, layouts or {})
                mine = [field_of(x) for x in found] if one.view.windowed else [one.view.name.encode()]
                place = slice(len(fields), len(fields) + len(mine))
                given = (one.view, one.features, starts[member], found, place)
                if one.view.windowed:
                    self._decoders[member] = WindowDecoder(*given, exact=exact)
                else:
                    self._decoders[member] = RowDecoder(*given)
                    if exact and "int64" in {one.view.feature(name).dtype for name in one.features}:
                        self._exact_decoders[member] = RowDecoder(*given, exact=True)
                fields += mine
            self._fields.append(tuple(fields))

    def with_layouts(self, layouts: Mapping[int, Layout], revision: int) -> ReadPlan:
        """The same plan for other layouts."""
        return ReadPlan(self.project, self.wanted, layouts, revision, exact=self.exact)

    def lookups(self, keys: Mapping[str, Sequence[Any]], rows: int) -> list[KeyLookup]:
        """The distinct keys of each group for n requested rows.

        Args:
            keys: Request column -> n values; None or NaN where a key is missing.
            rows: n.

        Raises:
            RequestError: A key column is missing, has another length, or a value does not fit its type.
        """
        found = []
        for group in self._groups:
            for key in group.view.join_keys:
                _check_column(keys, key.request, rows)
            distinct, row = request_keys(group.prefix, group.keys, keys, rows)
            found.append(KeyLookup(_own_keys(rows) if row is None else np.array(row, np.int64), distinct))
        return found

    def requests(self, lookups: Sequence[KeyLookup]) -> list[Request]:
        """The requests to the store. Watermarks come first, so that nothing that is fetched later is older than they promise."""
        return [self._watermarks, *((x.keys, fields) for x, fields in zip(lookups, self._fields, strict=True))]

    def vectors(self, lookups: Sequence[KeyLookup], fetched: Fetched, at: Ints) -> Vectors:
        """The values of n rows as of the moments ``at``, or as of the watermark where it is earlier.

        Args:
            lookups: The result of :meth:`lookups`.
            fetched: The reply of the store.
            at: int64[n], microseconds UTC.

        Raises:
            OnlineStoreError: A stored value is damaged.
        """
        watermarks, *found = fetched.values
        at = _held_back(at, watermarks[0][: self._tables])
        values, states, times = self._empty_row if len(at) == 1 else self._empty(len(at))
        if len(at) == 1:  # copying is faster than creating
            values, states, times = values.copy(), states.copy(), times.copy()
        result = Vectors(self.columns, values, {}, states, self.views, times, at)
        for group, lookup, stored in zip(self._groups, lookups, found, strict=True):
            for member in group.members:
                decoder = self._decoders[member]
                decoder.decode(stored, lookup.row, at, member, result)
                if member in self._exact_decoders and _inexact(decoder, result):
                    self._exact_decoders[member].decode(stored, lookup.row, at, member, result)
        earliest = at.item() if len(at) == 1 else at.min(initial=NEVER)
        for member, end in enumerate(watermarks[0][self._tables :]):
            if end is not None and int(end) > earliest:
                _withhold(result, self.wanted[member], self._decoders[member].start, member, int(end))
        return result

    def _empty(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.uint8], Ints]:
        """Values, statuses and event times of n rows that were not found."""
        width, views = len(self.columns), len(self.wanted)
        return (
            np.full((rows, width), np.nan),
            np.full((rows, width), NOT_FOUND, np.uint8),
            np.full((rows, views), -1, np.int64),
        )


def _withhold(result: Vectors, one: ViewFeatures, start: int, member: int, end: int) -> None:
    """Withhold what the store, materialized for the moment ``end``, cannot know at an earlier one.

    A plain view keeps the newest row of a key: if that row was known at an earlier moment, it was the newest then, too. A
    windowed view keeps the events that reads back to its slack need.
    """
    columns = slice(start, start + len(one.features))
    if one.view.windowed:
        early = result.as_of < end - Pruning.of(one.view).slack
    else:
        early = (result.as_of < end) & (result.statuses[:, columns] == NOT_FOUND).all(axis=1)
    if not early.any():
        return
    result.statuses[early, columns] = NOT_KEPT
    result.values[early, columns] = np.nan
    result.event_times[early, member] = -1
    for name in one.features:
        held = result.objects.get((one.view.alias, name), [])
        held[:] = [None if e else v for v, e in zip(held, early.tolist(), strict=False)]


def _groups(project: str, wanted: Sequence[ViewFeatures]) -> list[_Group]:
    groups: dict[tuple[tuple[str, str], ...], _Group] = {}
    for position, w in enumerate(wanted):
        identity = tuple((k.column, k.request) for k in ordered_keys(w.view))
        prefix = entity_prefix(project, (k.column for k in w.view.join_keys))
        groups.setdefault(identity, _Group(prefix, w.view, ordered_keys(w.view))).members.append(position)
    return list(groups.values())


def _layouts_of(view: View, layouts: Mapping[int, Layout]) -> list[Layout]:
    """The layouts of a view that can be read: of its rows; or of its events, and of buckets whose hop divides its own."""
    if not view.windowed:
        return [x for x in layouts.values() if x.kind == "row" and x.view == view.name]
    return [x for x in layouts.values() if x.kind != "row" and x.view == view.name and view.hop % x.hop == 0]


def _check_column(keys: Mapping[str, Sequence[Any]], name: str, rows: int) -> None:
    if name not in keys:
        raise RequestError(None, name, f"is missing; the keys given are {sorted(keys)}")
    if len(keys[name]) != rows:
        raise RequestError(None, name, f"has {counted(len(keys[name]), 'value')}, expected {rows}")


def _inexact(decoder: RowDecoder | WindowDecoder, result: Vectors) -> bool:
    """Whether a float64 of this view may differ from the stored integer."""
    mine = result.values[:, decoder.start : decoder.start + len(decoder.features)]
    return bool((np.abs(mine) >= EXACT).any())


def _own_keys(count: int) -> Ints:
    """The positions of the keys where every row has its own key."""
    return _FIRST if count == 1 else np.arange(count)


def _held_back(at: Ints, watermarks: Sequence[bytes | None]) -> Ints:
    """``at``, but no later than the earliest watermark."""
    known = [int(w) for w in watermarks if w is not None]
    return np.minimum(at, min(known)) if known else at
