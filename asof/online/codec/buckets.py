"""Encodes and decodes buckets of windowed views. The format is described in ``docs/online-layout.md``.

If a view declares a hop, only whole buckets of events count. A bucket holds the partial aggregates of its events
(:class:`asof.windows.partial_aggregates.PartialColumn`), and their ids, so that each event still counts once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.errors import OnlineStoreError
from asof.online.codec.layouts import Layout
from asof.windows.partial_aggregates import PartialColumn

Ints = NDArray[np.int64]
Ids = NDArray[np.uint64]

HEADER = struct.Struct("<qII")
"""Before the first bucket: event time of the newest event that was ever merged, number of buckets, bytes before the ids."""

FLOATS = ("total", "above", "spread", "low", "high", "last")
"""The partial aggregates of a column of numbers."""

NEVER = -(2**63)
"""Stands for an event time if no event was ever merged."""


@dataclass(frozen=True, slots=True)
class StoredBuckets:
    """b decoded buckets of n keys.

    Attributes:
        owner: Position of each bucket's key, int64[b].
        start: Where each bucket starts, int64[b], microseconds UTC.
        ids: The ids of each bucket's events, one bucket after another.
        newest: Event time of the newest event that was merged, int64[n]; :data:`NEVER` where none was.
        columns: Column -> its partial aggregates; the column with an empty name counts events.
    """

    owner: Ints
    start: Ints
    ids: Ids
    newest: Ints
    columns: Mapping[str, PartialColumn]


@cache
def record(layout: Layout) -> np.dtype[np.void]:
    """The numpy type of the part of a bucket that has a fixed width."""
    numbers, texts = len(layout.blocks.get("f8", ())), len(layout.variable_width)
    head = [("start", "<i8"), ("events", "<u4")]
    moments = [("count", "<u4"), ("ts", "<i8"), ("kt", "<i8")]
    both = [(name, kind, (numbers + texts,)) for name, kind in moments] if layout.fields else []
    floats = [(name, "<f8", (numbers,)) for name in FLOATS] if numbers else []
    sizes = [("sizes", "<u4", (texts, 3))] if texts else []
    different = [("distinct", "<u4", (len(layout.distinct),))] if layout.distinct else []
    return np.dtype([*head, *both, *floats, *sizes, *different])


def pack(layout: Layout, stored: StoredBuckets) -> list[bytes]:
    """The value of each of n keys; buckets by (owner, start)."""
    counts = stored.columns[""].count
    fixed = np.zeros(len(counts), record(layout))
    fixed["start"], fixed["events"] = stored.start, counts
    for position, name in enumerate(_names(layout)):
        column = stored.columns[name]
        for part in ("count", "ts", "kt"):
            fixed[part][:, position] = getattr(column, part)
    for position, name in enumerate(layout.blocks.get("f8", ())):
        for part in FLOATS:
            fixed[part][:, position] = getattr(stored.columns[name], part)
    texts = [_texts(stored.columns[name], fixed["sizes"][:, i]) for i, name in enumerate(layout.variable_width)]
    for position, name in enumerate(layout.distinct):
        fixed["distinct"][:, position] = np.bincount(stored.columns[name].owner, minlength=len(counts))
    ids = np.concatenate([[0], np.cumsum(counts)])
    bounds = np.searchsorted(stored.owner, np.arange(len(stored.newest) + 1)).tolist()
    packed = []
    for newest, (a, b) in zip(stored.newest.tolist(), pairwise(bounds), strict=True):
        body = fixed[a:b].tobytes() + b"".join(t for text in texts for t in text[a:b])
        body += b"".join(_tail(layout, name, stored.columns[name], slice(a, b)) for name in layout.distinct)
        head = HEADER.pack(newest, b - a, HEADER.size + len(body))
        packed.append(head + body + stored.ids[ids[a] : ids[b]].tobytes())
    return packed


def unpack(layout: Layout, values: Sequence[bytes | None]) -> StoredBuckets:
    """Decode the values of n keys; None where a key has none.

    Raises:
        OnlineStoreError: A value is damaged.
    """
    heads = [(NEVER, 0, HEADER.size) if v is None else _head(layout, v) for v in values]
    size = record(layout).itemsize
    bodies = [v[HEADER.size : HEADER.size + h[1] * size] if v else b"" for v, h in zip(values, heads, strict=True)]
    fixed = np.frombuffer(b"".join(bodies), record(layout))
    tails = [v[HEADER.size + h[1] * size : h[2]] if v else b"" for v, h in zip(values, heads, strict=True)]
    held = np.array([h[1] for h in heads], np.int64)
    ids = np.frombuffer(b"".join(v[h[2] :] for v, h in zip(values, heads, strict=True) if v), "<u8")
    columns = {
        "": PartialColumn.counting(fixed["events"].astype(np.int64)),
        **_columns(layout, fixed, _Tails(held, tails)),
    }
    newest = np.array([h[0] for h in heads], np.int64)
    return StoredBuckets(np.repeat(np.arange(len(held)), held), fixed["start"], ids, newest, columns)


def _head(layout: Layout, value: bytes) -> tuple[int, int, int]:
    if len(value) >= HEADER.size:
        newest, buckets, ids = HEADER.unpack_from(value)
        if HEADER.size + buckets * record(layout).itemsize <= ids <= len(value) and (len(value) - ids) % 8 == 0:
            return newest, buckets, ids
    raise OnlineStoreError(f"stored buckets of view {layout.view!r} are damaged; materialize the view again")


def _names(layout: Layout) -> tuple[str, ...]:
    return (*layout.blocks.get("f8", ()), *layout.variable_width)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _texts(column: PartialColumn, sizes: NDArray[Any]) -> list[bytes]:
    """Least, greatest and last text of each bucket, one after another; their lengths go into ``sizes``, [b, 3]."""
    found = []
    for row, count in enumerate(column.count.tolist()):
        parts = [_bytes(v[row]) if count else b"" for v in (column.low, column.high, column.last)]
        sizes[row] = [len(p) for p in parts]
        found.append(b"".join(parts))
    return found


def _tail(layout: Layout, name: str, column: PartialColumn, buckets: slice) -> bytes:
    """The distinct values of some buckets in one column; texts with all their lengths first."""
    first, end = np.searchsorted(column.owner, [buckets.start, buckets.stop])
    some = column.distinct[first:end]
    if layout.dtypes[name] == "float64":
        return some.astype("<f8").tobytes()
    texts = [_bytes(v) for v in some]
    return np.array([len(t) for t in texts], "<u4").tobytes() + b"".join(texts)


class _Tails:
    """Reads the bytes after the fixed parts of each key's buckets, from front to back."""

    def __init__(self, held: Ints, tails: Sequence[bytes]) -> None:
        self._tails, self._at = tails, [0] * len(tails)
        self.owned = list(enumerate(pairwise(np.concatenate([[0], np.cumsum(held)]).tolist())))

    def take(self, key: int, size: int) -> bytes:
        """The next bytes of a key."""
        self._at[key] += size
        return self._tails[key][self._at[key] - size : self._at[key]]

    def extremes(self, sizes: Ints, *, text: bool) -> list[NDArray[Any]]:
        """Least, greatest and last of one column, [b] each; their lengths are ``sizes``, [b, 3]."""
        found = np.empty((3, len(sizes)), object)
        for key, (a, b) in self.owned:
            for row, lengths in enumerate(sizes[a:b].tolist(), a):
                for which, size in enumerate(lengths):
                    found[which, row] = _value(self.take(key, size), text=text)
        return list(found)

    def numbers(self, counts: Ints) -> NDArray[Any]:
        """The distinct numbers of one column; each bucket has ``counts`` of them."""
        parts = [self.take(key, 8 * int(counts[a:b].sum())) for key, (a, b) in self.owned]
        return np.frombuffer(b"".join(parts), "<f8")

    def texts(self, counts: Ints, *, text: bool) -> NDArray[Any]:
        """As :meth:`numbers` for text and bytes."""
        found: list[Any] = []
        for key, (a, b) in self.owned:
            sizes = np.frombuffer(self.take(key, 4 * int(counts[a:b].sum())), "<u4").tolist()
            found += [_value(self.take(key, size), text=text) for size in sizes]
        result = np.empty(len(found), object)
        result[:] = found
        return result


def _value(part: bytes, *, text: bool) -> str | bytes:
    return part.decode() if text else part


def _columns(layout: Layout, fixed: NDArray[np.void], tails: _Tails) -> dict[str, PartialColumn]:
    parts: dict[str, list[NDArray[Any]]] = {}
    for position, name in enumerate(layout.blocks.get("f8", ())):
        parts[name] = [fixed[part][:, position] for part in FLOATS]
    for position, name in enumerate(layout.variable_width):
        nothing = np.zeros(len(fixed))
        extremes = tails.extremes(fixed["sizes"][:, position], text=layout.dtypes[name] == "string")
        parts[name] = [nothing, nothing, nothing, *extremes]
    found = {}
    for position, name in enumerate(_names(layout)):
        count, ts, kt = (fixed[part][:, position] for part in ("count", "ts", "kt"))
        kept = name in layout.distinct
        owner, values = _distinct(layout, name, fixed, tails) if kept else (np.zeros(0, np.int64), parts[name][3][:0])
        whole = np.full(len(fixed), kept)
        total, above, spread, low, high, last = parts[name]
        found[name] = PartialColumn(
            count.astype(np.int64), total, above, spread, low, high, last, ts, kt, owner, values, whole
        )
    return found


def _distinct(layout: Layout, name: str, fixed: NDArray[np.void], tails: _Tails) -> tuple[Ints, NDArray[Any]]:
    counts = fixed["distinct"][:, layout.distinct.index(name)].astype(np.int64)
    owner = np.repeat(np.arange(len(fixed)), counts)
    dtype = layout.dtypes[name]
    return owner, tails.numbers(counts) if dtype == "float64" else tails.texts(counts, text=dtype == "string")
