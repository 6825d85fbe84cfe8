"""Definitions are compared with the tables and files that exist, from logs and footers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from asof.contract import Aggregation, Field, JoinKey, Source, View
from asof.instants import DAY
from asof.tables.definition_check import definition_faults
from asof.tables.schema import TableDeclaration

MOMENT = pa.array([1_700_000_000_000_000], pa.timestamp("us", "UTC"))
ROWS = pa.table({"sale": [1], "shop": [7], "city": ["Paris"], "amount": [2.5], "sold_at": MOMENT, "known_at": MOMENT})
SALES = TableDeclaration("sales", "data/sales.parquet", "parquet", "sold_at", "known_at", tags={"asof.id": "sale"})
PLAIN = View(
    name="latest",
    alias="latest",
    join_keys=(JoinKey("shop", "shop", "int64"),),
    features=(Field("city", "string"), Field("amount", "float64")),
    ttl=0,
    source=Source("sales", SALES.path, "parquet", "sold_at", "known_at", event_id="sale"),
)
WINDOWED = replace(
    PLAIN,
    name="turnover",
    features=(Field("mean_1d", "float64"),),
    aggregations=(Aggregation("mean_1d", "amount", "mean", DAY),),
)


def found(repo: Path, *views: View, table: TableDeclaration = SALES) -> list[str]:
    """The faults of the views over one table, in words."""
    sourced = [replace(v, source=replace(v.source, path=table.path, format=table.format)) for v in views]
    return [str(f) for f in definition_faults({table.name: table}, sourced, repo)]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A folder with ``data/sales.parquet``."""
    (tmp_path / "data").mkdir()
    pq.write_table(ROWS, tmp_path / "data" / "sales.parquet")
    return tmp_path


def test_definitions_that_fit_have_no_faults(repo: Path) -> None:
    """Columns that exist in fitting types are no faults, in a plain and a windowed view."""
    assert found(repo, PLAIN, WINDOWED) == []


def _renamed(**fields: str) -> View:
    return replace(PLAIN, features=tuple(Field(n, t) for n, t in fields.items()))


WRONG: list[tuple[View, str]] = [
    (_renamed(amonut="float64"), ("view 'latest' declares 'amonut' as float64, but source 'sales' has no column 'amonut'; did you mean 'amount'? "
     "data/sales.parquet has sale, shop, city, amount, sold_at, known_at")),
    (_renamed(AMOUNT="float64"), "did you mean 'amount'?"),
    (_renamed(weather="string"), "name another column, or add it to the files; data/sales.parquet has sale"),
    (_renamed(city="int64"), "column 'city' of source 'sales' is string, but view 'latest' declares it as int64; declare what data/sales.parquet holds"),
    (replace(PLAIN, source=replace(PLAIN.source, timestamp_field="city")), "'city' of source 'sales' is string, but view 'latest' declares it as a timestamp"),
    (replace(PLAIN, source=replace(PLAIN.source, created_timestamp_column="known")), "no column 'known'; did you mean 'known_at'?"),
    (replace(PLAIN, join_keys=(JoinKey("shop", "shop", "string"),)), "column 'shop' of source 'sales' is int64, but view 'latest' declares it as string"),
    (replace(WINDOWED, aggregations=(Aggregation("mean_1d", "city", "mean", DAY),)),
     "'city' of source 'sales' is string, but view 'turnover' declares it as the input of mean, which takes numbers"),
    (replace(PLAIN, source=replace(PLAIN.source, field_mapping={"amonut": "amount"})), "declares 'amonut' as float64"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "message"), WRONG)
def test_a_fault_names_view_column_file_and_what_to_do(repo: Path, view: View, message: str) -> None:
    """A column that is missing or of another type is named with what is declared, what is there, and what to do."""
    faults = found(repo, view)

    assert len(faults) == 1
    assert message in faults[0]


def test_all_faults_are_found_at_once_and_each_once(repo: Path) -> None:
    """Two views over one table have all their faults in one answer, and a column that two windows read is named once."""
    windows = (Aggregation("a", "price", "mean", DAY), Aggregation("b", "price", "mean", 7 * DAY))
    twice = replace(WINDOWED, features=(Field("a", "float64"), Field("b", "float64")), aggregations=windows)

    assert len(found(repo, _renamed(town="string", city="int64"), twice)) == 3


def test_names_after_field_mapping_are_looked_up_under_their_names_in_the_files(repo: Path) -> None:
    """A feature and a key that ``field_mapping`` renames fit the columns that they are made of."""
    mapped = replace(PLAIN.source, field_mapping={"amount": "price", "shop": "store"})
    view = replace(
        PLAIN, source=mapped, join_keys=(JoinKey("store", "store", "int64"),), features=(Field("price", "float64"),)
    )

    assert found(repo, view) == []


@pytest.mark.parametrize("path", ["data/*.parquet", "data", "data/by_year"])
def test_folders_patterns_and_partitions_are_read(repo: Path, path: str) -> None:
    """A folder, a pattern, and a folder with partitions have the columns of their files, folder names included."""
    (repo / "data" / "by_year" / "year=2024").mkdir(parents=True)
    pq.write_table(ROWS, repo / "data" / "by_year" / "year=2024" / "part.parquet")
    table, fields = replace(SALES, path=path), {"city": "string"}
    if path == "data/by_year":
        fields["year"] = "int64"

    assert found(repo, _renamed(**fields), table=table) == []
    assert len(found(repo, _renamed(**fields, wind="string"), table=table)) == 1


@pytest.mark.parametrize(
    ("kind", "path"),
    [("parquet", "none.parquet"), ("parquet", "none/*.parquet"), ("delta", "none"), ("delta", "empty")],
)
def test_what_does_not_exist_yet_is_no_fault(tmp_path: Path, kind: str, path: str) -> None:
    """A table or file that nothing was written to is no fault, nor are data files of a first append that was killed."""
    (tmp_path / "empty").mkdir()
    pq.write_table(ROWS, tmp_path / "empty" / "part.parquet")
    table = replace(SALES, path=path, format=kind)

    assert found(tmp_path, _renamed(anything="string"), table=table) == []


def test_a_file_that_cannot_be_read_is_a_fault(repo: Path) -> None:
    """A truncated file, a CSV file, a Delta table declared as Parquet and a file that is elsewhere are faults with advice."""
    (repo / "short.parquet").write_bytes((repo / "data" / "sales.parquet").read_bytes()[:-50])
    (repo / "rows.csv").write_text("sale,shop\n1,7\n")
    write_deltalake(str(repo / "delta"), ROWS)
    places = {
        "short.parquet": "write it again",
        "rows.csv": "add the rows of CSV files with `asof ingest`",
        "delta": "declare file_format=DeltaFormat()",
        "s3://b/x.parquet": "mount it, or copy it",
    }
    faults = {path: found(repo, PLAIN, table=replace(SALES, path=path)) for path in places}

    assert {path: len(told) for path, told in faults.items()} == dict.fromkeys(places, 1)
    assert [path for path, told in faults.items() if places[path] not in told[0]] == []


def test_two_columns_that_differ_only_in_case_are_a_fault(repo: Path) -> None:
    """DuckDB takes one of them for the other, so a view that reads one is refused; a view that reads neither is not."""
    pq.write_table(ROWS.append_column("Amount", pa.array([99.0])), repo / "data" / "sales.parquet")

    assert (
        "has amount and Amount, which DuckDB and Delta cannot tell apart; rename all but one" in found(repo, PLAIN)[0]
    )
    assert found(repo, _renamed(city="string")) == []


def test_times_and_id_of_a_source_without_views_are_checked(repo: Path) -> None:
    """The table's own declaration is compared too."""
    table = replace(SALES, timestamp_field="sold", knowledge_field="city", tags={"asof.id": "sale_id"})
    faults = found(repo, table=table)

    assert [f.split(" ", 2)[0:2] for f in faults] == [
        ["timestamp_field", "declares"],
        ["column", "'city'"],
        ["the", "tag"],
    ]


TAGS = {
    "asof.id": "sale",
    "asof.column.sale": "int64",
    "asof.column.shop": "int64",
    "asof.column.city": "string",
    "asof.column.amount": "float64",
    "asof.column.sold_at": "timestamp",
    "asof.column.known_at": "timestamp",
}
DELTA = replace(SALES, path="data/tables/sales", format="delta", tags=TAGS)


def test_declared_columns_stand_for_those_that_no_row_has_yet(tmp_path: Path) -> None:
    """Before the first ingest, and after a column was declared, views are compared with the declaration."""
    assert found(tmp_path, PLAIN, table=DELTA) == []
    assert "did you mean 'amount'?" in found(tmp_path, _renamed(amonut="float64"), table=DELTA)[0]
    write_deltalake(str(tmp_path / "data" / "tables" / "sales"), ROWS.drop_columns("city"))
    assert found(tmp_path, PLAIN, table=DELTA) == []


def test_a_declared_column_that_the_table_holds_in_another_type_is_a_fault(tmp_path: Path) -> None:
    """All of them are named."""
    write_deltalake(str(tmp_path / "data" / "tables" / "sales"), ROWS)
    table = replace(DELTA, tags={**TAGS, "asof.column.amount": "string", "asof.column.city": "int64"})
    faults = found(tmp_path, table=table)

    assert len(faults) == 2
    assert "source 'sales' declares 'amount' as string, but the table holds double" in faults[0]


def test_a_data_file_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    """A file that the Delta log names and somebody deleted is named."""
    folder = tmp_path / "data" / "tables" / "sales"
    write_deltalake(str(folder), ROWS)
    next(folder.glob("*.parquet")).unlink()

    assert "lacks 1 of its 1 file, such as" in found(tmp_path, PLAIN, table=DELTA)[0]


def test_no_data_is_read(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check opens footers alone."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("data was read")

    for name in ("read_table", "ParquetFile"):
        monkeypatch.setattr(f"pyarrow.parquet.{name}", refuse)
    monkeypatch.setattr("duckdb.connect", refuse)

    assert found(repo, PLAIN, WINDOWED) == []
