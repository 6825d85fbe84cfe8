"""Every Feast value type survives the way into the store and back."""

from __future__ import annotations

import decimal
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.errors import OnlineStoreError, RequestError, SchemaError
from asof.online import Reader, Status, Writer
from asof.online.codec import variable_width
from asof.online.codec.rows import ENCODED
from tests.online.tables import T, at, contract, plain, rows, windowed

MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)
SCALARS: list[tuple[str, pa.DataType, Any]] = [
    ("int32", pa.int32(), -(2**31)), ("int64", pa.int64(), 2**53 - 1), ("float32", pa.float32(), 0.5),
    ("float64", pa.float64(), -1e300), ("bool", pa.bool_(), True), ("string", pa.string(), "grüße\x00"),
    ("bytes", pa.binary(), b"\x00\xff"), ("unixtimestamp", pa.timestamp("us", "UTC"), MOMENT), ("json", pa.string(), '{"a":1}'),
    ("pdfbytes", pa.binary(), b"%PDF"), ("imagebytes", pa.binary(), b""),
]  # fmt: skip
OTHERS: list[tuple[str, Any]] = [
    ("array(float32)", [0.5, 1.5]), ("array(string)", ["a", ""]), ("array(int64)", []), ("array(bool)", [True, False]),
    ("set(int64)", {1, 2}), ("map", {"a": "b", "n": None}), ("struct({a: string})", {"a": "x"}),
    ("array(struct({a: int64}))", [{"a": 1}]), ("array(array(float64))", [[1.0], [2.0, 3.0]]),
    ("uuid", uuid.UUID(int=5)), ("timeuuid", uuid.UUID(int=6)), ("decimal", decimal.Decimal("1.10")),
    ("scalarmap", {1: "a", MOMENT: b"x"}), ("array(unixtimestamp)", [MOMENT]), ("array(uuid)", [uuid.UUID(int=7)]),
    ("zonedtimestamp", MOMENT.astimezone(timezone(timedelta(hours=2)))), ("array(bytes)", [b"a"]), ("array(json)", ['{"a":1}']),
]  # fmt: skip
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "arrow", "value"), SCALARS, ids=[s[0] for s in SCALARS])
def test_scalar_types(store: Any, dtype: str, arrow: pa.DataType, value: Any) -> None:
    """A value and a null of each scalar type read back as they were written."""
    view = plain(("a", dtype), ("b", dtype))
    columns = {"a": pa.array([value, None], arrow), "b": pa.array([None, value], arrow)}
    Writer("tests", store).write(view, rows({"key": [1, 2], **columns}))
    found = Reader(contract(view), store).read({"key": [1, 2]}, at(2))
    first, second = found.column("profile", "a"), found.column("profile", "b")
    assert (first[0], second[1]) == (value, value)
    assert all(v is None or math.isnan(v) for v in (first[1], second[0]))
    assert found.statuses.tolist() == [[Status.PRESENT, Status.NULL], [Status.NULL, Status.PRESENT]]


@pytest.mark.parametrize(("dtype", "value"), OTHERS, ids=[o[0] for o in OTHERS])
def test_other_types(store: Any, dtype: str, value: Any) -> None:
    """Lists, sets, maps, structs, ids, decimals and zoned times read back as they were written."""
    view = plain(("a", dtype))
    column = pa.array([variable_width.encode(dtype, value), None], ENCODED)
    Writer("tests", store).write(view, rows({"key": [1, 2], "a": column}))
    found = Reader(contract(view), store).read({"key": [1, 2]}, at(2))
    assert found.objects["profile", "a"] == [value, None]


def test_arrow_collections(store: Any) -> None:
    """Lists, maps and structs of an Arrow table are written as Feast means them."""
    view = plain(("l", "array(int64)"), ("m", "map"), ("s", "struct({a: string})"), ("u", "set(string)"), ("j", "json"))
    columns = {
        "l": pa.array([[1, 2]]), "m": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        "s": pa.array([{"a": "x"}]), "u": pa.array([["b", "b"]]), "j": pa.array([{"n": 1}]),
    }  # fmt: skip
    Writer("tests", store).write(view, rows({"key": [1], **columns}))
    found = Reader(contract(view), store).read({"key": [1]}, at(1)).objects
    assert [found["profile", n][0] for n in "lmsuj"] == [[1, 2], {"k": "v"}, {"a": "x"}, {"b"}, '{"n":1}']


@given(NESTED)
def test_loose_encoding_is_its_own_inverse(value: Any) -> None:
    """Decoding an encoded value gives the value, however nested."""
    assert variable_width.decode("map", variable_width.encode("map", value)) == value


@given(st.binary(max_size=30))
def test_damaged_bytes_are_refused(stored: bytes) -> None:
    """Bytes that nobody encoded either mean a value or are refused; they never do anything else."""
    said = ""
    try:
        variable_width.decode("map", stored)
    except OnlineStoreError as error:
        said = str(error)
    assert not said or "materialize its view again" in said


def test_values_of_the_wrong_type_are_refused_by_name(store: Any) -> None:
    """A column that does not fit its declared type is refused with view, column and both types; nothing is written."""
    view = plain(("a", "int64"))
    with pytest.raises(SchemaError, match="view 'profile', column 'a': got string, expected int64"):
        Writer("tests", store).write(view, rows({"key": [1], "a": ["x"]}))
    with pytest.raises(SchemaError, match=r"expected also \['a'\]"):
        Writer("tests", store).write(view, rows({"key": [1]}))
    with pytest.raises(SchemaError, match="windows aggregate numbers"):
        Writer("tests", store).write(windowed(("n", "x", "count")), rows({"key": [1], "x": [[1]]}))
    assert Reader(contract(view), store).read({"key": [1]}, at(1)).statuses.tolist() == [[Status.NOT_FOUND]]


def test_keys_of_the_wrong_type_are_refused_by_row(store: Any) -> None:
    """A key that does not fit is refused with its row and field, and without its value."""
    reader = Reader(contract(plain(("a", "int64"))), store)
    with pytest.raises(RequestError, match="row 1, field 'key': got a str, expected int64"):
        reader.read({"key": [1, "secret"]}, at(2))
    with pytest.raises(RequestError, match="field 'key': is missing"):
        reader.read({"other": [1]}, at(1))
    with pytest.raises(RequestError, match="has 1 value, expected 2"):
        reader.read({"key": [1]}, at(2))


def test_times_of_every_kind_are_the_same_moment(store: Any) -> None:
    """Naive, zoned, coarse and fine timestamps of the same moment are the same event time."""
    view, kinds = (
        plain(("a", "int64")),
        [pa.timestamp("us"), pa.timestamp("ns", "Europe/Paris"), pa.timestamp("ms", "UTC")],
    )
    for key, kind in enumerate(kinds):
        moment = pa.array([T], pa.int64()).cast(pa.timestamp("us", "UTC" if kind.tz else None)).cast(kind)
        table = pa.table({"key": [key], "ts": moment, "kt": moment, "a": [key]})
        Writer("tests", store).write(view, table)
    found = Reader(contract(view), store).read({"key": [0, 1, 2]}, at(3, T))
    assert found.event_times.tolist() == [[T]] * 3
