"""Decodes the stored rows of one plain view into its columns of the result.

Rows of one layout with numbers only take the fast path: a few rows one by one, many as blocks of numbers in the receive buffer.
Everything else takes the general path: several layouts, rows not known yet, values without a fixed width, converted types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof import windows
from asof.contract import NUMERIC_TYPES, View
from asof.errors import OnlineStoreError
from asof.online.codec import rows
from asof.online.codec.layouts import Layout, block_of
from asof.online.codec.rows import StoredRows
from asof.online.redis.resp_decoding import UniformReplies
from asof.online.vectors import NULL, OUTSIDE_MAX_AGE, PRESENT, Vectors, statuses

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
"""Number of rows up to which decoding them one by one is faster."""
_HEAD_BYTES = 8
"""Bytes of the layout id and the size at the start of a row."""
_TIMES = struct.Struct("<qq")
ROW_HEAD = _HEAD_BYTES + _TIMES.size
_WHOLE = {"int32": (-(2**31), 2**31), "int64": (-(2**63), 2**63)}


class RowDecoder:
    """Decodes the rows of one view, under any number of layouts.

    Args:
        view: The view.
        features: The features to read.
        start: Column of the first of them in the result.
        layouts: The layouts of its rows.
        fields: The view's field among the fetched fields of a key.
        exact: Whether int64 features are also returned as Python values.
    """

    def __init__(
        self, view: View, features: Sequence[str], start: int, layouts: Sequence[Layout], fields: slice,
        *, exact: bool = False,
    ) -> None:  # fmt: skip
        self.view, self.features, self.start = view, tuple(features), start
        wide = {"int64"} if exact else set()
        self.others = [f.name for f in map(view.feature, features) if not f.numeric or f.dtype in wide]
        self._layouts = {x.id: x for x in layouts}
        self._formats: dict[int, _RowFormat] = {}
        self._by_head: dict[bytes, _RowFormat] = {}
        self._field = fields.start
        self._columns = slice(start, start + len(features))

    def decode(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, result: Vectors
    ) -> None:
        """Fill this view's columns of ``result``.

        Args:
            fetched: Fields of each of k distinct keys.
            row: int64[n], the position of each row's key; -1 for none.
            at: int64[n], moments, microseconds UTC.
            member: This view's position among the views.
            result: The result to fill.
        """
        if not self.others and (not len(fetched) or self._decode_fast(fetched, row, at, member, result)):
            return
        stored = [fields[self._field] for fields in fetched]
        candidates, owner = _candidates(stored)
        for name in self.others:
            result.objects[self.view.alias, name] = [None] * len(at)  # type: ignore[index]
        if not candidates:
            return
        ids = [int.from_bytes(c[:4], "little") for c in candidates]
        layout = self._layout(ids[0])
        if ids.count(ids[0]) == len(ids):
            self._fill(StoredRows.of(layout, candidates), owner, row, at, member, result)
            return
        ts, kt = np.array([_TIMES.unpack_from(c, _HEAD_BYTES) for c in candidates], np.int64).T
        chosen = _newest_known(ts, kt, np.arange(len(ts)) if owner is None else owner, row, at)
        for one in dict.fromkeys(ids):
            mine = np.flatnonzero(np.array(ids) == one)
            subset = np.isin(chosen, mine) & (chosen >= 0)
            if subset.any():
                position = np.zeros(len(ids), np.int64)
                position[mine] = np.arange(len(mine))
                decoded = StoredRows.of(self._layout(one), [candidates[i] for i in mine])
                self._copy(decoded, np.flatnonzero(subset), position[chosen[subset]], at, member, result)

    def _decode_fast(
        self, fetched: Sequence[Sequence[bytes | None]], row: Ints, at: Ints, member: int, result: Vectors
    ) -> bool:
        """Decode at most one row per key, all known at the requested moments and of one simple layout; False if they are not."""
        if type(fetched) is UniformReplies:  # isinstance is slow for a subclass of an abstract class
            return self._decode_blocks(fetched, self._field, row, at, member, result)
        if len(row) <= FEW:
            for place, (key, moment) in enumerate(zip(row.tolist(), at.tolist(), strict=True)):
                value = fetched[key][self._field] if key >= 0 else None
                if value is not None and not self._decode_one(value, moment, place, member, result):
                    return False
            return True
        stored = [fields[self._field] for fields in fetched]
        present = [value for value in stored if value is not None]
        if len(present) != len(stored):
            row = _among_present(stored, row)
        size = len(present[0]) if present else 0
        joined = b"".join(present)
        if not size or len(joined) != size * len(present):
            return False
        block = UniformReplies(joined, 0, size, ((0, size),), len(present))
        return self._decode_blocks(block, 0, row, at, member, result)

    def _decode_one(self, value: bytes, moment: int, place: int, member: int, result: Vectors) -> bool:
        """Decode the row at ``place``; numpy's cost per call would double the time of a read of one key."""
        head = value[:_HEAD_BYTES]
        format_ = self._by_head.get(head) or self._format_of_head(head)
        if format_ is None or format_.size != len(value):
            return False
        ts, kt = _TIMES.unpack_from(value, _HEAD_BYTES)
        if ts > moment or kt > moment or not value.startswith(format_.unmasked, ROW_HEAD):
            return False
        result.event_times[place, member] = ts
        if self.view.ttl and moment - ts > self.view.ttl:
            result.statuses[place, self._columns] = OUTSIDE_MAX_AGE
            return True
        result.statuses[place, self._columns] = PRESENT
        for at, count, dtype, source, target in format_.copies:
            numbers = np.frombuffer(value, dtype, count, at)
            result.values[place, target] = numbers if source is None else numbers[source]
        return True

    def _decode_blocks(
        self, replies: UniformReplies, field: int, row: Ints, at: Ints, member: int, result: Vectors
    ) -> bool:
        """Copy whole blocks of numbers of many rows from the receive buffer."""
        data, stride, count = replies.data, replies.stride, replies.replies
        offset, size = replies.places[field]
        start = replies.start + offset
        format_ = self._known_format(int.from_bytes(data[start : start + 4], "little")) if size > ROW_HEAD else None
        if format_ is None or format_.block_copies is None or format_.size != size:
            return False
        if (np.ndarray(count, "<u8", data, start, stride) != format_.head).any():
            return False
        times = np.ndarray((count, 2), "<i8", data, start + 8, (stride, 8))
        masks = np.ndarray((count, len(format_.unmasked)), np.uint8, data, start + ROW_HEAD, (stride, 1))
        target, source = _pairs(row, count)
        ts, moments = times[source, 0], at[target]
        if times.max() > at.min() and (times[source].max(axis=1) > moments).any():
            return False
        first, past = self.start, self.start + len(self.features)
        for copy in format_.block_copies:
            numbers = np.ndarray((count, copy.count), copy.dtype, data, start + copy.at, (stride, copy.dtype.itemsize))
            result.values[_cells(target, copy.target)] = numbers[:, copy.source][source]
        result.statuses[target, first:past] = PRESENT
        result.event_times[target, member] = ts
        if masks.any():
            missing = np.zeros((len(at), len(self.features)), bool)
            missing[target] = _bits(masks)[source][:, format_.bits]
            result.values[:, first:past][missing] = np.nan
            result.statuses[:, first:past][missing] = NULL
        if self.view.ttl and (moments - ts > self.view.ttl).any():
            stale = np.arange(len(at))[target][moments - ts > self.view.ttl]
            result.values[stale, first:past] = np.nan
            result.statuses[stale, first:past] = OUTSIDE_MAX_AGE
        return True

    def _format_of_head(self, name: bytes) -> _RowFormat | None:
        """How to decode rows with this head; None if they hold more than plain numbers."""
        format_ = self._known_format(int.from_bytes(name[:4], "little"))
        if format_ is None or format_.block_copies is None or format_.name != name:
            return None
        self._by_head[name] = format_
        return format_

    def _known_format(self, one: int) -> _RowFormat | None:
        layout = self._layouts.get(one)
        return None if layout is None else self._format_of(layout)

    def _format_of(self, layout: Layout) -> _RowFormat:
        found = self._formats.get(layout.id)
        if found is None:
            found = self._formats[layout.id] = _RowFormat(self, layout)
        return found

    def _layout(self, one: int) -> Layout:
        try:
            return self._layouts[one]
        except KeyError:
            raise OnlineStoreError(
                f"a row of view {self.view.name!r} has the unknown layout {one:08x}; materialize it again"
            ) from None

    def _fill(self, decoded: StoredRows, owner: Ints | None, row: Ints, at: Ints, member: int, result: Vectors) -> None:
        if owner is None:
            arrival = np.maximum(decoded.fixed["ts"], decoded.fixed["kt"])
            if (row >= 0).all() and (arrival[row] <= at).all():
                self._copy(decoded, slice(None), row, at, member, result)
                return
            owner = np.arange(len(arrival))
        chosen = _newest_known(decoded.fixed["ts"], decoded.fixed["kt"], owner, row, at)
        target = np.flatnonzero(chosen >= 0)
        self._copy(decoded, target, chosen[target], at, member, result)

    def _copy(
        self, decoded: StoredRows, target: Ints | slice, source: Ints, at: Ints, member: int, result: Vectors
    ) -> None:
        """Copy the decoded rows ``source`` to the rows ``target`` of the result."""
        layout = decoded.layout
        format_ = self._format_of(layout)
        ts = decoded.fixed["ts"][source]
        result.event_times[target, member] = ts
        stale = (at[target] - ts > self.view.ttl) if self.view.ttl else np.zeros(len(ts), bool)
        bits, numbers = decoded.missing(), format_.values(decoded)
        absent = format_.missing(bits, numbers)
        values, missing = numbers[source], absent[source]
        first, past = self.start, self.start + len(self.features)
        values[missing | stale[:, None]] = np.nan
        result.values[target, first:past] = values
        result.statuses[target, first:past] = statuses(np.ones(len(ts), bool), stale, missing)
        for name in self.others:
            found = format_.objects(decoded, name, bits, numbers, absent)
            _place(result.objects[self.view.alias, name], found, target, source, stale)


class _RowFormat:
    """Where the features to read lie in the rows of one layout; computed once per layout."""

    def __init__(self, decoder: RowDecoder, layout: Layout) -> None:
        self.layout, self.count = layout, len(decoder.features)
        wanted = [(i, name, decoder.view.feature(name).dtype) for i, name in enumerate(decoder.features)]
        usable = [(i, name, dtype) for i, name, dtype in wanted if _readable(layout.dtypes.get(name), dtype)]
        self.bits = np.array([layout.place[name] for _, name, _ in usable], np.int64)
        self.places = np.array([i for i, _, _ in usable], np.int64)
        self.known = {name for _, name, _ in usable}
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
        simple = len(numbers) == self.count and not self.whole and not layout.variable_width and self.count
        self.block_copies = (
            [_block_copy(layout, decoder.start, *b) for b in self.blocks if len(b[1])] if simple else None
        )
        self.copies = [c.arguments() for c in self.block_copies or ()]

    def values(self, decoded: StoredRows) -> NDArray[np.float64]:
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
        """bool[n, features]: which values are missing, or cannot be converted to the declared type.

        Args:
            bits: Which values of the layout are missing.
            numbers: The result of :meth:`values`.
        """
        result = np.ones((len(bits), self.count), bool)
        if len(self.places):
            result[:, self.places] = bits[:, self.bits]
        for place, _ in self.whole:
            result[:, place] |= np.isnan(numbers[:, place])
        return result

    def objects(
        self, decoded: StoredRows, name: str, bits: Flags, numbers: NDArray[np.float64], absent: Flags
    ) -> list[Any]:
        """The values of a feature as Python values; numbers that were stored as another type of number are converted."""
        if name not in self.known:
            return [None] * len(decoded.fixed)
        if name not in self.changed:
            return decoded.objects(name, bits)
        convert, place = _NUMBER[self.changed[name]], self.place_of[name]
        return [None if g else convert(v) for g, v in zip(absent[:, place], numbers[:, place].tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class _BlockCopy:
    """Where the numbers of one block lie in a row, and their columns in the result.

    Attributes:
        at: Position of the first number in the row.
        count: How many numbers the block has.
        dtype: Their type.
        source: Positions of the numbers to read.
        target: Their columns in the result.
    """

    at: int
    count: int
    dtype: np.dtype[Any]
    source: Ints | slice
    target: Ints | slice

    def arguments(self) -> tuple[int, int, np.dtype[Any], Ints | slice | None, Ints | slice]:
        """The attributes as a tuple; ``source`` is None for all numbers."""
        whole = isinstance(self.source, slice) and self.source == slice(0, self.count)
        return self.at, self.count, self.dtype, None if whole else self.source, self.target


def _block_copy(layout: Layout, start: int, block: str, source: Ints, target: Ints) -> _BlockCopy:
    base, at = layout.fixed[block].base, _offset(layout.fixed, block)
    low, high = int(source.min()), int(source.max()) + 1  # numbers outside this range are not read
    at += low * base.itemsize
    return _BlockCopy(at, high - low, base, _as_slice(source - low), _as_slice(target + start))


def _offset(fixed: np.dtype[np.void], block: str) -> int:
    return int((fixed.fields or {})[block][1])  # type: ignore[index]


def _pairs(row: Ints, keys: int) -> tuple[Ints | slice, Ints | slice]:
    """The rows of the result that have a key, and the key of each. Distinct keys are numbered as they appear."""
    if len(row) == keys:
        return slice(None), slice(None)
    if len(row) and row.min() >= 0:
        return slice(None), row
    target = np.flatnonzero(row >= 0)
    return target, row[target]


def _cells(target: Ints | slice, columns: Ints | slice) -> tuple[Any, Any]:
    """An index for these rows and these columns; numpy would pair two lists of positions."""
    if isinstance(target, np.ndarray) and isinstance(columns, np.ndarray):
        return target[:, None], columns
    return target, columns


def _among_present(stored: Sequence[bytes | None], row: Ints) -> Ints:
    """``row`` as positions among the keys that have a value."""
    present = np.array([value is not None for value in stored])
    return np.where((row >= 0) & present[row], np.cumsum(present)[row] - 1, -1)


def _bits(masks: NDArray[np.uint8]) -> Flags:
    return np.unpackbits(masks, axis=1, bitorder="little").view(bool)


def _as_slice(positions: Ints) -> Ints | slice:
    """``positions``, as a slice if they are consecutive: numpy then copies nothing."""
    follow = len(positions) and (np.diff(positions) == 1).all()
    return slice(int(positions[0]), int(positions[-1]) + 1) if follow else positions


def _readable(stored: str | None, declared: str) -> bool:
    """Whether a stored type can be read as the declared one: any number as any number, other types only as themselves."""
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


def _newest_known(ts: Ints, kt: Ints, owner: Ints, row: Ints, at: Ints) -> Ints:
    """Per requested row the position of its key's newest row that was known, -1 for none."""
    ts, kt = np.ascontiguousarray(ts), np.ascontiguousarray(kt)
    return windows.newest(windows.Events(owner, ts, np.maximum(ts, kt), kt, {}), windows.Questions(row, at))


def _place(column: list[Any], values: list[Any], target: Ints | slice, source: Ints, stale: Flags) -> None:
    if isinstance(target, slice) and not stale.any():
        column[:] = [values[position] for position in source.tolist()]
        return
    places = range(len(column)) if isinstance(target, slice) else target.tolist()
    for place, position, old in zip(places, source.tolist(), stale.tolist(), strict=True):
        column[place] = None if old else values[position]
