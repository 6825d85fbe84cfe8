"""Takes the values of chosen rows from columns, like Arrow's ``take``; the order of the positions is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.arrow_columns import joined
from asof.windows.sorting import numbered

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
"""Values of these widths, in bits, are copied as unsigned integers, whatever their type."""


@dataclass(frozen=True)
class Take:
    """Rows to take values from: their positions, int64[n], -1 for no value."""

    positions: Ints

    def values(self, column: pa.ChunkedArray) -> pa.Array:
        """The values of ``column`` at the positions, of its type."""
        words = _WORDS.get(_width(column.type))
        if words is None or not len(column):
            return joined(column).take(_array(pa.int64(), self.positions, self._missing))
        values = self._words([_view(chunk, words) for chunk in column.chunks])
        if not column.null_count:
            return pa.Array.from_buffers(column.type, len(values), [self._valid, pa.py_buffer(values)])
        null = self._words([np.asarray(chunk.is_null()) for chunk in column.chunks])
        return _array(column.type, values, null | self._missing)

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
        found = np.zeros(len(self.positions), dtype=parts[0].dtype)
        if len(parts) == 1:
            parts[0].take(self.positions, out=found, mode="clip")
            return found
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


def _array(stored: pa.DataType, values: NDArray[Any], missing: Flags) -> pa.Array:
    return pa.Array.from_buffers(stored, len(values), [_bitmap(missing), pa.py_buffer(values)])


def _bitmap(missing: Flags) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
