"""Names of the keys in Redis: one hash per entity key, two hashes per project. See ``docs/online-layout.md``.

Key values are written as text (``asof/shop/customer_id/4711``), so that people can find them with any Redis client. Columns are
sorted, so that views that declare their entities in different orders share a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import JoinKey, View
from asof.errors import RequestError
from asof.instants import to_micros

SEPARATOR = "\x1f"
"""Between the values of a key that has more than one column; escaped inside them."""

_BETWEEN = "\n"
_INTEGERS = ("int32", "int64")


@lru_cache
def layouts_key(project: str) -> bytes:
    """The hash: layout id -> layout, for a project."""
    return f"asof/{quote(project, safe='')}#layouts".encode()


def views_key(project: str) -> bytes:
    """The hash: view name -> definition, for a project."""
    return f"asof/{quote(project, safe='')}#views".encode()


@lru_cache
def watermarks_key(project: str) -> bytes:
    """The hash: table -> its watermark, for a project; see :mod:`asof.online.watermarks`."""
    return f"{{asof/{quote(project, safe='')}}}#watermarks".encode()


def inflight_key(project: str, table: str) -> bytes:
    """The sorted set of events being written to a table; in a cluster in the slot of the watermarks."""
    return f"{{asof/{quote(project, safe='')}}}#inflight/{quote(table, safe='')}".encode()


def consumers_key(project: str) -> bytes:
    """The hash: consumer of a stream -> its last status, for a project; see :mod:`asof.streams.status`."""
    return f"{{asof/{quote(project, safe='')}}}#consumers".encode()


def streams_prefix(project: str) -> bytes:
    """Prefix of the keys that stream consumers keep beside the store."""
    return f"{{asof/{quote(project, safe='')}}}#".encode()


@lru_cache
def project_prefix(project: str) -> bytes:
    """Prefix of the keys of all entities of a project."""
    return f"asof/{quote(project, safe='')}/".encode()


def entity_prefix(project: str, columns: Iterable[str]) -> bytes:
    """Prefix of the keys of all entities with these join key columns."""
    listed = ",".join(quote(c, safe="") for c in sorted(columns))
    return project_prefix(project) + listed.encode() + b"/"


def ordered_keys(view: View) -> list[JoinKey]:
    """The join keys in the order in which their values are written."""
    return sorted(view.join_keys, key=lambda k: k.column)


def request_keys(
    prefix: bytes, keys: Sequence[JoinKey], given: Mapping[str, Sequence[Any]], rows: int
) -> tuple[list[bytes], list[int] | None]:
    """The distinct keys of n requested rows in the order of their first use, and the position of each row's key among them.

    Args:
        prefix: The result of :func:`entity_prefix` for these keys.
        keys: As :func:`ordered_keys` returns them.
        given: Request name -> n values.
        rows: n.

    Returns:
        The keys, and n positions among them, -1 where a key value is missing; None if each row has a key of its own.

    Raises:
        RequestError: A value does not fit its key's type.
    """
    values: Any = given[keys[0].request] if len(keys) == 1 else ()
    values = values.tolist() if hasattr(values, "tolist") else values
    if rows and len(keys) == 1 and keys[0].dtype in _INTEGERS and set(map(type, values)) == {int}:
        if rows == 1:
            return [b"%b%d" % (prefix, *values)], None
        distinct = dict.fromkeys(values)
        # Converting all keys at once is twice as fast as one by one.
        found = prefix + (_BETWEEN + prefix.decode()).join(map(str, distinct)).encode()
        return found.split(_BETWEEN.encode()), _positions(distinct, values)
    texts = _request_texts(keys, given, rows)
    some = dict.fromkeys(text for text in texts if text is not None)
    return [prefix + text for text in some], _positions(some, texts)


def _positions(distinct: Iterable[Any], values: Sequence[Any]) -> list[int] | None:
    position = {value: i for i, value in enumerate(distinct)}
    return None if len(position) == len(values) else [position.get(value, -1) for value in values]


def _request_texts(keys: Sequence[JoinKey], given: Mapping[str, Sequence[Any]], rows: int) -> list[bytes | None]:
    if not keys:
        return [b""] * rows
    columns = [_column_text(k, given[k.request]) for k in keys]
    if len(columns) == 1:
        return [None if text is None else text.encode() for text in columns[0]]
    return [
        None if None in parts else SEPARATOR.join(_escaped(p) for p in parts if p is not None).encode()
        for parts in zip(*columns, strict=True)
    ]


def table_keys(keys: Sequence[JoinKey], table: pa.Table) -> pa.Array:
    """The key text of each row of a table whose key columns have their declared Arrow types; null where a value is missing."""
    if not keys:
        return pa.array([""] * table.num_rows, pa.string())
    columns = [_arrow_text(k.dtype, table.column(k.column)) for k in keys]
    if len(columns) == 1:
        return columns[0]
    return pc.binary_join_element_wise(*(_arrow_escaped(c) for c in columns), SEPARATOR, null_handling="emit_null")


def _column_text(key: JoinKey, values: Sequence[Any]) -> list[str | None]:
    listed: Sequence[Any] = values.tolist() if hasattr(values, "tolist") else values
    if key.dtype in _INTEGERS and set(map(type, listed)) == {int}:
        return list(map(str, listed))
    write = _TEXT.get(key.dtype, str)
    try:
        return [None if v is None or v != v else write(v) for v in listed]
    except (TypeError, ValueError, OverflowError, UnicodeDecodeError):
        row = next(i for i, v in enumerate(listed) if not _fits(write, v))
        raise RequestError(row, key.request, f"got a {type(listed[row]).__name__}, expected {key.dtype}") from None


def _fits(write: Callable[[Any], str], value: Any) -> bool:
    try:
        return value is None or value != value or bool(write(value)) or True
    except (TypeError, ValueError, OverflowError, UnicodeDecodeError):
        return False


def _integer(value: Any) -> str:
    if type(value) is int:
        return str(value)
    number = int(value)
    if number != value or isinstance(value, str):
        raise ValueError(value)
    return str(number)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _bytes(value: Any) -> str:
    return bytes(value).hex()


def _moment(value: Any) -> str:
    return str(to_micros(value) if isinstance(value, datetime) else int(value))


def _boolean(value: Any) -> str:
    if value not in (0, 1):
        raise ValueError(value)
    return "1" if value else "0"


_TEXT: dict[str, Callable[[Any], str]] = {
    "int32": _integer, "int64": _integer, "string": _string, "bytes": _bytes, "unixtimestamp": _moment, "bool": _boolean,
}  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(SEPARATOR, "\\s")


def _arrow_text(dtype: str, column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if dtype == "unixtimestamp":
        return whole.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).cast(pa.string())
    if dtype == "bool":
        return whole.cast(pa.bool_()).cast(pa.int8()).cast(pa.string())
    if dtype in _INTEGERS:
        return whole.cast(pa.int64()).cast(pa.string())
    if dtype == "bytes":
        return pa.array([None if v is None else v.hex() for v in whole.to_pylist()], pa.string())
    return whole.cast(pa.string())


def _arrow_escaped(column: pa.Array) -> pa.Array:
    doubled = pc.replace_substring(column, "\\", "\\\\")
    return pc.replace_substring(doubled, SEPARATOR, "\\s")
