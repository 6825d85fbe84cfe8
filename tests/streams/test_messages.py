"""Rows as messages, and back."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.streams.messages import GONE, NOT_JSON, Message, decode, encode
from asof.tables.checking import check
from asof.tables.schema import Column
from tests.streams.world import MOMENT, TABLES

COLUMNS = TABLES["visits"].columns
OPTIONAL = frozenset({"known_at"})
NOW = 1_600_000_000_000_000

rows = st.fixed_dictionaries(
    {
        "id": st.integers(0, 2**63 - 1),
        "at": st.integers(0, NOW),
        "buyer": st.integers(-(2**63), 2**63 - 1),
        "shop": st.integers(-(2**31), 2**31),
        "price": st.none() | st.floats(0, 1000),
    }
)


def messages(payloads: list[bytes | None]) -> list[Message]:
    """The payloads as a batch."""
    return [Message(f"{i}-0", payload, i) for i, payload in enumerate(payloads)]


def told(payloads: list[Any]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The good rows, and for each other position in the batch the reason."""
    texts = [p if isinstance(p, bytes | None) else json.dumps(p).encode() for p in payloads]
    batch = messages(texts)
    found = decode(batch, COLUMNS, OPTIONAL, "test")
    checked = check(found.rows, TABLES["visits"], COLUMNS, NOW)
    reasons = {row.number: row.reason for row in checked.bad}
    return checked.good.to_pylist(), reasons | {batch.index(x.message): x.reason for x in found.dead_letters}


@given(st.lists(rows, min_size=1, max_size=20))
def test_rows_survive_the_journey(given_rows: list[dict[str, Any]]) -> None:
    """What is sent is what is taken in, to the last bit of a number and the microsecond of a moment."""
    columns = {name: [row[name] for row in given_rows] for name in given_rows[0]}
    table = pa.table({**columns, "at": pa.array(columns["at"], pa.int64()).cast(MOMENT)})
    found = decode(messages(list(encode(table))), COLUMNS, OPTIONAL, "test")
    checked = check(found.rows, TABLES["visits"], COLUMNS, NOW)
    good = checked.good.drop_columns(["known_at"])
    assert not checked.bad
    assert good.to_pylist() == table.select(good.column_names).to_pylist()


GOOD = {"id": 1, "at": "2020-01-01T00:00:00Z", "buyer": 1, "shop": 2, "price": 3.5}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"", NOT_JSON),
        (b"{", NOT_JSON),
        (b"[1]", NOT_JSON),
        (b"null", NOT_JSON),
        (b"\xff", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b'{"id": 1},{"id": 2}', NOT_JSON),
        (None, GONE),
        ({**GOOD, "id": None}, "id: null"),
        ({**GOOD, "id": -1}, "id: not >= 0"),
        ({**GOOD, "id": 1.5}, "id: not an int64"),
        ({**GOOD, "id": "x"}, "id: not an int64"),
        ({**GOOD, "id": 2**63}, "id: not an int64"),
        ({**GOOD, "id": {"a": 1}}, "id: not an int64"),
        ({**GOOD, "price": 1e9}, "price: not <= 1000"),
        ({**GOOD, "price": "x"}, "price: not a float64"),
        ({**GOOD, "at": 17}, "at: not a timestamp"),
        ({**GOOD, "at": "yesterday"}, "at: not a timestamp"),
        ({**GOOD, "at": "2030-01-01"}, "at: more than 1 hour in the future"),
    ],
)
def test_a_bad_event_does_not_harm_its_neighbours(event: Any, reason: str) -> None:
    """Each bad event is told with its reason, and the good ones around it are taken in."""
    good, reasons = told([{**GOOD, "id": 7}, event, {**GOOD, "id": 8}])
    assert reasons == {1: reason}
    assert [row["id"] for row in good] == [7, 8]


def test_numbers_as_text_are_read_and_strange_fields_left_out() -> None:
    """An event whose fields are texts, as other producers send it, is the same event."""
    good, reasons = told([{**{k: str(v) for k, v in GOOD.items()}, "colour": "red"}])
    assert not reasons
    assert (good[0]["id"], good[0]["price"]) == (1, 3.5)


def test_a_column_that_no_event_has_is_missing_in_each() -> None:
    """A batch without a required column is a batch of bad events, not an error."""
    _, reasons = told([{k: v for k, v in GOOD.items() if k != "buyer"}] * 2)
    assert reasons == {0: "buyer: null", 1: "buyer: null"}


def test_column_types_follow_the_declaration() -> None:
    """Whole numbers in a float column are floats, and truth values are no numbers."""
    column = Column("x", "float64")
    batch = messages([b'{"x": 1}', b'{"x": 2.5}'])
    assert decode(batch, [column], frozenset(), "test").rows.table["x"].to_pylist() == [1.0, 2.5]
    assert decode(messages([b'{"x": true}']), [column], frozenset(), "test").rows.table["x"].to_pylist() == ["true"]
