"""Layouts: the schemas of stored rows, events and buckets.

A layout is an ordered list of columns with their types. Its id is a hash of that list. Every stored row, and every field of
events or buckets, names the id of its layout, so that values written before a view changed stay readable. The store keeps
every layout that was ever used; a reader that meets an unknown id fetches it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from asof.errors import OnlineStoreError

BLOCKS = ("f8", "i8", "f4", "i4", "b1")
"""Fixed-width columns are grouped in these blocks, in this order, so that a reader copies blocks instead of columns."""

_BLOCK_OF = {
    "float64": "f8", "int64": "i8", "unixtimestamp": "i8", "float32": "f4", "int32": "i4", "bool": "b1",
}  # fmt: skip
_NUMPY = {"f8": "<f8", "i8": "<i8", "f4": "<f4", "i4": "<i4", "b1": "u1"}


def block_of(dtype: str) -> str | None:
    """The block that a column of this type lies in; None where its width is not fixed."""
    return _BLOCK_OF.get(dtype)


@dataclass(frozen=True)
class Layout:
    """The schema of a stored value.

    Attributes:
        kind: ``row`` for the newest row of a plain view, ``events`` for the events of a windowed view, ``buckets`` for the
            merged events of a view with a hop.
        view: Name of the view.
        fields: (column, type) in order. In events and buckets every number is ``float64``.
        hop: Width of a bucket in microseconds.
        distinct: Columns whose distinct values a bucket keeps.
    """

    kind: Literal["row", "events", "buckets"]
    view: str
    fields: tuple[tuple[str, str], ...]
    hop: int = 1
    distinct: tuple[str, ...] = ()

    @cached_property
    def id(self) -> int:
        """The 32-bit id of the layout; never 0."""
        return int.from_bytes(hashlib.sha256(self.to_json().encode()).digest()[:4], "little") or 1

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Block -> names of its columns, in order; blocks without columns are left out."""
        found = {b: tuple(name for name, dtype in self.fields if block_of(dtype) == b) for b in BLOCKS}
        return {block: names for block, names in found.items() if names}

    @cached_property
    def variable_width(self) -> tuple[str, ...]:
        """Names of the columns without a fixed width, in order."""
        return tuple(name for name, dtype in self.fields if block_of(dtype) is None)

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Column -> type."""
        return dict(self.fields)

    @cached_property
    def place(self) -> dict[str, int]:
        """Column -> its bit in the null mask of a row."""
        return {name: i for i, (name, _) in enumerate(self.fields)}

    @cached_property
    def fixed(self) -> np.dtype[np.void]:
        """The numpy type of the part of a row or event that has a fixed width."""
        head = _ROW_HEAD if self.kind == "row" else _EVENT_HEAD[bool(self.variable_width)]
        mask = [("mask", "u1", ((len(self.fields) + 7) // 8,))] if self.kind == "row" and self.fields else []
        blocks = [(block, _NUMPY[block], (len(names),)) for block, names in self.blocks.items()]
        lengths = [("lengths", "<u4", (len(self.variable_width),))] if self.variable_width else []
        return np.dtype([*head, *mask, *blocks, *lengths])

    def to_json(self) -> str:
        """The layout as JSON, the same text for the same layout."""
        said: dict[str, Any] = {"kind": self.kind, "view": self.view, "fields": self.fields}
        if self.kind == "buckets":
            said |= {"hop": self.hop, "distinct": self.distinct}
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The layout that :meth:`to_json` wrote.

        Raises:
            OnlineStoreError: The text is no layout.
        """
        try:
            payload = json.loads(text)
            fields = tuple((name, dtype) for name, dtype in payload["fields"])
            return cls(
                payload["kind"], payload["view"], fields, payload.get("hop", 1), tuple(payload.get("distinct", ()))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OnlineStoreError(
                f"a layout in Redis cannot be read ({error}); was it written by another program?"
            ) from error


_ROW_HEAD = [("layout", "<u4"), ("size", "<u4"), ("ts", "<i8"), ("kt", "<i8")]
_EVENT_HEAD = {
    False: [("ts", "<i8"), ("kt", "<i8"), ("id", "<u8")],
    True: [("size", "<u4"), ("ts", "<i8"), ("kt", "<i8"), ("id", "<u8")],
}


def row_layout(view: str, fields: Sequence[tuple[str, str]]) -> Layout:
    """The layout of the rows of a plain view."""
    return Layout("row", view, tuple(fields))


def events_layout(view: str, fields: Sequence[tuple[str, str]]) -> Layout:
    """The layout of the events of a windowed view."""
    return Layout("events", view, tuple(fields))


def buckets_layout(events: Layout, hop: int, distinct: Sequence[str]) -> Layout:
    """The layout of the buckets that events of a layout are merged into."""
    return Layout("buckets", events.view, events.fields, hop, tuple(n for n, _ in events.fields if n in distinct))


def field_of(layout: Layout) -> bytes:
    """The field of an entity's hash that holds values of this layout.

    A plain view has one field, whose rows start with their layout id. A windowed view has one field per layout of events or
    buckets, so that a script can search them without decoding.
    """
    return layout.view.encode() if layout.kind == "row" else f"{layout.view}#{layout.id:08x}".encode()
