"""Arrow columns in and out: moments as integers, values in the types that were declared."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof.contract.arrow_types import ARROW_TYPES, parsed_moments
from asof.errors import SchemaError, SourceError
from asof.instants import format_moment

Ints = NDArray[np.int64]

_PER_MICRO = {"s": 1_000_000, "ms": 1_000}
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_000_000)
"""The years 1 and 9999, between which SQL writes timestamps."""
_NANOSECOND_YEARS = (-9_223_372_036_000_000, 9_223_372_036_000_000)
"""What 64 bits of nanoseconds reach: the years 1677 to 2262."""
_LIST = re.compile(r"(?:array|set)\((.*)\)")


def arrow_type(dtype: str, stored: pa.DataType) -> pa.DataType:
    """The Arrow type of a feature declared as ``dtype`` (Feast's name in lower case).

    Types that Feast declares without saying what is inside (maps, structs, decimals) are as ``stored``.
    """
    inner = _LIST.fullmatch(dtype)
    if inner and _is_list(stored):
        return pa.list_(arrow_type(inner.group(1), stored.value_type))
    return ARROW_TYPES.get(dtype, stored)


def fits(dtype: str, stored: pa.DataType) -> bool:
    """Whether values of type ``stored`` can be what was declared as ``dtype``."""
    inner = _LIST.fullmatch(dtype)
    if inner:
        return _is_list(stored) and fits(inner.group(1), stored.value_type)
    declared = ARROW_TYPES.get(dtype)
    if pa.types.is_null(stored):
        return True
    if declared is None:
        return bool(_SHAPES.get(dtype.partition("(")[0], _anything)(stored))
    return _kind(declared) == _kind(stored) or {_kind(declared), _kind(stored)} in _COUSINS


def contradict(stored: pa.DataType, found: pa.DataType) -> bool:
    """Whether values of type ``found`` cannot be those of a column of type ``stored``; for types of other than plain values, False."""
    kinds = {_kind(stored), _kind(found)}
    return kinds <= _PLAIN_KINDS and len(kinds) == 2 and kinds not in _COUSINS


def _is_list(stored: pa.DataType) -> bool:
    return bool(pa.types.is_list(stored) or pa.types.is_large_list(stored) or pa.types.is_fixed_size_list(stored))


def _anything(stored: pa.DataType) -> bool:
    return True


def _maps(stored: pa.DataType) -> bool:
    return bool(pa.types.is_map(stored) or pa.types.is_struct(stored) or pa.types.is_string(stored))


def _decimals(stored: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(stored) or pa.types.is_string(stored)) or _kind(stored) == "number"


_SHAPES = {"map": _maps, "scalarmap": _maps, "struct": pa.types.is_struct, "decimal": _decimals}
_PLAIN_KINDS = {"bool", "number", "text", "bytes", "moment", "date"}
_COUSINS = ({"number", "bool"}, {"text", "bytes"}, {"moment", "date"})


def plain_type(stored: pa.DataType) -> pa.DataType:
    """The type whose values those of ``stored`` are: of categories their own, of long texts and views of texts just text."""
    if pa.types.is_dictionary(stored):
        return plain_type(stored.value_type)
    if pa.types.is_large_string(stored) or pa.types.is_string_view(stored):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored) else stored


def _kind(stored: pa.DataType) -> str:
    stored = plain_type(stored)
    tests = {
        "bool": pa.types.is_boolean, "number": _is_number, "text": _is_text, "bytes": _is_bytes,
        "moment": pa.types.is_timestamp, "date": pa.types.is_date,
    }  # fmt: skip
    return next((name for name, test in tests.items() if test(stored)), str(stored))


def _is_number(stored: pa.DataType) -> bool:
    return bool(pa.types.is_integer(stored) or pa.types.is_floating(stored) or pa.types.is_decimal(stored))


def _is_text(stored: pa.DataType) -> bool:
    return bool(pa.types.is_string(stored) or pa.types.is_large_string(stored) or pa.types.is_string_view(stored))


def _is_bytes(stored: pa.DataType) -> bool:
    binary = pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_fixed_size_binary(stored)
    return bool(binary or pa.types.is_binary_view(stored))


def joined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """``column`` as one array; only what is in several pieces is copied (``combine_chunks`` copies a single one, too)."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def is_moment(stored: pa.DataType) -> bool:
    """Whether values of this type are moments: timestamps of any unit, with or without zone, and dates."""
    return bool(pa.types.is_timestamp(stored) or pa.types.is_date(stored))


def sql_moment(moment: int, stored: pa.DataType) -> str | None:
    """``moment`` (microseconds UTC) as an SQL constant to compare a column of type ``stored`` with; None beyond SQL's years."""
    fine = pa.types.is_timestamp(stored) and stored.unit == "ns"
    first, last = _NANOSECOND_YEARS if fine else _YEARS
    if not first < moment < last:
        return None
    zone = "TZ" if pa.types.is_timestamp(stored) and stored.tz else ""
    return f"TIMESTAMP{zone}{'_NS' if fine else ''} '{format_moment(moment)[:-1]}'"


def is_aggregable(stored: pa.DataType, function: str) -> bool:
    """Whether ``function`` over a window is defined for values of this type."""
    stored = plain_type(stored)
    if _is_number(stored) or pa.types.is_boolean(stored) or is_moment(stored) or pa.types.is_null(stored):
        return True
    return function == "count" or (
        function in {"min", "max", "last", "count_distinct"} and (_is_text(stored) or _is_bytes(stored))
    )


def conform(column: pa.Array | pa.ChunkedArray, dtype: str, owner: str) -> pa.Array:
    """``column`` in the declared type.

    Raises:
        SourceError: A value does not fit.
    """
    array = joined(column)
    target = arrow_type(dtype, array.type)
    if array.type == target:
        if _LIST.fullmatch(dtype) and not _is_list(array.type) and not pa.types.is_null(array.type):
            raise SourceError(f"{owner}: got {array.type}, declared {dtype}, expected lists")
        return array
    try:
        if pa.types.is_integer(target) and pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        safe = not (pa.types.is_floating(target) or pa.types.is_timestamp(target))
        return array.cast(target, safe=safe)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(
            f"{owner}: got {array.type}, declared {dtype}: {reason}; declare the type that the data has"
        ) from None


def micros(column: pa.ChunkedArray | pa.Array, what: str) -> tuple[Ints, NDArray[np.bool_] | None]:
    """Moments as microseconds UTC, and which are missing (None where none is); a naive time means UTC, finer parts are cut.

    Raises:
        SchemaError: The column does not hold moments.
    """
    array = joined(column)
    if _is_text(array.type):
        array = _parsed(array, what)
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("us" if pa.types.is_date32(array.type) else "ms"))
    if not pa.types.is_timestamp(array.type):
        raise SchemaError(f"{what} has type {array.type}, expected a timestamp")
    missing = np.asarray(array.is_null()) if array.null_count else None
    counts = (
        pc.fill_null(array.cast(pa.int64()), 0).to_numpy() if array.null_count else array.cast(pa.int64()).to_numpy()
    )
    if array.type.unit == "us":
        return counts, missing
    return (counts // 1000 if array.type.unit == "ns" else counts * _PER_MICRO[array.type.unit]), missing


def _parsed(array: pa.Array, what: str) -> pa.Array:
    try:
        return parsed_moments(array)
    except pa.ArrowInvalid:
        raise SchemaError(
            f"{what} holds text that is not an ISO 8601 time such as 2018-08-08T12:00:00Z, expected timestamps"
        ) from None


def event_values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Values to aggregate, as the window kernel takes them: float64 with NaN for missing, or objects with None."""
    array = joined(column.cast(plain_type(column.type)))
    if _is_text(array.type) or _is_bytes(array.type):
        return np.array(array.to_pylist() or [None], dtype=object)[: len(array)]
    if is_moment(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    if not _is_number(array.type) and not pa.types.is_boolean(array.type):
        return np.where(np.asarray(array.is_null()), np.nan, 1.0)
    values: NDArray[np.float64] = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values
