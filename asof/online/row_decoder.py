"""From stored rows of one plain view to its columns of the answer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import NUMERIC_TYPES, View
from asof.errors import OnlineStoreError
from asof.online.cells import WIDTH, Cells
from asof.online.codec import rows
from asof.online.codec.layouts import Layout, block_of
from asof.online.codec.rows import Rows
from asof.online.redis.resp_decoding import Block
from asof.online.status import NULL, OUTSIDE_MAX_AGE, PRESENT, statuses

if TYPE_CHECKING:
    from asof.online.read_plan import Vectors

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
_NUMBER: dict[str, Callable[[Any], Any]] = {
    "int32": int,
    "int64": int,
    "float32": float,
    "float64": float,
    "bool": bool,
}
FEW = 8
"""Up to so many rows are read one by one."""
_NAME = 8
"""Bytes of a row's layout and size, with which it begins."""
_TIMES = struct.Struct("<qq")
HEAD = _NAME + _TIMES.size
_WHOLE = {"int32": (-(2**31), 2**31), "int64": (-(2**63), 2**63)}


class PlainDecoder:
    """Reads the rows of one view, whatever layout each was written under.

    Args:
        view: The view.
        features: The features that are read.
        start: Column of the first of them in the answer.
        layouts: The layouts that its rows may have.
        fields: Which of a key's fetched fields is this view's.
        exact: Whether int64 features are wanted as Python values as well.
    """

    def __init__(
        self, view: View, features: Sequence[str], start: int, layouts: Sequence[Layout], fields: slice,
        *, exact: bool = False,
    ) -> None:  # fmt: skip
        self.view, self.features, self.start = view, tuple(features), start
        wide = {"int64"} if exact else set()
        self.others = [f.name for f in map(view.feature, features) if not f.numeric or f.dtype in wide]
        self._layouts = {x.id: x for x in layouts}
        self._copies: dict[int, _Copies] = {}
        self._simple: dict[bytes, _Copies] = {}
        self._field = fields.start

    def decode(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, answer: Vectors
    ) -> None:
        """Fill this view's columns of ``answer``.

        Args:
            fetched: Fields of each of k distinct keys.
            row: int64[n], which key each row asks for; -1 for none.
            at: int64[n], moments, microseconds UTC.
            member: This view's position among the views.
            answer: What to fill.
        """
        if not self.others and len(fetched) and self._quickly(fetched, row, at, member, answer):
            return
        stored = [fields[self._field] for fields in fetched]
        candidates, owner = _candidates(stored)
        for name in self.others:
            answer.objects[self.view.alias, name] = [None] * len(at)  # type: ignore[index]
        if not candidates:
            return
        ids = [int.from_bytes(c[:4], "little") for c in candidates]
        layout = self._layout(ids[0])
        if ids.count(ids[0]) == len(ids):
            self._fill(Rows.of(layout, candidates), owner, row, at, member, answer)
            return
        chosen = _chosen(np.array([_age(c) for c in candidates], np.int64), owner, len(stored), row, at)
        for one in dict.fromkeys(ids):
            mine = np.flatnonzero(np.array(ids) == one)
            subset = np.isin(chosen, mine) & (chosen >= 0)
            if subset.any():
                position = np.zeros(len(ids), np.int64)
                position[mine] = np.arange(len(mine))
                decoded = Rows.of(self._layout(one), [candidates[i] for i in mine])
                self._copy(decoded, np.flatnonzero(subset), position[chosen[subset]], at, member, answer)

    def _quickly(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, answer: Vectors
    ) -> bool:
        """The usual case: at most one row for each key, known at the moments asked for, all of one simple layout; else False."""
        if isinstance(fetched, Block):
            return self._together(fetched, self._field, row, at, member, answer)
        if len(row) <= FEW:
            return self._one_by_one(fetched, row, at, member, answer)
        stored = [fields[self._field] for fields in fetched]
        present = [value for value in stored if value is not None]
        if len(present) != len(stored):
            row = _among_present(stored, row)
        size = len(present[0]) if present else 0
        joined = b"".join(present)
        if not size or len(joined) != size * len(present):
            return False
        return self._together(Block(joined, 0, size, ((0, size),), len(present)), 0, row, at, member, answer)

    def _one_by_one(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, answer: Vectors
    ) -> bool:
        """As :meth:`alone`, for a few rows in turn."""
        cells, keys, moments = Cells(answer), row.tolist(), at.tolist()
        return all(
            self._one(fetched[key][self._field], moment, place, member, cells)
            for place, (key, moment) in enumerate(zip(keys, moments, strict=True))
            if key >= 0
        )

    def alone(self, fetched: Sequence[Sequence[bytes | None]], moment: int, member: int, cells: Cells) -> bool:
        """Fill this view's cells of the only row, with less effort than numpy takes for many; whether this was the usual case.

        The usual case is that of :meth:`_quickly`. In any other nothing is filled.

        Args:
            fetched: Fields of its key; nothing where that is missing.
            moment: Its moment, microseconds UTC.
            member: This view's position among the views.
            cells: The answer.
        """
        if self.others:
            return False
        return not fetched or self._one(fetched[0][self._field], moment, 0, member, cells)

    def _one(self, value: bytes | None, moment: int, place: int, member: int, cells: Cells) -> bool:
        if value is None:
            return True
        copies = self._simple.get(value[:_NAME]) or self._simple_copies(value[:_NAME])
        if copies is None or copies.size != len(value):
            return False
        ts, kt = _TIMES.unpack_from(value, _NAME)
        if ts > moment or kt > moment or not value.startswith(copies.unmasked, HEAD):
            return False
        cells.times[place, member] = ts
        start = place * cells.width + self.start
        if self.view.ttl and moment - ts > self.view.ttl:
            cells.statuses[start : start + copies.count] = copies.stale
            return True
        cells.statuses[start : start + copies.count] = copies.present
        values = cells.values[place * cells.stride :]
        for source, target in copies.moves:
            values[target] = value[source]
        for spot in copies.others:
            numbers = np.frombuffer(value, spot.dtype, spot.count, spot.at)
            cells.numbers[place, spot.target] = numbers[spot.source]
        return True

    def _together(self, block: Block, field: int, row: Ints, at: Ints, member: int, answer: Vectors) -> bool:
        """Many rows in a few copies of whole blocks of numbers, straight from where they arrived."""
        data, stride, count = block.data, block.stride, block.replies
        offset, size = block.places[field]
        start = block.start + offset
        copies = self._known_copies(int.from_bytes(data[start : start + 4], "little")) if size > HEAD else None
        if copies is None or copies.spots is None or copies.size != size:
            return False
        if (np.ndarray(count, "<u8", data, start, stride) != copies.head).any():
            return False
        times = np.ndarray((count, 2), "<i8", data, start + 8, (stride, 8))
        masks = np.ndarray((count, len(copies.unmasked)), np.uint8, data, start + HEAD, (stride, 1))
        target, source = _pairs(row, count)
        ts, moments = times[source, 0], at[target]
        if times.max() > at.min() and (times[source].max(axis=1) > moments).any():
            return False
        first, past = self.start, self.start + len(self.features)
        for spot in copies.spots:
            numbers = np.ndarray((count, spot.count), spot.dtype, data, start + spot.at, (stride, spot.dtype.itemsize))
            answer.values[_cells(target, spot.target)] = numbers[:, spot.source][source]
        answer.statuses[target, first:past] = PRESENT
        answer.event_times[target, member] = ts
        if masks.any():
            missing = np.zeros((len(at), len(self.features)), bool)
            missing[target] = _bits(masks)[source][:, copies.bits]
            answer.values[:, first:past][missing] = np.nan
            answer.statuses[:, first:past][missing] = NULL
        if self.view.ttl and (moments - ts > self.view.ttl).any():
            stale = np.arange(len(at))[target][moments - ts > self.view.ttl]
            answer.values[stale, first:past] = np.nan
            answer.statuses[stale, first:past] = OUTSIDE_MAX_AGE
        return True

    def _simple_copies(self, name: bytes) -> _Copies | None:
        """How to read rows that begin so; None where more than numbers would have to be copied."""
        copies = self._known_copies(int.from_bytes(name[:4], "little"))
        if copies is None or copies.spots is None or copies.name != name:
            return None
        self._simple[name] = copies
        return copies

    def _known_copies(self, one: int) -> _Copies | None:
        layout = self._layouts.get(one)
        return None if layout is None else self._copies_of(layout)

    def _copies_of(self, layout: Layout) -> _Copies:
        found = self._copies.get(layout.id)
        if found is None:
            found = self._copies[layout.id] = _Copies(self, layout)
        return found

    def _layout(self, one: int) -> Layout:
        try:
            return self._layouts[one]
        except KeyError:
            raise OnlineStoreError(
                f"a row of view {self.view.name!r} has the unknown layout {one:08x}; materialize it again"
            ) from None

    def _fill(self, decoded: Rows, owner: Ints | None, row: Ints, at: Ints, member: int, answer: Vectors) -> None:
        if owner is None:
            arrival = np.maximum(decoded.fixed["ts"], decoded.fixed["kt"])
            if (row >= 0).all() and (arrival[row] <= at).all():
                self._copy(decoded, slice(None), row, at, member, answer)
                return
            owner = np.arange(len(arrival))
        ages = np.stack([decoded.fixed["ts"], decoded.fixed["kt"]], axis=1)
        chosen = _chosen(ages, owner, int(max(owner.max(), row.max())) + 1, row, at)
        target = np.flatnonzero(chosen >= 0)
        self._copy(decoded, target, chosen[target], at, member, answer)

    def _copy(self, decoded: Rows, target: Ints | slice, source: Ints, at: Ints, member: int, answer: Vectors) -> None:
        """Copy the decoded rows ``source`` to the rows ``target`` of the answer."""
        layout = decoded.layout
        copies = self._copies_of(layout)
        ts = decoded.fixed["ts"][source]
        answer.event_times[target, member] = ts
        stale = (at[target] - ts > self.view.ttl) if self.view.ttl else np.zeros(len(ts), bool)
        bits, numbers = decoded.missing(), copies.values(decoded)
        absent = copies.missing(bits, numbers)
        values, missing = numbers[source], absent[source]
        first, past = self.start, self.start + len(self.features)
        values[missing | stale[:, None]] = np.nan
        answer.values[target, first:past] = values
        answer.statuses[target, first:past] = statuses(np.ones(len(ts), bool), stale, missing)
        for name in self.others:
            found = copies.objects(decoded, name, bits, numbers, absent)
            _place(answer.objects[self.view.alias, name], found, target, source, stale)


class _Copies:
    """How the features that are read lie in one layout: worked out once per layout."""

    def __init__(self, decoder: PlainDecoder, layout: Layout) -> None:
        self.layout, self.count = layout, len(decoder.features)
        wanted = [(i, name, decoder.view.feature(name).dtype) for i, name in enumerate(decoder.features)]
        usable = [(i, name, dtype) for i, name, dtype in wanted if _readable(layout.dtypes.get(name), dtype)]
        self.bits = np.array([layout.place[name] for _, name, _ in usable], np.int64)
        self.places = np.array([i for i, _, _ in usable], np.int64)
        self.known = {name for _, name, _ in usable}
        self.all = len(usable) == self.count
        numbers = [(i, name, dtype) for i, name, dtype in usable if dtype in NUMERIC_TYPES]
        self.blocks = [_block(layout, block, numbers) for block in layout.blocks]
        self.whole = [
            (i, _WHOLE[t]) for i, name, t in numbers if t in _WHOLE and layout.dtypes[name].startswith("float")
        ]
        self.changed = {name: dtype for _, name, dtype in numbers if layout.dtypes[name] != dtype}
        self.place_of = {name: i for i, name, _ in usable}
        self.size, self.head = layout.fixed.itemsize, np.uint64(layout.id | layout.fixed.itemsize << 32)
        self.name = self.head.tobytes()
        self.unmasked = bytes((len(layout.fields) + 7) // 8)
        simple = len(numbers) == self.count and not self.whole and not layout.loose and self.count
        self.spots = [_spot(layout, decoder.start, *b) for b in self.blocks if len(b[1])] if simple else None
        self.moves = [s.move() for s in self.spots or () if s.movable]
        self.others = [s for s in self.spots or () if not s.movable]
        self.present, self.stale = bytes([PRESENT]) * self.count, bytes([OUTSIDE_MAX_AGE]) * self.count

    def values(self, decoded: Rows) -> NDArray[np.float64]:
        """float64[n, features] of the numeric features; NaN for the others."""
        result = np.full((len(decoded.fixed), self.count), np.nan)
        for block, source, target in self.blocks:
            if len(source):
                result[:, target] = decoded.fixed[block][:, source]
        for place, (low, high) in self.whole:
            column = result[:, place]
            column[(column != np.rint(column)) | (column < low) | (column >= high)] = np.nan
        return result

    def missing(self, bits: Flags, numbers: NDArray[np.float64]) -> Flags:
        """bool[n, features]: which values are missing, or cannot be read as what the view declares now.

        Args:
            bits: Which values of the layout are missing.
            numbers: What :meth:`values` gives.
        """
        result = np.ones((len(bits), self.count), bool)
        if len(self.places):
            result[:, self.places] = bits[:, self.bits]
        for place, _ in self.whole:
            result[:, place] |= np.isnan(numbers[:, place])
        return result

    def objects(self, decoded: Rows, name: str, bits: Flags, numbers: NDArray[np.float64], absent: Flags) -> list[Any]:
        """The values of a feature as Python values; numbers that were stored as another type of number are converted."""
        if name not in self.known:
            return [None] * len(decoded.fixed)
        if name not in self.changed:
            return decoded.objects(name, bits)
        convert, place = _NUMBER[self.changed[name]], self.place_of[name]
        return [None if g else convert(v) for g, v in zip(absent[:, place], numbers[:, place].tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where the numbers of one block lie in a row, and where in the answer they go.

    Attributes:
        at: Position of the first number in the row.
        count: How many numbers the block has.
        dtype: Their type.
        source: Which of them are read.
        target: Their columns in the answer.
    """

    at: int
    count: int
    dtype: np.dtype[Any]
    source: Ints | slice
    target: Ints | slice

    @property
    def movable(self) -> bool:
        """Whether the bytes can be moved as they are."""
        return self.dtype == np.float64 and isinstance(self.source, slice) and isinstance(self.target, slice)

    def move(self) -> tuple[slice, slice]:
        """The bytes of the stored row, and those of the answer's row that they become."""
        size, first = self.count * WIDTH, self.target.start * WIDTH  # type: ignore[union-attr]
        return slice(self.at, self.at + size), slice(first, first + size)


def _spot(layout: Layout, start: int, block: str, source: Ints, target: Ints) -> _Spot:
    base, at = layout.fixed[block].base, _offset(layout.fixed, block)
    low, high = int(source.min()), int(source.max()) + 1  # numbers before and after those that are read are left alone
    at += low * base.itemsize
    return _Spot(at, high - low, base, _as_slice(source - low), _as_slice(target + start))


def _offset(fixed: np.dtype[np.void], block: str) -> int:
    return int((fixed.fields or {})[block][1])  # type: ignore[index]


def _pairs(row: Ints, keys: int) -> tuple[Ints | slice, Ints | slice]:
    """Which rows of the answer have a key, and which key each of them has. Distinct keys are numbered as they appear."""
    if len(row) == keys:
        return slice(None), slice(None)
    if len(row) and row.min() >= 0:
        return slice(None), row
    target = np.flatnonzero(row >= 0)
    return target, row[target]


def _cells(target: Ints | slice, columns: Ints | slice) -> tuple[Any, Any]:
    """An index for these rows and these columns; numpy would take two lists of positions for pairs."""
    if isinstance(target, np.ndarray) and isinstance(columns, np.ndarray):
        return target[:, None], columns
    return target, columns


def _among_present(stored: Sequence[bytes | None], row: Ints) -> Ints:
    """``row``, with the keys that have no value left out of the count."""
    present = np.array([value is not None for value in stored])
    return np.where((row >= 0) & present[row], np.cumsum(present)[row] - 1, -1)


def _bits(masks: NDArray[np.uint8]) -> Flags:
    return np.unpackbits(masks, axis=1, bitorder="little").view(bool)


def _as_slice(positions: Ints) -> Ints | slice:
    """``positions``, as a slice where they follow each other: numpy then copies nothing."""
    follow = len(positions) and (np.diff(positions) == 1).all()
    return slice(int(positions[0]), int(positions[-1]) + 1) if follow else positions


def _readable(stored: str | None, declared: str) -> bool:
    """Whether a value stored as one type can be read as another: numbers as numbers, everything else only as itself."""
    return stored == declared or (stored in NUMERIC_TYPES and declared in NUMERIC_TYPES)


def _block(layout: Layout, block: str, numbers: list[tuple[int, str, str]]) -> tuple[str, Ints, Ints]:
    mine = [(layout.blocks[block].index(name), i) for i, name, _ in numbers if block_of(layout.dtypes[name]) == block]
    return block, np.array([s for s, _ in mine], np.int64), np.array([t for _, t in mine], np.int64)


def _candidates(stored: Sequence[bytes | None]) -> tuple[list[bytes], Ints | None]:
    """All stored rows and which key each belongs to; None for the latter where every key has exactly one."""
    found = [v for v in stored if v is not None]
    single = all(int.from_bytes(v[4:8], "little") == len(v) for v in found)
    if single and len(found) == len(stored):
        return found, None
    if single:
        return found, np.array([i for i, v in enumerate(stored) if v is not None], np.int64)
    parts = [(part, i) for i, v in enumerate(stored) if v is not None for part in rows.split(v)]
    return [p for p, _ in parts], np.array([i for _, i in parts], np.int64)


def _age(row: bytes) -> tuple[int, int]:
    return int.from_bytes(row[8:16], "little", signed=True), int.from_bytes(row[16:24], "little", signed=True)


def _chosen(ages: Ints, owner: Ints | None, keys: int, row: Ints, at: Ints) -> Ints:
    """Per requested row the position of the newest candidate of its key that was known, -1 for none."""
    owner = np.arange(len(ages)) if owner is None else owner
    order = np.lexsort((ages[:, 1], ages[:, 0], owner))
    arrival = ages.max(axis=1)
    starts = np.searchsorted(owner[order], np.arange(keys + 1))
    chosen = np.full(len(row), -1, np.int64)
    first, last = starts[row], starts[row + 1] - 1
    first[row < 0], last[row < 0] = 0, -1
    while (open_ := (chosen < 0) & (last >= first)).any():
        candidate = order[np.where(open_, last, 0)]
        hit = open_ & (arrival[candidate] <= at)
        chosen[hit] = candidate[hit]
        last = last - 1
    return chosen


def _place(column: list[Any], values: list[Any], target: Ints | slice, source: Ints, stale: Flags) -> None:
    if isinstance(target, slice) and not stale.any():
        column[:] = [values[position] for position in source.tolist()]
        return
    places = range(len(column)) if isinstance(target, slice) else target.tolist()
    for place, position, old in zip(places, source.tolist(), stale.tolist(), strict=True):
        column[place] = None if old else values[position]
