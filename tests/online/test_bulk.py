"""Byte strings in bulk are the byte strings, framed as Redis wants them."""

from __future__ import annotations

import hiredis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.online.redis.resp_encoding import BulkStrings


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\r\n", b"$1\r\n", b"x" * 200])), st.integers(0, 5))
def test_bulk_is_the_list_it_stands_for(values: list[bytes], skipped: int) -> None:
    """From a list or from an Arrow column, also a part of one: the same strings, and what hiredis packs of them."""
    column = pa.array([b"before"] * skipped + values, pa.binary())[skipped:]
    for bulk in (BulkStrings.of(values), BulkStrings.of_arrow(column)):
        assert list(bulk) == values
        assert [bulk[i] for i in range(-len(values), 0)] == values
        assert bulk[1:3] == values[1:3]
        packed: bytes = hiredis.pack_command(tuple(values))  # type: ignore[arg-type]
        assert b"*%d\r\n" % len(values) + bulk.framed(0, len(values)) == packed
        assert BulkStrings.of(bulk) is bulk
        with pytest.raises(IndexError):
            _ = bulk[len(values)]


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 9), st.integers(1, 100))
def test_portions(sizes: list[int], count: int, limit: int) -> None:
    """Portions follow each other, are as large as they may be, and no larger unless a single string is."""
    bulk = BulkStrings.of([b"x" * size for size in sizes])
    portions, framed = list(bulk.portions(count, limit)), [len(bulk.framed(i, i + 1)) for i in range(len(sizes))]
    assert [i for a, b in portions for i in range(a, b)] == list(range(len(sizes)))
    for a, b in portions:
        assert b - a <= count
        assert b - a == 1 or sum(framed[a:b]) <= limit
        assert b == len(sizes) or b - a == count or sum(framed[a : b + 1]) > limit
