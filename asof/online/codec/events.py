"""Encodes and decodes events of windowed views. The format is described in ``docs/online-layout.md``.

All events of a key that may still be in a window are in one value, sorted by event time. Each event has a 64-bit id: from its id
column, or else a hash of its whole row and of the number of equal rows before it in the batch. So an event that is delivered
twice is stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.contract import View
from asof.errors import OnlineStoreError
from asof.online.codec.layouts import Layout
from asof.online.codec.rows import fixed_values

Ints = NDArray[np.int64]
Ids = NDArray[np.uint64]

HEAD = 8
"""Bytes before the first event of a value: the latest moment at which one of its events became known."""

LIMIT = 8 * 2**20
"""Greatest size of one key's events of one view in bytes; about 250,000 events with one number each."""

COMPACT_EVERY = 64
"""A key is compacted (:mod:`asof.online.compaction`) each time its number of events passes a multiple of this."""

_ABSENT = 0xFFFFFFFF
_MINUTE, _DAY = 60_000_000, 86_400_000_000


@dataclass(frozen=True, slots=True)
class Pruning:
    """When stored events are dropped.

    Let P be the latest moment at which an event of the value became known, or the writer's clock if that is earlier, minus
    ``slack``. Events that cannot be in any window of a read at P or later are dropped, except the newest one.

    Attributes:
        horizon: Microseconds after its event time until an event is out of every window.
        slack: How far back reads stay exact.
        limit: Greatest size of a value in bytes, buckets included; a write beyond it is refused.
        compact_every: A key is compacted each time its number of events passes a multiple of this; 0 for views without a hop.
    """

    horizon: int
    slack: int
    limit: int
    compact_every: int

    @classmethod
    def of(cls, view: View) -> Pruning:
        """The rule of a windowed view: slack is an eighth of the largest window, at least a minute, at most a day."""
        return cls(
            view.horizon, min(max(view.horizon // 8, _MINUTE), _DAY), LIMIT, COMPACT_EVERY if view.hop > 1 else 0
        )


def pack(layout: Layout, columns: Mapping[str, pa.Array], ts: Ints, kt: Ints, ids: Ids, bounds: Ints) -> list[bytes]:
    """The events of each key as bytes.

    Args:
        layout: The layout of the events.
        columns: Column -> n values, numbers as ``float64``; null or NaN is missing.
        ts: Event time; ascending within a key.
        kt: Knowledge time.
        ids: Ids of the events.
        bounds: Key i has the events bounds[i]:bounds[i + 1].
    """
    fixed = np.zeros(len(ts), layout.fixed)
    fixed["ts"], fixed["kt"], fixed["id"] = ts, kt, ids
    for position, name in enumerate(layout.blocks.get("f8", ())):
        fixed["f8"][:, position] = fixed_values(columns[name], "float64")[0]
    if layout.variable_width:
        return _pack_variable_width(layout, columns, fixed, bounds)
    packed, size = fixed.tobytes(), layout.fixed.itemsize
    cuts = (bounds * size).tolist()
    return [packed[a:b] for a, b in pairwise(cuts)]


def _pack_variable_width(
    layout: Layout, columns: Mapping[str, pa.Array], fixed: NDArray[np.void], bounds: Ints
) -> list[bytes]:
    tails = [columns[name].cast(pa.binary()).to_pylist() for name in layout.variable_width]
    for position, tail in enumerate(tails):
        fixed["lengths"][:, position] = [_ABSENT if t is None else len(t) for t in tail]
    joined = [b"".join(t for t in parts if t is not None) for parts in zip(*tails, strict=True)]
    fixed["size"] = layout.fixed.itemsize + np.fromiter(map(len, joined), np.int64, len(joined))
    packed, size = fixed.tobytes(), layout.fixed.itemsize
    events = [packed[i * size : (i + 1) * size] + tail for i, tail in enumerate(joined)]
    cuts = bounds.tolist()
    return [b"".join(events[a:b]) for a, b in pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """n decoded events of several keys: ``owner`` int64[n] is the position of the key's value, the rest as in ``Events``."""

    owner: Ints
    ts: Ints
    kt: Ints
    ids: Ids
    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, layout: Layout, values: Sequence[bytes | None]) -> StoredEvents:
        """Decode the values of n keys; None where a key has none.

        Raises:
            OnlineStoreError: A value is damaged.
        """
        bodies = [b"" if v is None else v[HEAD:] for v in values]
        if layout.variable_width:
            return _decode_variable_width(layout, bodies)
        size = layout.fixed.itemsize
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        if (lengths % size).any():
            raise OnlineStoreError(f"stored events of view {layout.view!r} are damaged; materialize the view again")
        fixed = np.frombuffer(b"".join(bodies), layout.fixed)
        owner = np.repeat(np.arange(len(bodies)), lengths // size)
        columns = {name: fixed["f8"][:, i] for i, name in enumerate(layout.blocks.get("f8", ()))}
        return cls(owner, fixed["ts"], fixed["kt"], fixed["id"], columns)


def _decode_variable_width(layout: Layout, bodies: Sequence[bytes]) -> StoredEvents:
    owner, heads, tails = [], [], []
    for position, body in enumerate(bodies):
        for event in split(layout, body):
            owner.append(position)
            heads.append(event[: layout.fixed.itemsize])
            tails.append(event[layout.fixed.itemsize :])
    fixed = np.frombuffer(b"".join(heads), layout.fixed)
    columns: dict[str, NDArray[Any]] = {name: fixed["f8"][:, i] for i, name in enumerate(layout.blocks.get("f8", ()))}
    for name in layout.variable_width:
        columns[name] = np.empty(len(tails), object)
    for row, (tail, lengths) in enumerate(zip(tails, fixed["lengths"].tolist(), strict=True)):
        at = 0
        for name, length in zip(layout.variable_width, lengths, strict=True):
            if length != _ABSENT:
                part = tail[at : at + length]
                columns[name][row] = part.decode() if layout.dtypes[name] == "string" else part
                at += length
    return StoredEvents(np.array(owner, np.int64), fixed["ts"], fixed["kt"], fixed["id"], columns)


def split(layout: Layout, body: bytes) -> list[bytes]:
    """The events of one value, without its head.

    Raises:
        OnlineStoreError: The value is damaged.
    """
    found, at, least = [], 0, layout.fixed.itemsize
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "little") if layout.variable_width else least
        if size < least or at + size > len(body):
            raise OnlineStoreError(f"stored events of view {layout.view!r} are damaged; materialize the view again")
        found.append(body[at : at + size])
        at += size
    return found


def ids_of_column(column: pa.Array) -> Ids:
    """64 bits for each value of an id column: an integer's own, else the first 8 bytes of its BLAKE2b hash."""
    if pa.types.is_integer(column.type):
        return np.asarray(column.cast(pa.int64(), safe=False)).astype(np.int64).view(np.uint64)
    return np.array([_digest(v) for v in column.to_pylist()], np.uint64)


def ids_of_rows(table: pa.Table) -> Ids:
    """64 bits for each row: a hash of its names and values that are not missing, and of how often it came before.

    The order of the columns and columns that are missing in a row do not matter, so that a column added to the source
    later leaves the ids of old rows as they were.
    """
    total = np.zeros(table.num_rows, np.uint64)
    for name in sorted(table.column_names):
        total += _mixed(_column_bits(table.column(name).combine_chunks()), _digest(name))
    return _mixed(_occurrence(total), 1) ^ total


def _column_bits(column: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values, absent = fixed_values(column.cast(pa.float64(), safe=False), "float64")
        return (values + 0.0).view(np.uint64), absent
    absent = np.asarray(column.is_null())
    if pa.types.is_timestamp(kind):
        return fixed_values(column, "unixtimestamp")[0].view(np.uint64), absent
    return np.array([0 if v is None else _digest(v) for v in column.to_pylist()], np.uint64), absent


def _mixed(bits: Any, salt: int) -> Ids:
    """splitmix64 (Steele, Lea and Flood, 2014) of each number with ``salt``; 0 where the value is missing."""
    values, absent = bits if isinstance(bits, tuple) else (bits, None)
    with np.errstate(over="ignore"):
        z = values + np.uint64((salt + 0x9E3779B97F4A7C15) & (2**64 - 1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z if absent is None else np.where(absent, np.uint64(0), z)


def _occurrence(ids: Ids) -> Ids:
    """How many rows with the same id came before each row."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ids) else np.zeros(0, np.int64)
    counted = np.arange(len(ids)) - np.repeat(starts, np.diff(np.r_[starts, len(ids)]))
    result = np.empty(len(ids), np.uint64)
    result[order] = counted
    return result


def _digest(value: Any) -> int:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
