"""Encodes keys as dense integers that the rows of a source and the entity rows share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof.errors import SchemaError
from asof.offline.arrow_columns import joined, plain_type

Ints = NDArray[np.int64]

_SPARSE = 8
"""Integer keys are their own codes while their range is at most this many times the number of rows."""


def codes(
    stored: Sequence[pa.ChunkedArray], asked: Sequence[pa.ChunkedArray], rows: tuple[int, int]
) -> tuple[Ints, Ints]:
    """An integer code for each distinct key.

    Args:
        stored: The key columns of the source, in the order of the join keys.
        asked: The key columns of the entity rows, of the same types.
        rows: Number of rows of the source and of the entity rows (a view without entities has no key column to count).

    Returns:
        Codes of the source's rows and of the entity rows, int64; -1 where a key is null, and for entity rows where it does not
        occur in the source.
    """
    left, right = np.zeros(rows[0], dtype=np.int64), np.zeros(rows[1], dtype=np.int64)
    for ours, theirs in zip(stored, asked, strict=True):
        (one, other), size = _column_codes(ours, theirs)
        if len(stored) > 1:
            left, right = _combined(left, one, size), _combined(right, other, size)
            (left, right), _ = _hashed(_nullable(left), _nullable(right))
        else:
            left, right = one, other
    return left, right


def cast_like(asked: pa.ChunkedArray, stored: pa.DataType, name: str) -> pa.ChunkedArray:
    """A key column cast to the type of the source, with NaN as null. Floats are accepted: pandas makes them of integers with gaps.

    Raises:
        SchemaError: The types cannot be compared.
    """
    if pa.types.is_dictionary(asked.type):
        asked = asked.cast(plain_type(asked.type))
    if pa.types.is_floating(asked.type):
        asked = pc.if_else(pc.is_nan(asked), pa.scalar(None, asked.type), asked)
    if asked.type == stored:
        return asked
    numbers = pa.types.is_integer(stored)
    if numbers and not (_is_whole(asked.type) or pa.types.is_floating(asked.type) or pa.types.is_null(asked.type)):
        raise SchemaError(f"entity column {name!r} has type {asked.type}, expected {stored} as in the source")
    if (
        pa.types.is_integer(asked.type)
        and not numbers
        and not pa.types.is_floating(stored)
        and not pa.types.is_decimal(stored)
    ):
        raise SchemaError(f"entity column {name!r} has type {asked.type}, expected {stored} as in the source")
    try:
        return asked.cast(stored)
    except pa.ArrowInvalid:
        return _out_of_range(asked, stored, name)
    except pa.ArrowNotImplementedError:
        raise SchemaError(f"entity column {name!r} has type {asked.type}, expected {stored} as in the source") from None


def _is_whole(kind: pa.DataType) -> bool:
    """Whether the type holds whole numbers only, decimals of scale 0 included."""
    return bool(pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0))


def _out_of_range(asked: pa.ChunkedArray, stored: pa.DataType, name: str) -> pa.ChunkedArray:
    """The column cast to a narrower type. A number that does not fit cannot be a key of the source, so it becomes null."""
    if not (_is_whole(asked.type) and pa.types.is_integer(stored)):
        raise SchemaError(
            f"entity column {name!r} has {asked.type} values that are no {stored}, expected keys as in the source"
        )
    # As decimals, because no integer type has the bounds of all others.
    low, high = (pa.scalar(bound, pa.decimal128(38, 0)) for bound in _bounds(stored))
    numbers = asked.cast(pa.decimal128(38, 0))
    inside = pc.and_(pc.greater_equal(numbers, low), pc.less_equal(numbers, high))
    return pc.if_else(inside, asked, pa.scalar(None, asked.type)).cast(stored)


def _bounds(stored: pa.DataType) -> tuple[int, int]:
    info = np.iinfo(stored.to_pandas_dtype())
    return int(info.min), int(info.max)


def _column_codes(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> tuple[tuple[Ints, Ints], int]:
    if pa.types.is_integer(ours.type) and ours.type != pa.uint64() and len(ours) > ours.null_count:
        bounds, most = pc.min_max(ours).as_py(), _SPARSE * (len(ours) + len(theirs))
        low = 0 if bounds["min"] >= 0 and bounds["max"] < most else bounds["min"]
        size = bounds["max"] - low + 1
        if size <= most:
            return (_offset(ours, low), _within(_offset(theirs, low), size)), size
    return _hashed(ours, theirs)


def _offset(column: pa.ChunkedArray, low: int) -> Ints:
    """The numbers minus ``low``; -1 for null."""
    filled = pc.fill_null(column, pa.scalar(low, column.type)) if column.null_count else column
    numbers: Ints = joined(filled.cast(pa.int64())).to_numpy(zero_copy_only=False)
    numbers = numbers - low if low else numbers
    return np.where(column.is_null().to_numpy(), -1, numbers) if column.null_count else numbers


def _within(numbers: Ints, size: int) -> Ints:
    """The numbers in [0, size); -1 for all others."""
    outside = (numbers < 0) | (numbers >= size)
    return np.where(outside, -1, numbers) if outside.any() else numbers


def _hashed(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> tuple[tuple[Ints, Ints], int]:
    both = pa.chunked_array([*ours.chunks, *theirs.chunks], type=ours.type).combine_chunks().dictionary_encode()
    found = pc.fill_null(both.indices, -1).to_numpy().astype(np.int64)
    left, right = found[: len(ours)], found[len(ours) :]
    known = int(left.max(initial=-1)) + 1
    return (left, np.where(right < known, right, -1)), len(both.dictionary)


def _combined(left: Ints, right: Ints, size: int) -> Ints:
    return np.where((left < 0) | (right < 0), -1, left * size + right)


def _nullable(numbers: Ints) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(numbers, mask=numbers < 0)])
