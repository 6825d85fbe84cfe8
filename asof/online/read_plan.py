"""What a read asks for and what its answer means: everything about reading that is not talking to a store.

A plan is made once for a list of (view, features). :meth:`ReadPlan.requests` turns entity keys into Redis keys, each once;
:meth:`ReadPlan.vectors` turns what came back into columns. Whole blocks of numbers are copied; there is no loop over values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import JoinKey, View
from asof.errors import RequestError
from asof.online.cells import Cells
from asof.online.codec.layouts import Layout, field_of
from asof.online.redis.keys import entity_prefix, ordered_keys, request_keys, watermarks_key
from asof.online.redis.resp_decoding import Reply
from asof.online.row_decoder import PlainDecoder
from asof.online.status import NOT_FOUND
from asof.online.store_protocol import Fetched, Request
from asof.online.window_decoder import WindowDecoder

Ints = NDArray[np.int64]

_ALONE = np.zeros(1, np.int64)
_ALONE.flags.writeable = False
EXACT = 2**53
"""Integers up to this one are exact as float64."""


@dataclass(slots=True)
class Vectors:
    """What a read found, for n rows, S stored features and V views.

    Attributes:
        columns: (view alias, feature) of each of the S columns: views in order, features in the order of their view.
        values: float64[n, S]; NaN is missing, and so is every value of a feature that is not numeric.
        objects: (view alias, feature) -> n Python values, for the features that are not numeric; None is missing.
        statuses: uint8[n, S], see :class:`asof.online.Status`.
        views: Alias of each of the V views.
        event_times: int64[n, V]: event time of the newest row or event that was known, microseconds UTC; -1 for none.
        as_of: int64[n]: the moment whose values these are: the one asked for, or an earlier one where events are under way.
    """

    columns: tuple[tuple[str, str], ...]
    values: NDArray[np.float64]
    objects: Mapping[tuple[str, str], list[Any]]
    statuses: NDArray[np.uint8]
    views: tuple[str, ...]
    event_times: Ints
    as_of: Ints

    def column(self, alias: str, feature: str) -> NDArray[np.float64] | list[Any]:
        """The n values of one feature: float64 with NaN, or Python values with None."""
        if (alias, feature) in self.objects:
            return self.objects[alias, feature]
        return self.values[:, self.columns.index((alias, feature))]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A view and the features of it that are read."""

    view: View
    features: tuple[str, ...]


@dataclass(slots=True)
class _Group:
    """The views that share their entities' hashes and take their keys from the same request columns."""

    prefix: bytes
    view: View
    keys: list[JoinKey]
    members: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Asked:
    """The keys of one group: which distinct key each of n rows asks for (-1: none), and the distinct keys."""

    row: Ints
    keys: list[bytes]


class ReadPlan:
    """How to read some features of some views; never changes, so that reads under way are not disturbed.

    Args:
        project: Feast project.
        wanted: The views and their features.
        layouts: The layouts that the store knows.
        revision: The revision of these layouts; -1 before any were read.
        exact: Whether integers that a float64 cannot hold (beyond 2**53) are wanted as Python values as well, and so all
            numbers of windowed views.
    """

    def __init__(
        self, project: str, wanted: Sequence[Wanted], layouts: Mapping[int, Layout] | None = None, revision: int = -1,
        *, exact: bool = False,
    ) -> None:  # fmt: skip
        self.project, self.wanted, self.revision, self.exact = project, tuple(wanted), revision, exact
        self.columns = tuple((w.view.alias, name) for w in wanted for name in w.features)
        self.views = tuple(w.view.alias for w in wanted)
        self._groups = _groups(project, self.wanted)
        self._members = [(number, member) for number, group in enumerate(self._groups) for member in group.members]
        self._unknown = self._made(1)
        tables = tuple(sorted({w.view.source.name.encode() for w in self.wanted}))
        self._watermarks: Request = ((watermarks_key(project),), tables)
        self._decoders: dict[int, PlainDecoder | WindowDecoder] = {}
        self._exactly: dict[int, PlainDecoder] = {}
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
                    self._decoders[member] = PlainDecoder(*given)
                    if exact and "int64" in {one.view.feature(name).dtype for name in one.features}:
                        self._exactly[member] = PlainDecoder(*given, exact=True)
                fields += mine
            self._fields.append(tuple(fields))

    def with_layouts(self, layouts: Mapping[int, Layout], revision: int) -> ReadPlan:
        """The same plan for other layouts."""
        return ReadPlan(self.project, self.wanted, layouts, revision, exact=self.exact)

    def ask(self, keys: Mapping[str, Sequence[Any]], rows: int) -> list[Asked]:
        """The distinct keys of each group for n requested rows.

        Args:
            keys: Request column -> n values; None or NaN where a key is missing.
            rows: n.

        Raises:
            RequestError: A key column is missing, has another length, or a value does not fit its type.
        """
        asked = []
        for group in self._groups:
            for key in group.view.join_keys:
                _check_column(keys, key.request, rows)
            found, row = request_keys(group.prefix, group.keys, keys, rows)
            asked.append(Asked(_rows(rows) if row is None else np.array(row, np.int64), found))
        return asked

    def requests(self, asked: Sequence[Asked]) -> list[Request]:
        """What to fetch from the store: watermarks first, so that nothing fetched after them is older than they promise."""
        return [self._watermarks] + [(a.keys, fields) for a, fields in zip(asked, self._fields, strict=True)]

    def vectors(self, asked: Sequence[Asked], fetched: Fetched, at: Ints) -> Vectors:
        """The values of n rows as of the moments ``at`` (int64[n], microseconds UTC), or of the watermark where it is earlier.

        Args:
            asked: What :meth:`ask` gave.
            fetched: What the store answered; with what :meth:`blank` gave, where it was called meanwhile.
            at: The moments.

        Raises:
            OnlineStoreError: What is stored is damaged.
        """
        watermarks, *found = fetched.values
        at = _held_back(at, watermarks[0])
        cells: Cells = fetched.meanwhile or self.blank(len(at))
        answer = cells.answer
        answer.as_of = at
        for group, member in self._left(found, at.item(), cells) if len(at) == 1 else self._members:
            stored, row = found[group], asked[group].row
            self._decoders[member].decode(stored, row, at, member, answer)
            if self._rounded(member, answer):
                self._exactly[member].decode(stored, row, at, member, answer)
        return answer

    def _left(self, found: Sequence[Sequence[Reply]], moment: int, cells: Cells) -> list[tuple[int, int]]:
        """Fill in the views of the only row in turn, with less effort than for many rows; those for which that is not enough."""
        return [
            (group, member)
            for group, member in self._members
            if not self._decoders[member].alone(found[group], moment, member, cells)
            or self._rounded(member, cells.answer)
        ]

    def _rounded(self, member: int, answer: Vectors) -> bool:
        """Whether what was read of a view has to be read again, exactly."""
        return member in self._exactly and _inexact(self._decoders[member], answer)

    def blank(self, rows: int) -> Cells:
        """The answer of n rows of which nothing is known, which :meth:`vectors` may fill; its ``as_of`` means nothing yet."""
        values, states, times = self._unknown if rows == 1 else self._made(rows)
        if rows == 1:  # which is copied faster than made
            values, states, times = values.copy(), states.copy(), times.copy()
        return Cells(Vectors(self.columns, values, {}, states, self.views, times, _ALONE))

    def _made(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.uint8], Ints]:
        """Values, statuses and event times of n rows of which nothing is known."""
        width, views = len(self.columns), len(self.wanted)
        return (
            np.full((rows, width), np.nan),
            np.full((rows, width), NOT_FOUND, np.uint8),
            np.full((rows, views), -1, np.int64),
        )


def _groups(project: str, wanted: Sequence[Wanted]) -> list[_Group]:
    groups: dict[tuple[tuple[str, str], ...], _Group] = {}
    for position, w in enumerate(wanted):
        identity = tuple((k.column, k.request) for k in ordered_keys(w.view))
        prefix = entity_prefix(project, (k.column for k in w.view.join_keys))
        groups.setdefault(identity, _Group(prefix, w.view, ordered_keys(w.view))).members.append(position)
    return list(groups.values())


def _layouts_of(view: View, layouts: Mapping[int, Layout]) -> list[Layout]:
    """The layouts that values of a view may have: of its rows, or of its events and of buckets that its hop can be made of."""
    if not view.windowed:
        return [x for x in layouts.values() if x.kind == "row" and x.view == view.name]
    return [x for x in layouts.values() if x.kind != "row" and x.view == view.name and view.hop % x.hop == 0]


def _check_column(keys: Mapping[str, Sequence[Any]], name: str, rows: int) -> None:
    if name not in keys:
        raise RequestError(None, name, f"is missing; the keys given are {sorted(keys)}")
    if len(keys[name]) != rows:
        raise RequestError(None, name, f"has {len(keys[name])} values, expected {rows}")


def _inexact(decoder: PlainDecoder | WindowDecoder, answer: Vectors) -> bool:
    """Whether a float64 of this view may stand for another integer than the stored one."""
    mine = answer.values[:, decoder.start : decoder.start + len(decoder.features)]
    return bool((np.abs(mine) >= EXACT).any())


def _rows(count: int) -> Ints:
    """Every row asks for a key of its own."""
    return _ALONE if count == 1 else np.arange(count)


def _held_back(at: Ints, watermarks: Sequence[bytes | None]) -> Ints:
    """``at``, but no later than what every table promises to be complete."""
    known = [int(w) for w in watermarks if w is not None]
    return np.minimum(at, min(known)) if known else at
