"""Encodes and decodes values without a fixed width: text, bytes, lists, maps, structs and all other types that Feast knows.

Text is UTF-8 and bytes are themselves. Everything else is written with a one-letter tag, length-prefixed and recursive, so
that reading needs neither a schema nor protobuf and can never run code.
"""

from __future__ import annotations

import decimal
import json
import struct
import uuid
from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from asof.errors import OnlineStoreError, SchemaError
from asof.instants import from_micros, to_micros

TEXT_TYPES = frozenset({"string", "json"})
BYTES_TYPES = frozenset({"bytes", "pdfbytes", "imagebytes"})

_LENGTH = struct.Struct("<I")
_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")


def from_arrow(dtype: str, value: Any) -> Any:
    """``value`` as Arrow gives it, as Feast means it: maps as dicts, sets as sets, JSON as text."""
    if dtype == "json" and not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"), default=str)
    if dtype in ("map", "scalarmap") and isinstance(value, list):
        return dict(value)
    if dtype.startswith("array(map") and isinstance(value, list):
        return [dict(v) if isinstance(v, list) else v for v in value]
    if dtype.startswith("set(") and isinstance(value, list):
        return set(value) if all(isinstance(v, Hashable) for v in value) else value
    return value


def encode(dtype: str, value: Any) -> bytes:
    """The bytes of ``value``, which must not be missing.

    Raises:
        SchemaError: The value is of no type that Feast knows.
    """
    if dtype in TEXT_TYPES and isinstance(value, str):
        return value.encode()
    if dtype in BYTES_TYPES:
        return bytes(value)
    if dtype in TEXT_TYPES:
        raise SchemaError(f"got a {type(value).__name__}, expected {dtype}")
    return b"".join(_parts(value))


def decode(dtype: str, stored: bytes) -> Any:
    """The value that :func:`encode` wrote.

    Raises:
        OnlineStoreError: The bytes are damaged.
    """
    try:
        if dtype in TEXT_TYPES:
            return stored.decode()
        if dtype in BYTES_TYPES:
            return stored
        value, end = _read(stored, 0)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError, decimal.InvalidOperation) as error:
        raise OnlineStoreError(
            f"a stored {dtype} is damaged ({type(error).__name__}); materialize its view again"
        ) from error
    if end != len(stored):
        raise OnlineStoreError(f"a stored {dtype} has {len(stored) - end} bytes too many; materialize its view again")
    return value


def _parts(value: Any) -> Iterable[bytes]:  # noqa: PLR0912 - one case for each type that Feast knows
    match value:
        case None:
            yield b"n"
        case bool() | np.bool_():
            yield b"t" if value else b"f"
        case int() | np.integer():
            yield b"i" + _INT.pack(value) if -(2**63) <= value < 2**63 else _sized(b"I", str(value).encode())
        case float() | np.floating():
            yield b"d" + _FLOAT.pack(value)
        case str():
            yield _sized(b"s", value.encode())
        case bytes() | bytearray() | memoryview():
            yield _sized(b"b", bytes(value))
        case datetime():
            yield _sized(b"z", value.isoformat().encode()) if _zoned(value) else b"m" + _INT.pack(to_micros(value))
        case uuid.UUID():
            yield _sized(b"u", value.bytes)
        case decimal.Decimal():
            yield _sized(b"D", str(value).encode())
        case Mapping():
            yield b"M" + _LENGTH.pack(len(value))
            for name, item in value.items():
                yield from _parts(name)
                yield from _parts(item)
        case set() | frozenset():
            yield from _list(b"S", list(value))
        case list() | tuple() | np.ndarray():
            yield from _list(b"l", list(value))
        case _:
            raise SchemaError(f"got a {type(value).__name__}, which is no value that Feast knows")


def _zoned(value: datetime) -> bool:
    offset = value.utcoffset()
    return offset is not None and bool(offset)


def _list(tag: bytes, items: list[Any]) -> Iterable[bytes]:
    yield tag + _LENGTH.pack(len(items))
    for item in items:
        yield from _parts(item)


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + _LENGTH.pack(len(content)) + content


def _read(stored: bytes, at: int) -> tuple[Any, int]:
    tag, at = stored[at : at + 1], at + 1
    if tag in _PLAIN:
        return _PLAIN[tag], at
    if tag in (b"i", b"m", b"d"):
        return _NUMBER[tag](stored, at), at + 8
    (size,) = _LENGTH.unpack_from(stored, at)
    at += 4
    if tag in (b"l", b"S"):
        items, at = _read_many(stored, at, size)
        return (set(items) if tag == b"S" else items), at
    if tag == b"M":
        flat, at = _read_many(stored, at, 2 * size)
        return dict(zip(flat[::2], flat[1::2], strict=True)), at
    if at + size > len(stored):
        raise IndexError(size)
    return _SIZED[tag](stored[at : at + size]), at + size


def _read_many(stored: bytes, at: int, count: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _read(stored, at)
        items.append(item)
    return items, at


_PLAIN: dict[bytes, Any] = {b"n": None, b"t": True, b"f": False}
_NUMBER: dict[bytes, Any] = {
    b"i": lambda s, at: _INT.unpack_from(s, at)[0],
    b"m": lambda s, at: from_micros(_INT.unpack_from(s, at)[0]),
    b"d": lambda s, at: _FLOAT.unpack_from(s, at)[0],
}


class _Sized(dict[bytes, Any]):
    def __missing__(self, tag: bytes) -> Any:
        raise ValueError(tag)


_SIZED = _Sized(
    {
        b"s": bytes.decode,
        b"b": bytes,
        b"u": lambda b: uuid.UUID(bytes=b),
        b"D": lambda b: decimal.Decimal(b.decode()),
        b"I": lambda b: int(b.decode()),
        b"z": lambda b: datetime.fromisoformat(b.decode()),
    }
)
