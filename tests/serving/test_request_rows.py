"""Valid rows of requests are read exactly; invalid ones are named by row and field."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.serving.problems import MOST_PROBLEMS, ProblemError
from asof.serving.request_rows import RowParser, expected, reader
from tests.serving.contracts import machines

NOW = 1_800_000_000_000_000
GOOD = {"machine_id": 1, "site": "north", "load": 2.5, "read_at": "2024-05-01T12:00:00Z"}


def parser(event_time: str | None = "read_at", max_rows: int = 50) -> RowParser:
    """A parser of the machines contract with a clock that stands still."""
    return RowParser(machines(), event_time, max_rows, clock=lambda: NOW)


def problem(rows: Any, **options: Any) -> ProblemError:
    """The problem that parsing ends with."""
    with pytest.raises(ProblemError) as caught:
        parser(**options).parse(rows)
    return caught.value


def test_a_row_becomes_columns_and_its_own_moment() -> None:
    """Keys and fields are read as declared and ``at`` is the row's event time."""
    rows = parser().parse([GOOD])
    assert rows.keys == {"machine_id": [1], "site": ["north"]}
    assert rows.request["read_at"] == [datetime(2024, 5, 1, 12, tzinfo=UTC)]
    assert rows.at.tolist() == [1_714_564_800_000_000]


def test_without_an_event_time_rows_are_scored_for_now() -> None:
    """A model whose rows carry no moment is scored at the server's clock."""
    assert parser(event_time=None).parse([GOOD, GOOD]).at.tolist() == [NOW, NOW]


def test_null_is_a_missing_value() -> None:
    """A null key or field is accepted and stays missing."""
    rows = parser().parse([{**GOOD, "machine_id": None, "load": None}])
    assert (rows.keys["machine_id"], rows.request["load"]) == ([None], [None])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"machine_id": "1"}, "machine_id"),
        ({"machine_id": True}, "machine_id"),
        ({"machine_id": 1.5}, "machine_id"),
        ({"machine_id": 2**63}, "machine_id"),
        ({"machine_id": -(2**63) - 1}, "machine_id"),
        ({"machine_id": 10**400}, "machine_id"),
        ({"machine_id": [1]}, "machine_id"),
        ({"site": 3}, "site"),
        ({"site": "x" * 1_025}, "site"),
        ({"site": "\ud800"}, "site"),
        ({"load": "2"}, "load"),
        ({"load": False}, "load"),
        ({"load": float("inf")}, "load"),
        ({"load": float("nan")}, "load"),
        ({"load": 10**400}, "load"),
        ({"load": {}}, "load"),
        ({"read_at": 1_714_564_800}, "read_at"),
        ({"read_at": "yesterday"}, "read_at"),
        ({"read_at": None}, "read_at"),
        ({"read_at": "0001-01-01T00:00:00+14:00"}, "read_at"),
        ({"read_at": "9999-12-31T23:59:59-14:00"}, "read_at"),
        ({"read_at": "2200-01-01"}, "read_at"),
        ({"laod": 1.0}, "laod"),
    ],
)
def test_a_wrong_value_is_named_by_row_and_field(change: dict[str, Any], name: str) -> None:
    """The first problem names the second row and the field, and never repeats the value."""
    found = problem([GOOD, {**GOOD, **change}])
    assert (found.status, found.code) == (400, "invalid_rows")
    assert (found.problems[0].row, found.problems[0].field) == (1, name)
    assert len(found.problems) == 1
    value = str(next(iter(change.values())))
    assert value not in found.message or value in {"None", "1.0", "2", "3", "1", "False"}


def test_every_missing_field_is_named_with_what_was_expected() -> None:
    """An empty row names all fields of the contract."""
    found = problem([{}])
    assert {p.field for p in found.problems} == set(GOOD)
    assert all("is missing, expected" in p.problem for p in found.problems)


def test_a_misspelled_field_is_met_with_the_right_one() -> None:
    """The error for a misspelled field suggests the closest one."""
    assert "did you mean 'load'" in problem([{**GOOD, "laod": 1.0}]).message


def test_the_time_column_of_the_training_rows_is_met_with_at() -> None:
    """Who sends the column that training rows have their moment in, though requests do not carry it, is told of ``at``."""
    row = {**GOOD, "read_on": "2024-05-01"}
    with pytest.raises(
        ProblemError, match="'read_on': is not a field of this model; the moment to score for is the field 'at'"
    ):
        RowParser(machines(), None, 50, scored_at="read_on").parse([row])


@pytest.mark.parametrize("rows", [None, {}, [], "rows", 7])
def test_rows_must_be_a_list_of_at_least_one(rows: Any) -> None:
    """Anything else is refused as a whole."""
    assert problem(rows).problems[0].row is None


@pytest.mark.parametrize("row", [None, [], "x", 3])
def test_a_row_must_be_an_object(row: Any) -> None:
    """An element that is not a row is named by its position."""
    assert problem([GOOD, row]).problems[0].row == 1


def test_too_many_rows_are_too_large() -> None:
    """The error for too many rows says how many are allowed."""
    found = problem([GOOD] * 51)
    assert (found.status, "at most 50" in found.message) == (413, True)


def test_problems_are_counted_out() -> None:
    """A batch in which everything is wrong is answered with a bounded list."""
    assert len(problem([{"x": 1}] * 50).payload["problems"]) == MOST_PROBLEMS


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_int64_is_read_exactly(value: int) -> None:
    """No key loses digits on its way."""
    assert reader("int64")(value) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_double_is_read_exactly(value: float) -> None:
    """No number is rounded on its way."""
    assert reader("float64")(value) == value


@given(st.binary(max_size=200))
def test_bytes_travel_in_base64(value: bytes) -> None:
    """Bytes are what their base64 text says."""
    assert reader("bytes")(base64.b64encode(value).decode()) == value


@given(st.datetimes(datetime(1900, 1, 1), datetime(2261, 1, 1)))  # noqa: DTZ001 - naive on purpose
def test_moments_without_offset_mean_utc(moment: datetime) -> None:
    """A naive time is the same instant as with a Z."""
    assert reader("unixtimestamp")(moment.isoformat()) == moment.replace(tzinfo=UTC)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner, max_size=4),
        max_leaves=12,
    )
)
def test_no_json_breaks_the_parser(payload: Any) -> None:
    """Whatever JSON comes, it is either rows or a problem."""
    try:
        outcome: object = parser().parse(payload).at.dtype
    except ProblemError as found:
        outcome = found.status
    assert outcome in {400, 413, np.int64}


def test_lists_are_read_by_their_items() -> None:
    """An array field reads each item as its type, null included."""
    assert reader("array(int64)")([1, None, 3]) == [1, None, 3]
    assert expected("array(int64)").startswith("a list")
