"""What an ingest adds, knows already, and sets aside."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from asof.cli import cli
from asof.errors import AsofError, NotFoundError, SchemaError, SourceError, TableError, UsageError
from asof.instants import from_micros, to_micros
from asof.tables import Declarations, delta, ingest, states, versions
from tests.tables import repos
from tests.tables.repos import NOW, held, make_repo, set_aside

START = datetime(2020, 1, 1, tzinfo=UTC)


def payments(n, first=0, **columns):
    """``n`` good rows with ids from ``first``; columns may be replaced."""
    data = {
        "id": pa.array(range(first, first + n), pa.int64()),
        "paid_at": pa.array([START + timedelta(hours=i) for i in range(n)], pa.timestamp("us", "UTC")),
        "customer": pa.array([i % 3 for i in range(n)], pa.int64()),
        "amount": pa.array([float(i % 50) for i in range(n)], pa.float64()),
        "kind": pa.array(["card"] * n),
    }
    return pa.table(data | columns)


def test_rows_are_added_and_the_knowledge_time_is_derived(repo):
    """A file that lacks the knowledge time gets it from the declared rule, in one commit with version 0."""
    report = ingest(repo, "payments", payments(5), now=NOW)
    assert (report.rows_read, report.rows_added, report.version) == (5, 5, 0)
    rows = held(repo, "payments").to_pylist()
    assert [r["known_at"] - r["paid_at"] for r in rows] == [timedelta(microseconds=1)] * 5
    assert held(repo, "payments").column_names == ["id", "paid_at", "customer", "amount", "kind", "known_at"]


def test_a_push_source_names_the_table_that_it_feeds(repo):
    """``asof ingest`` takes the name of a push source as well."""
    assert ingest(repo, "payments_push", payments(1), now=NOW).table == "payments"


def test_the_same_rows_are_added_once(repo, tmp_path):
    """Ingesting a file again, or a file that overlaps, adds only ids that are not there yet, and makes no empty version."""
    pq.write_table(payments(10), tmp_path / "a.parquet")
    pq.write_table(payments(10, first=5), tmp_path / "b.parquet")
    first = ingest(repo, "payments", tmp_path / "a.parquet", now=NOW)
    again = ingest(repo, "payments", tmp_path / "a.parquet", now=NOW)
    other = ingest(repo, "payments", [tmp_path / "a.parquet", tmp_path / "b.parquet"], now=NOW)
    assert [(r.rows_added, r.duplicates, r.version) for r in (first, again, other)] == [
        (10, 0, 0),
        (0, 10, 0),
        (5, 15, 1),
    ]
    assert sorted(held(repo, "payments")["id"].to_pylist()) == list(range(15))


def test_an_id_twice_in_one_file_keeps_its_first_row(repo):
    """Of several rows with one id in one ingest the first is added."""
    table = payments(3, id=pa.array([7, 7, 8]), amount=pa.array([1.0, 2.0, 3.0]))
    report = ingest(repo, "payments", table, now=NOW)
    assert (report.rows_added, report.duplicates) == (2, 1)
    assert {r["id"]: r["amount"] for r in held(repo, "payments").to_pylist()} == {7: 1.0, 8: 3.0}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("amount", -5.0, "amount: not >= 0"),
        ("amount", 1000.5, "amount: not <= 1000"),
        ("amount", float("inf"), "amount: not a float64"),
        ("kind", "cheque", "kind: not one of card, cash"),
        ("id", None, "id: null"),
        ("id", -1, "id: not >= 0"),
        ("customer", None, "customer: null"),
        ("paid_at", None, "paid_at: null"),
        ("paid_at", from_micros(NOW) + timedelta(hours=2), "paid_at: more than 1 hour in the future"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_number_and_reason(repo, tmp_path, column, value, reason):
    """A bad row is not added but kept in quarantine: file, 1-based row number, reason, and what it held."""
    rows = payments(3).to_pylist()
    rows[1][column] = value
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=payments(1).schema), path)
    report = ingest(repo, "payments", path, now=NOW)
    assert (report.rows_added, report.quarantined, report.reasons) == (2, 1, {reason: 1})
    (row,) = set_aside(repo, "payments")
    assert (row["source"], row["row_number"], row["reason"]) == (str(path), 2, reason)
    assert json.loads(row["content"])["kind"] == rows[1]["kind"]


def test_missing_values_that_nobody_requires_are_added_as_missing(repo):
    """Null in a plain column is a missing value and no error; NaN means the same."""
    report = ingest(repo, "payments", payments(2, amount=pa.array([float("nan"), None], pa.float64())), now=NOW)
    assert report.rows_added == 2
    assert held(repo, "payments")["amount"].to_pylist() == [None, None]


def test_a_moment_may_be_slightly_ahead_of_the_clock(repo):
    """Clocks differ: up to an hour ahead is no bad row; a derived moment may be any time ahead."""
    paid = pa.array([from_micros(NOW) + timedelta(minutes=59)], pa.timestamp("us", "UTC"))
    assert ingest(repo, "payments", payments(1, paid_at=paid), now=NOW).rows_added == 1


def test_the_same_bad_rows_are_set_aside_once(repo, tmp_path):
    """Reading a file with bad rows again counts them again and keeps them once."""
    pq.write_table(payments(4, amount=pa.array([1.0, -1.0, -2.0, 3.0])), tmp_path / "a.parquet")
    reports = [ingest(repo, "payments", tmp_path / "a.parquet", now=NOW + i) for i in range(2)]
    assert [r.quarantined for r in reports] == [2, 2]
    assert sorted(r["row_number"] for r in set_aside(repo, "payments")) == [2, 3]


def test_extra_columns_are_left_out_and_named(repo):
    """A column that the table does not have is not an error; the report names it."""
    report = ingest(repo, "payments", payments(1).append_column("colour", pa.array(["red"])), now=NOW)
    assert report.ignored == ("colour",)
    assert "colour" not in held(repo, "payments").column_names


def test_naive_time_means_utc_unless_the_declaration_forbids_it(repo):
    """A timestamp without zone is UTC; a column declared ``zoned`` refuses it."""
    naive = pa.array([datetime(2020, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None)], pa.timestamp("ms"))
    ingest(repo, "payments", payments(1, paid_at=naive), now=NOW)
    assert held(repo, "payments")["paid_at"].to_pylist() == [datetime(2020, 1, 1, 12, tzinfo=UTC)]
    with pytest.raises(SchemaError, match=r"'ts'.*no time zone"):
        ingest(repo, "zoned", pa.table({"id": ["a"], "ts": naive}), now=NOW)


def test_times_of_other_zones_are_converted(repo, tmp_path):
    """A timestamp with an offset is the same moment in UTC, from Parquet and from CSV."""
    paris = pa.array([START], pa.timestamp("us", "Europe/Paris"))
    ingest(repo, "zoned", pa.table({"id": ["a"], "ts": paris}), now=NOW)
    (tmp_path / "z.csv").write_text(
        "id,ts\nb,2020-01-01T01:00:00+01:00\nc,2020-01-01 00:00:00\nd,2020-01-01T00:00:00.000000Z\n"
    )
    report = ingest(repo, "zoned", tmp_path / "z.csv", now=NOW)
    assert report.reasons == {"ts: not a timestamp with a time zone": 1}
    assert {r["id"]: r["ts"] for r in held(repo, "zoned").to_pylist()} == dict.fromkeys("abd", START)


def test_csv_rows_that_cannot_be_read_are_bad_rows(repo, tmp_path):
    """Cells that are no numbers or times, and lines with too many or too few cells, are set aside by number."""
    lines = [
        "id,paid_at,customer,amount,kind",
        "1,2020-01-01,1,1.5,card",
        "2,yesterday,1,1.5,card",
        "3,2020-01-01,one,1.5,card",
        "4,2020-01-01,1,much,card",
        "5.5,2020-01-01,1,1.5,card",
        "6,2020-01-01,1",
        "7.0,2020-01-01T00:00:00Z, 2 ,1e2,",
        "99999999999999999999,2020-01-01,1,1.5,card",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    report = ingest(repo, "payments", tmp_path / "p.csv", now=NOW)
    assert (report.rows_read, report.rows_added, report.quarantined) == (8, 2, 6)
    assert {r["row_number"]: r["reason"].partition(":")[0] for r in set_aside(repo, "payments")} == {
        2: "paid_at", 3: "customer", 4: "amount", 5: "id", 6: "not a row", 8: "id",
    }  # fmt: skip
    assert sorted(held(repo, "payments")["id"].to_pylist()) == [1, 7]


def test_csv_and_parquet_give_the_same_table(repo, tmp_path):
    """The same rows make the same table whichever format they come in."""
    rows = payments(50, kind=pa.array([None, "card"] * 25))
    pa_csv.write_csv(rows, tmp_path / "p.csv")
    ingest(repo, "payments", tmp_path / "p.csv", now=NOW)
    other = make_repo(tmp_path / "other")
    ingest(other, "payments", rows, now=NOW)
    assert held(repo, "payments").equals(held(other, "payments"))


def test_a_folder_stands_for_the_files_in_it(repo, tmp_path):
    """A folder is read with its subfolders, hidden files left out; a Delta table is read at its newest version."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pq.write_table(payments(2), tmp_path / "in" / "a.parquet")
    pa_csv.write_csv(payments(2, first=2), tmp_path / "in" / "deep" / "b.csv")
    (tmp_path / "in" / ".hidden.csv").write_text("nonsense")
    (tmp_path / "in" / "notes.txt").write_text("nonsense")
    report = ingest(repo, "payments", tmp_path / "in", now=NOW)
    assert (report.rows_added, report.files) == (4, 2)
    other = make_repo(tmp_path / "other")
    assert ingest(other, "payments", repo.path / "data" / "tables" / "payments", now=NOW).rows_added == 4


@pytest.mark.parametrize("integral", [pa.int8(), pa.int32(), pa.uint64(), pa.float64()])
def test_numbers_of_other_widths_fit(repo, integral):
    """Integers of any width, and floats that are whole (as pandas makes them of integers with nulls), are integers."""
    report = ingest(repo, "payments", payments(3, id=pa.array([1, 2, 3]).cast(integral)), now=NOW)
    assert report.rows_added == 3


def _broken_files(folder):
    pq.write_table(payments(1000), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    (folder / "whole.parquet").unlink()
    contents = {
        "truncated.parquet": whole[: len(whole) // 2],
        "empty.parquet": b"",
        "empty.csv": b"",
        "garbage.parquet": b"\x00\xff" * 500,
        "binary.csv": b"id,paid_at,customer,amount,kind\n1,2,\xff\xfe,4,5\n",
        "header.csv": b"id,paid_at,customer,amount,kind\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sorted(contents)


def test_a_broken_file_is_one_line_and_changes_nothing(repo, tmp_path):
    """Truncated, empty and garbage files are SourceErrors of one line that name the file; good files beside them are not added."""
    folder = tmp_path / "broken"
    folder.mkdir()
    ingest(repo, "payments", payments(3), now=NOW)
    pq.write_table(payments(3, first=100), tmp_path / "good.parquet")
    for name in _broken_files(folder):
        with pytest.raises(SourceError) as caught:
            ingest(repo, "payments", [folder / name], now=NOW)
        assert "\n" not in str(caught.value)
        if name != "header.csv":
            with pytest.raises(SourceError, match=name):
                ingest(repo, "payments", [tmp_path / "good.parquet", folder / name], now=NOW)
    assert (states(repo)[0].rows, states(repo)[0].version) == (3, 0)


@pytest.mark.parametrize(
    ("table", "rows", "error", "message"),
    [
        ("payments", payments(2).drop_columns(["amount"]), SchemaError, "lacks the columns .'amount'"),
        (
            "payments",
            payments(2, amount=pa.array(["1", "2"])),
            SchemaError,
            "'amount' .* has type string, expected float64",
        ),
        (
            "payments",
            payments(2, paid_at=pa.array([1, 2])),
            SchemaError,
            "'paid_at' .* has type int64, expected timestamp",
        ),
        ("payments", payments(2, kind=pa.array([1, 2])), SchemaError, "'kind' .* has type int64, expected string"),
        ("payments", payments(0), SourceError, "no rows"),
        ("payment", payments(1), NotFoundError, "did you mean 'payments'"),
        ("readings", pa.table({"sensor": [[1]], "ts": [START]}), SchemaError, "types that a table cannot hold"),
    ],
)
def test_rows_that_do_not_fit_as_a_whole_are_refused(repo, table, rows, error, message):
    """A missing column, a wrong type, no rows, and an unknown table are errors of one line; nothing is written."""
    with pytest.raises(error, match=message):
        ingest(repo, table, rows, now=NOW)
    assert not (repo.path / "data" / "tables").exists()


@pytest.mark.parametrize(
    ("name", "error"), [("nowhere.parquet", SourceError), ("notes.txt", UsageError), ("empty", SourceError)]
)
def test_a_path_without_rows_is_refused(repo, tmp_path, name, error):
    """A path that is not there, of another format, or a folder without files is named."""
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=name):
        ingest(repo, "payments", tmp_path / name, now=NOW)


def test_a_table_without_declared_columns_takes_those_of_its_first_rows(repo):
    """Without tags the first file decides the columns; a later file that lacks one is refused."""
    ingest(repo, "readings", pa.table({"value": [1.5], "sensor": ["a"], "ts": [START]}), now=NOW)
    assert held(repo, "readings").column_names == ["ts", "sensor", "value"]
    with pytest.raises(SchemaError, match=r"lacks the columns .'value'"):
        ingest(repo, "readings", pa.table({"sensor": ["a"], "ts": [START]}), now=NOW)


def test_a_new_declared_column_joins_the_table(repo, tmp_path, monkeypatch):
    """A column that was declared later is added; rows from before have null."""
    ingest(repo, "payments", payments(2), now=NOW)
    tags = {**repos.PAYMENTS.tags, "asof.column.country": "string"}
    monkeypatch.setattr(repos, "PAYMENTS", repos.TableDeclaration.from_dict({**repos.PAYMENTS.to_dict(), "tags": tags}))
    make_repo(repo.path)
    ingest(repo, "payments", payments(1, first=9).append_column("country", pa.array(["FR"])), now=NOW)
    assert {r["id"]: r["country"] for r in held(repo, "payments").to_pylist()} == {0: None, 1: None, 9: "FR"}


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.none() | st.integers(-2, 8),
            "paid_at": st.none() | st.integers(NOW - 5, NOW + 2 * 3_600_000_000),
            "customer": st.none() | st.integers(0, 2),
            "amount": st.none() | st.floats(-100, 1100) | st.just(float("nan")),
            "kind": st.none() | st.sampled_from(["card", "cash", "gold"]),
        }
    ),
    max_size=12,
)


def _good(row):
    """The declaration of ``payments`` in plain Python."""
    amount = row["amount"]
    return (
        row["id"] is not None
        and row["id"] >= 0
        and row["customer"] is not None
        and row["paid_at"] is not None
        and row["paid_at"] <= NOW + 3_600_000_000
        and (amount is None or amount != amount or 0 <= amount <= 1000)
        and row["kind"] in (None, "card", "cash")
    )


@given(batches=st.lists(ROWS, min_size=1, max_size=4))
@effort(max_examples=25)
def test_every_row_is_added_or_known_or_quarantined(tmp_path_factory, batches):
    """Whatever comes in: added + duplicates + quarantined is what was read, and the table is what an obvious loop would make."""
    repo = make_repo(tmp_path_factory.mktemp("law") / "repo")
    expected: dict[int, dict] = {}
    quarantined = 0
    for batch in (b for b in batches if b):
        schema = payments(1).schema
        rows = [{**r, "paid_at": None if r["paid_at"] is None else from_micros(r["paid_at"])} for r in batch]
        report = ingest(repo, "payments", pa.Table.from_pylist(rows, schema=schema), now=NOW)
        fresh = 0
        for row in filter(_good, batch):
            fresh += row["id"] not in expected
            expected.setdefault(row["id"], row)
        quarantined += sum(not _good(row) for row in batch)
        assert report.rows_read == len(batch) == report.rows_added + report.duplicates + report.quarantined
        assert (report.rows_added, report.quarantined) == (fresh, sum(not _good(row) for row in batch))
    found = {r["id"]: r for r in held(repo, "payments").to_pylist()} if expected else {}
    assert {i: to_micros(r["paid_at"]) for i, r in found.items()} == {i: r["paid_at"] for i, r in expected.items()}
    assert len(set_aside(repo, "payments")) == quarantined


READINGS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.none() | st.sampled_from([0.0, 1.5])), max_size=8
)


@given(batches=st.lists(READINGS, min_size=1, max_size=4))
@effort(max_examples=20)
def test_without_an_id_equal_rows_count_as_often_as_one_batch_had_them(tmp_path_factory, batches):
    """A table without id holds each distinct row as often as the batch that had it most often."""
    repo = make_repo(tmp_path_factory.mktemp("law") / "repo")
    expected: Counter = Counter()
    for batch in (b for b in batches if b):
        table = pa.table(
            {
                "sensor": [s for s, _, _ in batch],
                "ts": pa.array([START + timedelta(seconds=t) for _, t, _ in batch], pa.timestamp("us", "UTC")),
                "value": pa.array([v for _, _, v in batch], pa.float64()),
            }
        )
        before = expected.total()
        expected |= Counter(batch)
        assert ingest(repo, "readings", table, now=NOW).rows_added == expected.total() - before
    rows = held(repo, "readings").to_pylist() if expected else []
    assert Counter((r["sensor"], (r["ts"] - START).seconds, r["value"]) for r in rows) == expected


def test_history_tells_what_each_ingest_did(repo):
    """The state of a table and its versions come from the Delta log, with the counts of each ingest."""
    ingest(repo, "payments", payments(4), now=NOW)
    ingest(repo, "payments", payments(4, first=2, amount=pa.array([1.0, -1.0, 2.0, 3.0])), now=NOW)
    state = states(repo)[0]
    assert (state.table, state.rows, state.version, state.quarantined) == ("payments", 6, 1, 1)
    assert (state.first, state.last) == (to_micros(START), to_micros(START + timedelta(hours=3)))
    assert [
        (v.version, v.rows_read, v.rows_added, v.duplicates, v.quarantined) for v in versions(repo, "payments")
    ] == [
        (1, 4, 2, 1, 1),
        (0, 4, 4, 0, 0),
    ]
    assert [s.rows for s in states(repo)[1:]] == [None, None]
    assert versions(repo, "readings") == []


def test_a_damaged_table_is_named(repo):
    """A Delta log that cannot be read, or a data file that is gone, is one line that names the table."""
    ingest(repo, "payments", payments(3), now=NOW)
    path = repo.path / "data" / "tables" / "payments"
    next(path.glob("*.parquet")).unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        ingest(repo, "payments", payments(3), now=NOW)
    (path / "_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(AsofError, match="payments"):
        ingest(repo, "payments", payments(3), now=NOW)


def test_a_type_that_contradicts_the_table_is_refused(repo, monkeypatch):
    """A column declared with another type than the table holds is an error before anything is written."""
    ingest(repo, "payments", payments(2), now=NOW)
    tags = {**repos.PAYMENTS.tags, "asof.column.amount": "string"}
    monkeypatch.setattr(repos, "PAYMENTS", repos.TableDeclaration.from_dict({**repos.PAYMENTS.to_dict(), "tags": tags}))
    make_repo(repo.path)
    with pytest.raises(SchemaError, match="declares 'amount' as string, but the table holds double"):
        ingest(repo, "payments", payments(1, first=5, amount=pa.array(["x"])), now=NOW)


def test_a_lock_that_is_held_too_long_is_an_error(repo):
    """A writer that cannot get the table's lock in time raises an error and changes nothing."""
    path = repo.path / "data" / "tables" / "payments"
    with delta.locked(path), pytest.raises(TableError, match="another process"), delta.locked(path, patience=0.05):
        pass


def test_ids_may_be_strings(repo):
    """Ids of any type identify rows."""
    ts = pa.array([START] * 3, pa.timestamp("us", "UTC"))
    reports = [
        ingest(repo, "zoned", pa.table({"id": ids, "ts": ts}), now=NOW) for ids in (["a", "b", "a"], ["b", "c", "d"])
    ]
    assert [(r.rows_added, r.duplicates) for r in reports] == [(2, 1), (2, 1)]


def test_a_large_batch_keeps_the_order_of_its_rows(repo):
    """Rows lie in the table in the order in which they came, which decides ties."""
    n = 200_000
    rows = (
        payments(1).take(pa.array(np.zeros(n, dtype=np.int64))).set_column(0, "id", pa.array(np.arange(n)[::-1].copy()))
    )
    ingest(repo, "payments", rows, now=NOW)
    assert held(repo, "payments")["id"].to_numpy()[[0, 1, n - 1]].tolist() == [n - 1, n - 2, 0]


def test_paths_may_hold_any_characters(tmp_path):
    """Blanks and accents in the name of the repo, and percent signs in those of files, change nothing."""
    repo = make_repo(tmp_path / "a repo, café")
    path = tmp_path / "my file%20é.parquet"
    pq.write_table(payments(3), path)
    assert [ingest(repo, "payments", path, now=NOW).rows_added for _ in range(2)] == [3, 0]
    other = make_repo(tmp_path / "other")
    assert ingest(other, "payments", repo.path / "data" / "tables" / "payments", now=NOW).rows_added == 3


@pytest.mark.parametrize(("share", "code"), [(None, 0), ("10%", 0), ("9.9%", 1), ("0", 1)])
def test_more_rows_in_quarantine_than_declared_are_exit_code_1(repo, tmp_path, monkeypatch, share, code):
    """The good rows are added whatever the share is; the command fails if more rows were bad than ``asof.quarantine`` allows."""
    tags = {**repos.PAYMENTS.tags, **({} if share is None else {"asof.quarantine": share})}
    declared = Declarations({"payments": replace(repos.PAYMENTS, tags=tags)}, ())
    monkeypatch.setattr(import_module("asof.tables.ingest"), "declarations", lambda _repo: declared)
    pq.write_table(payments(10, amount=pa.array([-1.0] + [1.0] * 9)), tmp_path / "a.parquet")
    answer = CliRunner().invoke(cli, ["--repo", str(repo.path), "ingest", "payments", str(tmp_path / "a.parquet")])
    assert answer.exit_code == code
    assert held(repo, "payments").num_rows == 9
    assert ("asof.quarantine" in answer.output) == bool(code)
