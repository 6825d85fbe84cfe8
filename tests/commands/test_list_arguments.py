"""Lists on the command line of ``asof get`` and in the CSV files of ``asof dataset``, and how they are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from asof.contract import Contract, Field, OnDemandView
from asof.errors import RequestError
from asof.verbs.dataset import _parsed_lists
from asof.verbs.get import _shown, parse_pairs


def asking(dtype: str) -> Contract:
    """A contract with the request field ``x``."""
    asks = OnDemandView("v", "v", "m:f", "", "python", False, (), (Field("x", dtype),), ())
    return Contract("shop", "s", (), (), (asks,))


def parsed(dtype: str, text: str) -> Any:
    """The value of a request field of this type."""
    return parse_pairs(asking(dtype), [f"x={text}"], 0)[1]["x"][0]


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("array(string)", '["Comedy", "50 %, or \u00e9", null]', ["Comedy", "50 %, or \u00e9", None]),
        ("array(string)", "[]", []),
        ("array(int64)", "[1, 2]", [1, 2]),
        ("array(float64)", "[1, 2.5]", [1.0, 2.5]),
        ("array(bool)", "[true, false]", [True, False]),
        ("array(unixtimestamp)", '["2026-01-01"]', [datetime(2026, 1, 1, tzinfo=UTC)]),
        ("array(string)", "null", None),
        ("string", "[1]", "[1]"),
    ],
)
def test_a_list_is_given_as_a_json_array(dtype: str, text: str, value: Any) -> None:
    """Lists are JSON arrays on the command line; their elements have the declared type."""
    assert parsed(dtype, text) == value


@pytest.mark.parametrize(
    ("dtype", "text"), [("array(string)", "Comedy"), ("array(string)", "[1]"), ("array(int64)", "[1.5]")]
)
def test_what_is_no_list_of_the_type_is_refused(dtype: str, text: str) -> None:
    """A text is not taken for the list of its letters."""
    with pytest.raises(RequestError, match=r"'x': does not fit, expected array\(.*\) as a JSON array"):
        parsed(dtype, text)


def test_a_long_value_is_cut_in_the_table() -> None:
    """One long list does not push the statuses of all features out of sight."""
    assert _shown(["\u00e9", 1]) == '["\u00e9", 1]'
    assert len(_shown(["name"] * 100)) == 72
    assert _shown(["name"] * 100).endswith("...")


def test_lists_of_a_csv_file_are_json_arrays() -> None:
    """Where the service asks for lists, the texts of a CSV file are read as JSON arrays; a wrong one is named with its row."""
    rows = pa.table({"k": ["[1]", "a", None], "x": ["[1, 2]", None, "[]"]})
    read = _parsed_lists(asking("array(int64)"), rows)
    assert read.to_pydict() == {"k": ["[1]", "a", None], "x": [[1, 2], None, []]}
    with pytest.raises(RequestError, match=r"row 0, field 'x': does not fit, expected array\(bool\) as a JSON array"):
        _parsed_lists(asking("array(bool)"), rows)
    assert _parsed_lists(asking("string"), rows).equals(rows)
