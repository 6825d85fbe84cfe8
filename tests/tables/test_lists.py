"""Columns of lists: what a table takes, sets aside, and refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from asof.errors import SchemaError, SettingsError
from asof.repo import Repo
from asof.streams.messages import Message, decode, encode
from asof.tables import Declarations, ingest
from asof.tables.checking import check
from asof.tables.schema import LISTS, Column, TableDeclaration
from tests.tables.repos import NOW, READINGS, held, make_repo, set_aside

START = datetime(2020, 1, 1, tzinfo=UTC)

TAGS = {
    "asof.id": "id",
    "asof.column.id": "int64",
    "asof.column.ts": "timestamp",
    "asof.column.names": "list[string] required",
    "asof.column.counts": "list[int32]",
}
BOOKS = TableDeclaration("books", "data/tables/books", "delta", "ts", tags=TAGS)

ELEMENTS: dict[str, list[Any]] = {
    "int8": [1, None], "int16": [1, -2], "int32": [3], "int64": [2**62], "float32": [0.5], "float64": [1.5, None],
    "bool": [True, False], "string": ["a, b", 'é "%"', ""], "timestamp": [START],
}  # fmt: skip


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repo with a table of books, which has lists, and one of readings, which declares nothing."""
    return make_repo(tmp_path / "repo", Declarations({t.name: t for t in (BOOKS, READINGS)}, ()))


def books(names: pa.Array, counts: Any = None) -> pa.Table:
    """A book for each list of names."""
    n = len(names)
    when = pa.array([START] * n, pa.timestamp("us", "UTC"))
    return pa.table({"id": pa.array(range(n)), "ts": when, "names": names, "counts": counts or pa.nulls(n)})


@pytest.mark.parametrize(
    "stored",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_lists_of_every_layout_are_held_as_they_are(repo: Repo, stored: pa.DataType) -> None:
    """Arrow's layouts of lists are one type in the table; a missing element stays missing."""
    given = [["Ann", None], ["Zoë Müller", "50 %"]]
    ingest(repo, "books", books(pa.array(given, stored), pa.array([[1, 2], None])), now=NOW)
    ingest(repo, "books", books(pa.array([*given, ["b", "c"]], stored)), now=NOW)
    rows = held(repo, "books").sort_by("id").to_pylist()
    assert [row["names"] for row in rows] == [*given, ["b", "c"]]
    assert [row["counts"] for row in rows] == [[1, 2], None, None]


def test_an_empty_list_is_not_a_missing_one(repo: Repo) -> None:
    """``required`` refuses null, not the empty list; lists that are all empty have no type of their own, and need none."""
    report = ingest(repo, "books", books(pa.array([[], None, []], pa.list_(pa.null()))), now=NOW)
    assert report.reasons == {"names: null": 1}
    assert held(repo, "books")["names"].to_pylist() == [[], []]


def test_one_wrong_element_makes_a_bad_row(repo: Repo) -> None:
    """A list with an element beyond its type is set aside with its row; its neighbours are untouched."""
    counts = pa.array([[1], [2, 2**40], None, [], [4, 5]], pa.list_(pa.int64()))
    report = ingest(repo, "books", books(pa.array([["a"]] * 5), counts), now=NOW)
    assert report.reasons == {"counts: not a list[int32]": 1}
    assert {r["id"]: r["counts"] for r in held(repo, "books").to_pylist()} == {0: [1], 2: None, 3: [], 4: [4, 5]}
    assert json.loads(set_aside(repo, "books")[0]["content"])["counts"] == [2, 2**40]


def test_nan_in_a_list_is_a_missing_element(repo: Repo) -> None:
    """NaN means missing inside a list, too."""
    rows = pa.table({"ts": [START], "sensor": ["a"], "values": [[1.5, float("nan")]]})
    ingest(repo, "readings", rows, now=NOW)
    assert held(repo, "readings")["values"].to_pylist() == [[1.5, None]]


def test_a_list_in_a_csv_file_is_a_json_array(repo: Repo, tmp_path: Path) -> None:
    """The same lists come out of CSV and Parquet; a cell that is no JSON array of the type is a bad row."""
    names = [["Ann", "B, C"], [], ['"'], None, None, None, None, None]
    cells = [*(json.dumps(n) for n in names[:3]), "Ann", '{"a": 1}', "[1]", "[" * 100_000, '["a"']
    text = books(pa.array(cells), pa.array(["[1, 2]", "[3.0]", "", *[""] * 5]))
    pa_csv.write_csv(text, tmp_path / "books.csv")
    report = ingest(repo, "books", tmp_path / "books.csv", now=NOW)
    assert report.reasons == {"names: not a list[string]": 5}
    rows = held(repo, "books").to_pylist()
    assert [row["names"] for row in rows] == names[:3]
    assert [row["counts"] for row in rows] == [[1, 2], [3], None]


@pytest.mark.parametrize("dtype", sorted(LISTS))
def test_lists_of_every_type_survive_a_stream(dtype: str) -> None:
    """A list is sent as a JSON array and taken in as it was."""
    table = TableDeclaration("t", "t", "delta", "ts")
    columns = (Column("ts", "timestamp"), Column("values", dtype))
    given = [ELEMENTS[columns[1].element.dtype], [], None]
    rows = pa.table({"ts": pa.array([START] * 3, pa.timestamp("us", "UTC")), "values": pa.array(given, LISTS[dtype])})
    batch = [Message(str(i), payload, i) for i, payload in enumerate(encode(rows))]
    checked = check(decode(batch, columns, frozenset(), "test").rows, table, columns, NOW)
    assert not checked.bad
    assert checked.good["values"].to_pylist() == given


def test_a_list_of_another_type_is_refused_as_a_whole(repo: Repo, tmp_path: Path) -> None:
    """A typed file whose lists hold something else, or whose column holds no lists, names column, type and what was declared."""
    with pytest.raises(SchemaError, match=r"'names\[\]' .* has type int64, expected string"):
        ingest(repo, "books", books(pa.array([[1]])), now=NOW)
    pq.write_table(books(pa.array(['["a"]'])), tmp_path / "books.parquet")
    with pytest.raises(SchemaError, match=r"'names' .* has type string, expected list\[string\]"):
        ingest(repo, "books", tmp_path / "books.parquet", now=NOW)


def test_lists_of_lists_are_refused(repo: Repo) -> None:
    """A table holds lists of plain values only."""
    with pytest.raises(SchemaError, match=r"types that a table cannot hold: deep \(list"):
        ingest(repo, "readings", pa.table({"ts": [START], "sensor": ["a"], "deep": [[[1]]]}), now=NOW)


@pytest.mark.parametrize(
    "text", ["list[string] in {a}", "list[int64] >= 0", "list[timestamp] zoned", "list[list[int64]]"]
)
def test_a_list_takes_no_constraint_on_its_elements(text: str) -> None:
    """Bounds, choices and zones are for single values."""
    with pytest.raises(SettingsError, match=r"'books'.*names"):
        Column.parse("names", text, "books")


def test_another_spelling_of_a_list_gets_a_hint() -> None:
    """``list<string>`` is answered with ``list[string]``."""
    with pytest.raises(SettingsError, match=r"did you mean 'list\[string\]'\?"):
        Column.parse("names", "list<string>", "books")


def test_an_id_is_no_list() -> None:
    """Ids and join keys look rows up, so a tag that declares one as a list is refused."""
    declared = TableDeclaration.from_dict({**BOOKS.to_dict(), "tags": {**TAGS, "asof.column.id": "list[int64]"}})
    with pytest.raises(SettingsError, match=r"\['id'\] are the id or join keys, which cannot be lists"):
        declared.check()


def test_a_table_holds_what_numpy_lists_hold(repo: Repo) -> None:
    """Lists that come from numpy by way of pandas are lists like any others."""
    rows = books(pa.array([np.array(["a", "b"], dtype=object)]), pa.array([np.array([1, 2], dtype=np.int16)]))
    ingest(repo, "books", rows, now=NOW)
    assert held(repo, "books").select(["names", "counts"]).to_pylist() == [{"names": ["a", "b"], "counts": [1, 2]}]
