"""Casts the columns of a file to the declared types; a value that cannot be converted is named, never guessed.

Each function takes an Arrow array of n values and gives the converted array (null where it could not) and a mask bool[n]
of the values that could not be converted. NaN becomes null; a moment without time zone means UTC, unless the column says ``zoned``.
A list is converted element by element, and as a whole if any of them is wrong; where a file stores text it is a JSON array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asof.errors import SchemaError, UsageError
from asof.instants import parse_moment
from asof.tables.schema import LISTS, TYPES, Column

_ZONE = r"(?:[zZ]|[+-]\d{2}:?\d{2})\s*$"
_TRUE, _FALSE = frozenset({"true", "t", "yes", "1"}), frozenset({"false", "f", "no", "0"})
_FIRST, _LAST = parse_moment("0001-01-02"), parse_moment("9999-12-30")

_ACCEPTED = {
    "int": {"int", "float", "bool", "text"},
    "float": {"int", "float", "text"},
    "bool": {"bool", "int", "text"},
    "string": {"text"},
    "timestamp": {"timestamp", "date", "text"},
}
"""Kind of the declared type -> kinds that can be converted to it; text only from files without types (CSV)."""

Converted = tuple[pa.Array, np.ndarray]


def convert(column: Column, array: pa.ChunkedArray, source: str, *, text: bool) -> Converted:
    """``array`` cast to the declared type of ``column``.

    Args:
        column: The declared column.
        array: Its n values in the file.
        source: Name of the file, for the message.
        text: Whether the file stores everything as text.

    Raises:
        SchemaError: The whole column has a type that does not fit, or no time zone where one is demanded.
    """
    flat = _flat(array)
    wrong = np.zeros(len(flat), dtype=bool)
    if pa.types.is_null(flat.type):
        return pa.nulls(len(flat), column.arrow), wrong
    kind, wanted = kind_of(flat.type), column.dtype.rstrip("0123456789")
    if column.listed and kind in {"list", "text"} and (text or kind == "list"):
        return _lists(column, flat, source)
    accepted = _ACCEPTED.get(wanted, set()) - (set() if text or wanted == "string" else {"text"})
    if kind not in accepted:
        raise SchemaError(f"column {column.name!r} of {source} has type {flat.type}, expected {column.dtype}")
    if column.zoned and kind == "timestamp" and flat.type.tz is None:
        raise SchemaError(
            f"column {column.name!r} of {source} has no time zone, expected timestamps with one, such as UTC"
        )
    return _CONVERT[wanted](column, flat)


def kind_of(dtype: pa.DataType) -> str:
    """``int``, ``float``, ``bool``, ``text``, ``timestamp``, ``date``, ``list``, or else the type's own name."""
    for kind, checks in _KINDS.items():
        if any(check(dtype) for check in checks):
            return kind
    return str(dtype)


def declared_name(dtype: pa.DataType) -> str | None:
    """The declared name of a type that holds every value of ``dtype``; None if there is none."""
    if pa.types.is_dictionary(dtype):
        return declared_name(dtype.value_type)
    if kind_of(dtype) == "list":
        listed = f"list[{declared_name(dtype.value_type)}]"
        return listed if listed in LISTS else None
    exact = next((name for name, arrow in TYPES.items() if arrow == dtype), None)
    by_kind = {
        "int": "int64",
        "float": "float64",
        "bool": "bool",
        "text": "string",
        "timestamp": "timestamp",
        "date": "timestamp",
    }
    return exact or by_kind.get(kind_of(dtype))


def json_array(text: str, *, strings: bool) -> list[str | None]:
    """The elements of a JSON array as text; where strings are wanted, all of them must be strings.

    Raises:
        ValueError: ``text`` is not such an array.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(text) from None
    if not isinstance(values, list) or (strings and not all(v is None or isinstance(v, str) for v in values)):
        raise ValueError(text)
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]


def _flat(array: pa.ChunkedArray) -> pa.Array:
    flat = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    flat = pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat
    return flat.dictionary_decode() if pa.types.is_dictionary(flat.type) else flat


def _lists(column: Column, array: pa.Array, source: str) -> Converted:
    """Lists, or texts that are JSON arrays; a JSON array's strings are converted as text, its other values as their JSON text."""
    text = kind_of(array.type) == "text"
    wrong = np.zeros(len(array), dtype=bool)
    if text:
        array, wrong = _each(array, pa.list_(pa.string()), partial(json_array, strings=column.dtype == "list[string]"))
    array = array.cast(pa.list_(array.type.value_type))
    owners = np.asarray(pc.list_parent_indices(array))
    elements, bad = convert(column.element, pa.chunked_array([pc.list_flatten(array)]), source, text=text)
    wrong[owners[bad]] = True
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    missing = pa.array(wrong | np.asarray(array.is_null()))
    return pa.ListArray.from_arrays(offsets, elements, mask=missing), wrong


def _integers(column: Column, array: pa.Array) -> Converted:
    values, wrong = _whole(array)
    low, high = np.iinfo(column.dtype).min, np.iinfo(column.dtype).max
    wrong |= _true(pc.or_(pc.less(values, low), pc.greater(values, high)))
    return _null(values, wrong).cast(column.arrow), wrong


def _whole(array: pa.Array) -> Converted:
    """int64, whatever ``array`` holds."""
    kind = kind_of(array.type)
    if kind == "text":
        return _texts(array, pa.int64(), _int)
    if kind == "float":
        given = pc.cast(array, pa.float64(), safe=False)
        given = pc.if_else(pc.is_nan(given), None, given)
        wrong = _true(pc.or_(pc.not_equal(pc.floor(given), given), pc.greater_equal(pc.abs(given), 2.0**63)))
        return pc.cast(_null(given, wrong), pa.int64(), safe=False), wrong
    wrong = _true(pc.greater(array, 2**63 - 1)) if array.type == pa.uint64() else np.zeros(len(array), dtype=bool)
    return pc.cast(_null(array, wrong), pa.int64()), wrong


def _floats(column: Column, array: pa.Array) -> Converted:
    if kind_of(array.type) == "text":
        values, wrong = _texts(array, pa.float64(), _float)
    else:
        values, wrong = pc.cast(array, pa.float64(), safe=False), np.zeros(len(array), dtype=bool)
    values = pc.cast(pc.if_else(pc.is_nan(values), None, values), column.arrow, safe=False)
    wrong |= _true(pc.is_inf(values))
    return _null(values, wrong), wrong


def _flags(column: Column, array: pa.Array) -> Converted:
    kind = kind_of(array.type)
    if kind == "bool":
        return array, np.zeros(len(array), dtype=bool)
    if kind == "text":
        return _each(array, pa.bool_(), _bool)
    wrong = _true(pc.and_(pc.not_equal(array, 0), pc.not_equal(array, 1)))
    return pc.cast(_null(array, wrong), pa.bool_()), wrong


def _strings(column: Column, array: pa.Array) -> Converted:
    return pc.cast(array, pa.string()), np.zeros(len(array), dtype=bool)


def _moments(column: Column, array: pa.Array) -> Converted:
    if kind_of(array.type) == "text":
        values, wrong = _texts(array, pa.timestamp("us", "UTC"), parse_moment)
        if column.zoned:
            wrong |= ~_true(pc.match_substring_regex(array, _ZONE)) & _true(pc.is_valid(array))
        return _null(values, wrong), wrong
    wrong = np.zeros(len(array), dtype=bool)
    try:
        values = pc.cast(pc.cast(array, pa.timestamp("us"), safe=False), pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        raise SchemaError(
            f"column {column.name!r} holds moments beyond the year 9999, expected {column.dtype}"
        ) from None
    micros = pc.cast(values, pa.int64())
    wrong |= _true(pc.or_(pc.less(micros, _FIRST), pc.greater(micros, _LAST)))
    return _null(values, wrong), wrong


_CONVERT: dict[str, Callable[[Column, pa.Array], Converted]] = {
    "int": _integers, "float": _floats, "bool": _flags, "string": _strings, "timestamp": _moments,
}  # fmt: skip

_KINDS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "bool": (pa.types.is_boolean,),
    "int": (pa.types.is_integer,),
    "float": (pa.types.is_floating, pa.types.is_decimal),
    "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "timestamp": (pa.types.is_timestamp,),
    "date": (pa.types.is_date,),
    "list": (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
}


def _texts(array: pa.Array, dtype: pa.DataType, parse: Callable[[str], Any]) -> Converted:
    """Text cast at once if every value fits; otherwise value by value, so that each wrong one is found."""
    none = np.zeros(len(array), dtype=bool)
    naive = pa.timestamp("us") if pa.types.is_timestamp(dtype) else dtype
    for attempt in (naive, dtype):
        try:
            return pc.cast(pc.cast(array, attempt), dtype), none
        except pa.ArrowInvalid:
            continue
    return _each(array, dtype, parse)


def _each(array: pa.Array, dtype: pa.DataType, parse: Callable[[str], Any]) -> Converted:
    texts = array.to_pylist()
    values: list[Any] = [None] * len(texts)
    wrong = np.zeros(len(texts), dtype=bool)
    for i, text in enumerate(texts):
        try:
            values[i] = None if text is None else parse(text)
        except (ValueError, UsageError):
            wrong[i] = True
    return pa.array(values, dtype), wrong


def _int(text: str) -> int:
    value = int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else _integral(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


def _integral(text: str) -> int:
    value = _float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _float(text: str) -> float:
    value = float(text.replace("_", "?"))
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _true(mask: pa.Array) -> np.ndarray:
    """``mask`` as bool[n]; null counts as False."""
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), dtype=bool)


def _null(values: pa.Array, wrong: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(wrong), pa.scalar(None, values.type), values) if wrong.any() else values
