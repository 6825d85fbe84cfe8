"""Messages of a stream, the interface of a stream, and the encoding of events as JSON.

A message is one event as a JSON object whose fields are the table's columns: numbers, text, true and false, lists of them; moments as ISO 8601
text (without an offset: UTC). :func:`encode` makes such texts from rows, :func:`decode` makes rows from them; both work on whole
batches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asof.tables.reading import Rows
from asof.tables.schema import Column

NOT_JSON = "not a JSON object"
_DECODER = json.JSONDecoder()

GONE = "the stream dropped the event before it was read"


class Message(NamedTuple):
    """One event in a stream.

    Attributes:
        position: Its position in the stream; the same at every delivery.
        payload: The event as JSON; None if the stream has deleted it.
        sent: Arrival in the stream, microseconds by the stream's clock.
    """

    position: str
    payload: bytes | None
    sent: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that does not fit the table, and the reason."""

    message: Message
    reason: str


class EventSource(Protocol):
    """A stream, read by one consumer of a group. A message is delivered again until it is settled, to one consumer at a time."""

    @property
    def name(self) -> str:
        """The stream's own name."""
        ...

    def poll(self, count: int, linger: float) -> list[Message]:
        """Up to ``count`` messages: those that arrive within ``linger`` seconds of the first; none if none arrives in a short time."""
        ...

    def settle(self, messages: Sequence[Message], dead_letters: Sequence[DeadLetter]) -> None:
        """Move dead letters to the dead-letter stream and acknowledge all messages."""
        ...

    def drained(self) -> bool:
        """Whether every message was delivered and settled."""
        ...

    def pending(self) -> list[str] | None:
        """Positions that were delivered to any consumer and not settled; None if the stream cannot tell."""
        ...

    def close(self) -> None:
        """Close the connection; messages that were not settled will be delivered again."""
        ...


@dataclass(frozen=True)
class Decoded:
    """A batch as rows.

    Attributes:
        rows: The events that are JSON objects, numbered by their position in the batch; columns as in the table.
        dead_letters: The other events.
    """

    rows: Rows
    dead_letters: list[DeadLetter] = field(default_factory=list)


def encode(rows: pa.Table) -> list[bytes]:
    """Each row as a JSON object; missing values are left out."""
    names = rows.column_names
    columns = [_plain(rows[name]) for name in names]
    dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return [
        dump({n: v for n, v in zip(names, values, strict=True) if v is not None}).encode()
        for values in zip(*columns, strict=True)
    ]


def decode(messages: Sequence[Message], columns: Sequence[Column], optional: frozenset[str], source: str) -> Decoded:
    """The events of a batch as rows.

    Args:
        messages: The batch.
        columns: The table's columns; other fields are ignored.
        optional: Columns that can be derived; absent from the result if no event has them.
        source: Name of the batch in error messages.
    """
    given = [_object(m.payload) for m in messages]
    good = [i for i, event in enumerate(given) if isinstance(event, dict)]
    dead_letters = [
        DeadLetter(m, GONE if m.payload is None else NOT_JSON)
        for m, e in zip(messages, given, strict=True)
        if not isinstance(e, dict)
    ]
    arrays = {}
    for column in columns:
        values = [given[i].get(column.name) for i in good]
        if column.name not in optional or any(v is not None for v in values):
            arrays[column.name] = _array(values, column)
    return Decoded(Rows(source, pa.table(arrays), np.array(good, np.int64), typed=False), dead_letters)


def _object(payload: bytes | None) -> Any:
    if not payload:
        return None
    try:
        text = payload.decode()
        if text[0] == "{":  # raw_decode skips the decoder's slow search for surrounding blanks
            value, end = _DECODER.raw_decode(text)
            if end == len(text):
                return value
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _array(values: list[Any], column: Column) -> pa.Array:
    """An array of the declared kind; if any value is of another kind, all as text, so that the check names each wrong value."""
    kind, python = _KINDS.get(column.dtype.rstrip("0123456789"), (pa.string(), {str}))
    if {type(v) for v in values} <= {*python, type(None)}:
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, OverflowError):
            pass  # beyond 64 bits
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())


_KINDS: dict[str, tuple[pa.DataType, set[type]]] = {
    "int": (pa.int64(), {int}),
    "float": (pa.float64(), {int, float}),
    "bool": (pa.bool_(), {bool}),
}
"""Kind of a declared type -> Arrow type of its values, and the Python types that JSON parses to."""


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = pc.strftime(column.cast(pa.timestamp("us", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
    elif pa.types.is_date(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_list(column.type):
        elements = iter(_plain(pc.list_flatten(column)))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if n is None else list(islice(elements, n)) for n in lengths]
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):
        return [None if v is None or v != v else v for v in values]
    return values
