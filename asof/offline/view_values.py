"""The values of one view at the moments of entity rows: of a plain view the newest known row, of a windowed one aggregations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.arrow_columns import conform, event_values, joined
from asof.offline.source_rows import EntityRows, KeyPartition, SourceRows, read_source
from asof.windows import aggregate, newest
from asof.windows.sorting import empty_array, numbered

if TYPE_CHECKING:
    from asof.contract import View
    from asof.offline.duckdb_engine import Engine
    from asof.offline.sources import SourceFiles

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_THREADS = 2
"""Threads that build the columns of one view; more of them only wait for memory."""
_WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
"""Values of these widths, in bits, are copied as unsigned integers, whatever their type."""


def view_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    *,
    knowledge: bool,
    partition: KeyPartition | None = None,
) -> dict[str, pa.Array]:
    """The ``features`` of ``view``: one value per entity row, in their order and in the declared types.

    Raises:
        SchemaError: The entity rows do not have the view's keys.
        SourceError: The source cannot be read, or holds a value that does not fit its declaration.
    """
    values = _windowed_values if view.windowed else _plain_values
    return values(view, features, files, entity_rows, engine, knowledge, partition)


def _plain_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    knowledge: bool,
    partition: KeyPartition | None,
) -> dict[str, pa.Array]:
    columns = {name: view.source.column(name) for name in features}
    rows = read_source(
        view, files, list(columns.values()), entity_rows, engine, knowledge=knowledge, partition=partition
    )
    take, stored = Take(_positions(view, rows)), rows.columns
    del rows

    def value(name: str) -> pa.Array:
        return conform(taken[columns[name]], view.feature(name).dtype, f"feature {view.name}:{name}")

    taken: dict[str, pa.Array] = {}
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for block in stored.blocks(list(dict.fromkeys(columns.values()))):
            taken |= dict(zip(block.column_names, pool.map(take.values, block.columns), strict=True))
            del block
        return dict(zip(columns, pool.map(value, columns), strict=True))


def _positions(view: View, rows: SourceRows) -> Ints:
    """Positions in the source of the rows that the entity rows get their values from; -1 for missing."""
    found, kept = newest(rows.events, rows.questions), rows.columns.kept
    missing = (found < 0) | expired(view, rows, found)
    return np.where(missing, -1, found if kept is None or not len(kept) else kept[found])


def _windowed_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    knowledge: bool,
    partition: KeyPartition | None,
) -> dict[str, pa.Array]:
    chosen = [a for a in view.aggregations if a.name in set(features)]
    columns = {a.column: view.source.column(a.column) for a in chosen if a.column}
    rows = read_source(
        view, files, list(columns.values()), entity_rows, engine, knowledge=knowledge, partition=partition
    )
    events = replace(
        rows.events, columns={name: event_values(rows.columns[column]) for name, column in columns.items()}
    )
    values = aggregate(events, rows.questions, chosen, view.hop)
    withheld = expired(view, rows, newest(events, rows.questions)) if view.ttl else None
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        typed = pool.map(lambda name: _typed(view, name, values.pop(name), withheld), features)
        return dict(zip(features, typed, strict=True))


def expired(view: View, rows: SourceRows, found: Ints) -> Flags:
    """Whether the newest known row (``found``, positions) is older than the view's ttl; a row exactly as old as the ttl is fresh."""
    if not view.ttl or not len(rows.events.ts):
        return np.zeros(len(found), dtype=bool)
    return (found >= 0) & (rows.questions.t - rows.events.ts[found] > view.ttl)


def _typed(view: View, name: str, values: NDArray[Any], withheld: Flags | None) -> pa.Array:
    dtype = view.feature(name).dtype
    if values.dtype != np.float64:
        array = pa.array(values, mask=withheld)
    else:
        missing = np.isnan(values) if withheld is None else np.isnan(values) | withheld
        array = pa.array(values, mask=missing if missing.any() else None)
    if dtype == "unixtimestamp":
        array = array.cast(pa.int64())
    return conform(array, dtype, f"feature {view.name}:{name}")


@dataclass(frozen=True)
class Take:
    """Takes the values at ``positions`` (int64[n], -1 for missing) from columns, like Arrow's ``take``; the order of the positions is computed once."""

    positions: Ints

    def values(self, column: pa.ChunkedArray) -> pa.Array:
        """The values of ``column`` at the positions, of its type."""
        words = _WORDS.get(_width(column.type))
        if words is None or not len(column):
            return joined(column).take(_nullable_array(pa.int64(), self.positions, self._missing))
        values = self._words([_view(chunk, words) for chunk in column.chunks])
        if not column.null_count:
            return pa.Array.from_buffers(column.type, len(values), [self._valid, pa.py_buffer(values)])
        null = self._words([np.asarray(chunk.is_null()) for chunk in column.chunks])
        return _nullable_array(column.type, values, null | self._missing)

    @cached_property
    def _missing(self) -> Flags:
        return self.positions < 0

    @cached_property
    def _valid(self) -> pa.Buffer | None:
        return _bitmap(self._missing)

    @cached_property
    def _ascending(self) -> tuple[Ints, Ints]:
        """The positions in ascending order, and the place in the result of each."""
        bits = len(self.positions).bit_length()
        packed = numbered(self.positions, bits)
        packed.sort()
        return packed >> bits, packed & ((1 << bits) - 1)

    def _words(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The values at the positions of the concatenated ``parts``; 0 for no value."""
        found = empty_array(len(self.positions), parts[0].dtype)
        if len(parts) == 1:
            parts[0].take(self.positions, out=found, mode="clip")
            return found
        found.fill(0)
        for part, positions, places in self._by_part([len(p) for p in parts]):
            found[places] = parts[part][positions]
        return found

    def _by_part(self, lengths: Sequence[int]) -> Iterator[tuple[int, Ints, Ints]]:
        """For each part, the positions in it and the places of their values in the result. Reads each part in order, and copies none."""
        ascending, places = self._ascending
        ends = np.cumsum(lengths)
        bounds = ascending.searchsorted(np.concatenate([[0], ends]))
        for part, (a, b) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            yield part, ascending[a:b] - (ends[part] - lengths[part]), places[a:b]


def _width(stored: pa.DataType) -> int:
    return stored.bit_width if pa.types.is_primitive(stored) else 0


def _view(chunk: pa.Array, words: Any) -> NDArray[Any]:
    return np.frombuffer(chunk.buffers()[1], dtype=words)[chunk.offset : chunk.offset + len(chunk)]


def _nullable_array(stored: pa.DataType, values: NDArray[Any], missing: Flags) -> pa.Array:
    return pa.Array.from_buffers(stored, len(values), [_bitmap(missing), pa.py_buffer(values)])


def _bitmap(missing: Flags) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None


SEAMS = {
    "newest": "the newest known row",
    "expired": "when a ttl has passed",
    "event_values": "which values are missing",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
