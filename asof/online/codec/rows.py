"""Encodes and decodes rows of plain views. The format is described in ``docs/online-layout.md``.

A stored value is usually one row. While rows are not known yet, it holds the newest known row followed by those. Packing works on whole columns; no Python object per value for types of fixed width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof.errors import OnlineStoreError
from asof.instants import from_micros
from asof.online.codec import variable_width
from asof.online.codec.layouts import Layout, block_of
from asof.online.redis.resp_encoding import END, BulkStrings

Ints = NDArray[np.int64]

_CONVERT: dict[str, Callable[[Any], Any]] = {"unixtimestamp": from_micros, "bool": bool}

ENCODED = pa.large_binary()
"""Arrow type of a column of encoded values, for types that Arrow lacks."""


def pack(layout: Layout, columns: Mapping[str, pa.Array], ts: Ints, kt: Ints) -> BulkStrings:
    """N rows as bytes.

    Args:
        layout: The layout of the rows.
        columns: Column -> n values of the Arrow type that belongs to its type; null or NaN is missing.
        ts: Event time, microseconds UTC.
        kt: Knowledge time, microseconds UTC.
    """
    whole, fixed = _framed(layout.fixed, len(ts))
    missing = np.zeros((len(ts), len(layout.fields)), bool)
    fixed["layout"], fixed["ts"], fixed["kt"] = layout.id, ts, kt
    for block, names in layout.blocks.items():
        for position, name in enumerate(names):
            values, absent = fixed_values(columns[name], layout.dtypes[name])
            fixed[block][:, position] = values
            missing[:, layout.place[name]] = absent
    tails = [_tail(layout.dtypes[name], columns[name]) for name in layout.variable_width]
    sizes = np.full(len(ts), layout.fixed.itemsize, np.int64)
    for position, (name, tail) in enumerate(zip(layout.variable_width, tails, strict=True)):
        missing[:, layout.place[name]] = np.asarray(tail.is_null())
        lengths = np.asarray(pc.fill_null(pc.binary_length(tail), 0)).astype(np.int64)
        fixed["lengths"][:, position] = lengths
        sizes += lengths
    fixed["size"] = sizes
    if layout.fields:
        fixed["mask"] = np.packbits(missing, axis=1, bitorder="little")
    if tails:
        return _joined(fixed, tails)
    return BulkStrings(whole.view(np.uint8), np.arange(len(ts) + 1, dtype=np.int64) * whole.dtype.itemsize)


def fixed_values(column: pa.Array, dtype: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """N values of a fixed-width type as numpy, and which are missing; a missing float is NaN, others are 0."""
    absent = np.asarray(column.is_null())
    if dtype == "bool":
        return np.asarray(pc.fill_null(column, False).cast(pa.uint8())), absent
    if dtype == "unixtimestamp":
        return np.asarray(pc.fill_null(column.cast(pa.timestamp("us")).cast(pa.int64()), 0)), absent
    if dtype.startswith("float"):
        values = np.asarray(pc.fill_null(column, np.nan))
        return values, np.isnan(values)
    return np.asarray(pc.fill_null(column, 0)), absent


def _tail(dtype: str, column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type) and dtype in variable_width.TEXT_TYPES:
        return column.cast(pa.binary())
    if pa.types.is_binary(column.type) and dtype in variable_width.BYTES_TYPES:
        return column
    if column.type == ENCODED:
        return column.cast(pa.binary())
    listed = column.to_pylist()
    return pa.array(
        [None if v is None else variable_width.encode(dtype, variable_width.from_arrow(dtype, v)) for v in listed],
        pa.binary(),
    )


def _framed(fixed: np.dtype[np.void], count: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """A buffer for rows of a fixed size, framed for sending, and the view of it that holds the rows."""
    before = b"$%d\r\n" % fixed.itemsize
    whole = np.zeros(count, [("before", f"S{len(before)}"), ("row", fixed), ("after", "S2")])
    whole["before"], whole["after"] = before, END
    return whole, whole["row"]


def _joined(fixed: NDArray[np.void], tails: list[pa.Array]) -> BulkStrings:
    size = fixed.dtype.itemsize
    heads = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(fixed), [None, pa.py_buffer(fixed.tobytes())])
    return BulkStrings.of_arrow(
        pc.binary_join_element_wise(heads.cast(pa.binary()), *tails, b"", null_handling="replace", null_replacement=b"")
    )


@dataclass(frozen=True, slots=True)
class StoredRows:
    """n decoded rows of one layout.

    Attributes:
        layout: Their layout.
        fixed: The fixed-width parts.
        stored: The whole rows; needed only where the layout has columns without a fixed width.
    """

    layout: Layout
    fixed: NDArray[np.void]
    stored: Sequence[bytes]

    @classmethod
    def of(cls, layout: Layout, stored: Sequence[bytes]) -> StoredRows:
        """Decode rows that were all written under ``layout``.

        Raises:
            OnlineStoreError: A row is shorter than its layout says.
        """
        size = layout.fixed.itemsize
        joined = b"".join([row[:size] for row in stored]) if layout.variable_width else b"".join(stored)
        if len(joined) != size * len(stored):
            raise OnlineStoreError(f"a stored row of view {layout.view!r} is damaged; materialize the view again")
        return cls(layout, np.frombuffer(joined, layout.fixed), stored)

    def missing(self) -> NDArray[np.bool_]:
        """bool[n, columns]: which values are missing, in the order of the layout."""
        if not self.layout.fields:
            return np.zeros((len(self.fixed), 0), bool)
        bits = np.unpackbits(self.fixed["mask"], axis=1, bitorder="little", count=len(self.layout.fields))
        return bits.view(bool)

    def fixed_column(self, name: str) -> NDArray[Any]:
        """The n values of a fixed-width column; the content of a missing one is undefined."""
        block = block_of(self.layout.dtypes[name]) or ""
        column: NDArray[Any] = self.fixed[block][:, self.layout.blocks[block].index(name)]
        return column

    def objects(self, name: str, missing: NDArray[np.bool_] | None = None) -> list[Any]:
        """The n values of any column as Python values, None for missing; moments as aware ``datetime``.

        Args:
            name: The column.
            missing: The result of :meth:`missing`, if already computed.
        """
        dtype = self.layout.dtypes[name]
        absent = (self.missing() if missing is None else missing)[:, self.layout.place[name]]
        if block_of(dtype) is None:
            return [
                None if gone else variable_width.decode(dtype, part)
                for gone, part in zip(absent, self._parts(name), strict=True)
            ]
        convert = _CONVERT.get(dtype)
        values = self.fixed_column(name).tolist()
        if convert is None and not absent.any():
            return cast("list[Any]", values)
        return [None if gone else convert(v) if convert else v for gone, v in zip(absent, values, strict=True)]

    def _parts(self, name: str) -> list[bytes]:
        position = self.layout.variable_width.index(name)
        ends = self.layout.fixed.itemsize + np.cumsum(self.fixed["lengths"].astype(np.int64), axis=1)
        ending = ends[:, position]
        beginning = ending - self.fixed["lengths"][:, position]
        return [row[a:b] for row, a, b in zip(self.stored, beginning.tolist(), ending.tolist(), strict=True)]


def split(value: bytes) -> list[bytes]:
    """The rows of one stored value.

    Raises:
        OnlineStoreError: The value is damaged.
    """
    size = int.from_bytes(value[4:8], "little")
    if size == len(value):
        return [value]
    found, at = [], 0
    while at < len(value):
        size = int.from_bytes(value[at + 4 : at + 8], "little")
        if size < 24 or at + size > len(value):
            raise OnlineStoreError("a stored row is damaged; materialize its view again")
        found.append(value[at : at + size])
        at += size
    return found
