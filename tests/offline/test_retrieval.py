"""Retrieval without Feast: what goes in, what comes out, and what is refused before any work."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from asof.contract import Aggregation, Feature, Field, JoinKey, OnDemandView
from asof.errors import NotFoundError, SchemaError, SettingsError, SourceError
from asof.offline import EngineSettings, retrieve
from tests.offline.conftest import DAY, contract, moments, view

Write = Callable[..., Path]


def asked(*days: float, keys: list[Any] | None = None) -> pa.Table:
    """Entity rows for key 1 (or the keys given) at some days."""
    return pa.table({"k": keys if keys is not None else [1] * len(days), "at": moments(*days)})


def test_entity_rows_come_back_as_they_went_in(write: Write, tmp_path: Path) -> None:
    """Order, duplicates, rows with null and unknown keys, and other columns of any type are kept."""
    write(k=[1, 2], ts=moments(0, 1), x=[10, 20])
    rows = pa.table(
        {
            "note": pa.array([["a"], None, [], ["b"], ["a"]], pa.list_(pa.string())),
            "at": moments(2, 0, 2, 2, 2),
            "k": [2, 2, None, 99, 2],
        }
    )
    got = retrieve(contract(view(features={"x": "int64"})), rows, at="at", repo=tmp_path)
    assert got.select(["note", "at", "k"]).equals(rows)
    assert got["x"].to_pylist() == [20, None, None, None, 20]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_every_unit_and_zone(write: Write, tmp_path: Path, unit: str, zone: str | None) -> None:
    """Seconds to nanoseconds, aware or naive (which means UTC), in sources and in entity rows, mean the same moments."""
    write(k=[1, 1], ts=moments(0, 1, unit=unit, zone=zone), kt=moments(0, 3, unit=unit, zone=zone), x=[10, 20])
    rows = pa.table({"k": [1, 1, 1], "at": moments(0, 2, 3, unit=unit, zone=zone)})
    plain = contract(view(features={"x": "int64"}, created="kt"))
    assert retrieve(plain, rows, at="at", repo=tmp_path)["x"].to_pylist() == [10, 10, 20]
    assert retrieve(plain, rows, at="at", repo=tmp_path, knowledge=False)["x"].to_pylist() == [10, 20, 20]


def test_moments_as_text_and_as_dates(write: Write, tmp_path: Path) -> None:
    """Entity rows may carry ISO 8601 text or dates."""
    write(k=[1], ts=moments(1), x=[10])
    asks = contract(view(features={"x": "int64"}))
    for values in (
        ["2020-01-01T23:59:59", "2020-01-02T00:00:00"],
        ["2020-01-01T00:00:00Z", "2020-01-02T01:00:00+01:00"],
    ):
        got = retrieve(asks, pa.table({"k": [1, 1], "at": values}), at="at", repo=tmp_path)
        assert got["x"].to_pylist() == [None, 10]
    dates = pa.array([18262, 18263], pa.int32()).cast(pa.date32())
    assert retrieve(asks, pa.table({"k": [1, 1], "at": dates}), at="at", repo=tmp_path)["x"].to_pylist() == [None, 10]


TYPES: list[tuple[str, pa.DataType, Any]] = [
    ("int32", pa.int32(), 7),
    ("int64", pa.int32(), 7),
    ("int64", pa.float64(), 7.0),
    ("float32", pa.float64(), 0.5),
    ("float64", pa.float32(), 0.5),
    ("bool", pa.bool_(), True),
    ("string", pa.large_string(), "é"),
    ("string", pa.string_view(), "é"),
    ("string", pa.dictionary(pa.int8(), pa.string()), "é"),
    ("int64", pa.dictionary(pa.int8(), pa.int64()), 7),
    ("bytes", pa.binary(), b"\x00\xff"),
    ("bytes", pa.large_binary(), b"\x00\xff"),
    ("bytes", pa.binary_view(), b"\x00\xff"),
    ("unixtimestamp", pa.timestamp("ms"), 1_577_836_800_000),
    ("decimal", pa.decimal128(20, 3), decimal.Decimal("1.250")),
    ("map", pa.map_(pa.string(), pa.string()), [("a", "b")]),
    ("json", pa.string(), '{"a": 1}'),
    ("struct({name: string})", pa.struct([("name", pa.string())]), {"name": "x"}),
    ("array(int64)", pa.list_(pa.int64()), [1, None, 3]),
    ("array(float32)", pa.list_(pa.float32(), 2), [1.0, 2.0]),
    ("array(string)", pa.list_(pa.string()), ["a", ""]),
    ("array(string)", pa.large_list(pa.large_string()), ["a", ""]),
    ("array(bytes)", pa.list_(pa.binary()), [b"a"]),
    ("array(bool)", pa.list_(pa.bool_()), [True, False]),
    ("array(unixtimestamp)", pa.list_(pa.timestamp("us")), [0]),
    ("set(string)", pa.list_(pa.string()), ["a"]),
    ("array(array(int64))", pa.list_(pa.list_(pa.int64())), [[1], [2, 3]]),
    ("uuid", pa.string(), "0b1e6e60-0000-4000-8000-000000000000"),
]


@pytest.mark.parametrize(("dtype", "stored", "value"), TYPES)
def test_every_type_that_parquet_holds(
    write: Write, tmp_path: Path, dtype: str, stored: pa.DataType, value: Any
) -> None:
    """A value of every Feast type comes back as it was written, and a missing one as null."""
    column = pa.array([value, None], stored)
    write(k=[1, 2], ts=moments(0, 0), x=column)
    got = retrieve(contract(view(features={"x": dtype})), asked(1, 1, 1, keys=[1, 2, 3]), at="at", repo=tmp_path)["x"]
    expected = column.to_pylist()
    if "unixtimestamp" in dtype:
        expected = column.cast(got.type).to_pylist()
    assert got.to_pylist() == [*expected, None]


def test_names_of_every_spelling(write: Write, tmp_path: Path) -> None:
    """Reserved words, quotes, spaces, suffixes that other engines use and an empty-looking name are names like any other."""
    names = [
        "x_y",
        "x_x",
        "select",
        "order by",
        'say "hi"',
        "it's",
        "ünï",
        "k2",
        "asof row",
        "file_row_number_",
        "a.b",
        "row",
    ]
    write("odd name's", k=[1], ts=moments(0), **{n: [i] for i, n in enumerate(names)})
    asks = contract(view("odd name's", features=dict.fromkeys(names, "int64")))
    got = retrieve(asks, asked(1), at="at", repo=tmp_path)
    assert [got[n].to_pylist()[0] for n in names] == list(range(len(names)))


def test_several_views_keys_and_aliases(write: Write, tmp_path: Path) -> None:
    """Views with one, two and no keys, one of them under another request name, are answered in one call, in service order."""
    write("one", k=[1, 2], ts=moments(0, 0), a=[10, 20])
    write("two", k=[1, 1], name=["x", "y"], ts=moments(0, 0), b=[11, 12])
    write("none", ts=moments(0, 2), c=[100, 200])
    keys = (JoinKey("k", "k", "int64"), JoinKey("name", "name", "string"))
    views = (
        view("one", features={"a": "int64"}),
        replace(view("one", features={"a": "int64"}, keys=[JoinKey("k", "other", "int64")]), alias="again"),
        view("two", features={"b": "int64"}, keys=keys),
        view("none", features={"c": "int64"}, keys=()),
    )
    features = [("c", "none"), ("a", "one"), ("b", "two"), ("a", "again")]
    asks = replace(contract(*views), features=tuple(Feature(f"{v}__{f}", v, f, "int64") for f, v in features))
    rows = pa.table({"k": [1, 1, 2], "other": [2, None, 1], "name": ["y", "x", "x"], "at": moments(1, 2, 3)})
    got = retrieve(asks, rows, at="at", repo=tmp_path)
    assert got.column_names[4:] == ["none__c", "one__a", "two__b", "again__a"]
    assert [got[n].to_pylist() for n in got.column_names[4:]] == [
        [100, 200, 200],
        [10, 10, 20],
        [12, 11, None],
        [20, None, 10],
    ]


@pytest.mark.parametrize(
    "stored",
    [
        pa.int32(), pa.uint64(), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.date32(), pa.bool_(),
        pa.decimal128(12, 1), pa.dictionary(pa.int32(), pa.string()),
    ],
)  # fmt: skip
def test_keys_of_many_types(write: Write, tmp_path: Path, stored: pa.DataType) -> None:
    """Keys may be of any type that has equality."""
    if stored in (pa.binary(), pa.large_binary()):
        keys = pa.array([b"a", b"b"], stored)
    elif pa.types.is_dictionary(stored):
        keys = pa.array(["a", "b"]).dictionary_encode()
    else:
        keys = pa.array([False, True]) if stored == pa.bool_() else pa.array([0, 1], pa.int32()).cast(stored)
    write(k=keys, ts=moments(0, 0), x=[10, 20])
    kinds = {"string": "string", "binary": "bytes", "bool": "bool", "date": "unixtimestamp"}
    dtype = next((d for kind, d in kinds.items() if kind in str(stored)), "int64")
    asks = contract(view(features={"x": "int64"}, keys=[JoinKey("k", "k", dtype)]))
    rows = pa.table({"k": pa.chunked_array([keys[1:], keys[:1], pa.nulls(1, keys.type)]), "at": moments(1, 1, 1)})
    assert retrieve(asks, rows, at="at", repo=tmp_path)["x"].to_pylist() == [20, 10, None]


def test_whole_number_keys_as_pandas_makes_them(write: Write, tmp_path: Path) -> None:
    """Floats with gaps and integers too large for the source are looked up as what they are."""
    write(k=pa.array([1, 2], pa.int32()), ts=moments(0, 0), x=[10, 20])
    asks = contract(view(features={"x": "int64"}))
    floats = pa.table({"k": [2.0, None, float("nan")], "at": moments(1, 1, 1)})
    assert retrieve(asks, floats, at="at", repo=tmp_path)["x"].to_pylist() == [20, None, None]
    large = pa.table({"k": [2**40, 1, -(2**40)], "at": moments(1, 1, 1)})
    assert retrieve(asks, large, at="at", repo=tmp_path)["x"].to_pylist() == [None, 10, None]
    larger = pa.table({"k": pa.array([2**63 + 1, 1, 2], pa.uint64()), "at": moments(1, 1, 1)})
    assert retrieve(asks, larger, at="at", repo=tmp_path)["x"].to_pylist() == [None, 10, 20]


def test_field_mapping_and_wider_files(write: Write, tmp_path: Path) -> None:
    """Columns are read under their names in the files, also keys, times and what windows aggregate."""
    write(key=[1, 1], ts=moments(0, 1), amount=[1.5, 2.5], unused=["a", "b"])
    mapping = {"key": "k", "amount": "x"}
    windows = [Aggregation("total", "x", "sum", 5 * DAY)]
    asks = contract(
        view(features={"x": "float64"}, field_mapping=mapping),
        replace(view("rows", features={"total": "float64"}, field_mapping=mapping, windows=windows), alias="w"),
    )
    got = retrieve(asks, asked(2), at="at", repo=tmp_path)
    assert (got["x"].to_pylist(), got["total"].to_pylist()) == ([2.5], [4.0])


@pytest.mark.parametrize("layout", ["file", "folder", "partitioned", "glob", "delta", "partitioned delta"])
def test_sources_of_every_layout(tmp_path: Path, layout: str) -> None:
    """One file, a folder, a partitioned folder (whose text stays text), a pattern, and Delta tables hold the same rows."""
    table = pa.table({"k": [1, 1, 2], "ts": moments(0, 2, 1), "x": [10, 20, 30], "part": ["01", "02", "02"]})
    folder = tmp_path / "data"
    folder.mkdir()
    if "delta" in layout:
        for i in range(3):
            by = ["part"] if "partitioned" in layout else None
            write_deltalake(str(folder), table.slice(i, 1), mode="append", partition_by=by)
    elif layout == "partitioned":
        pq.write_to_dataset(table, folder, partition_cols=["part"])
    elif layout == "file":
        pq.write_table(table, folder / "all.parquet")
    else:
        for i in range(3):
            pq.write_table(table.slice(i, 1), folder / f"{i}.parquet")
        (folder / "_temporary.parquet").write_text("not read")
    path = {"file": "data/all.parquet", "glob": "data/?.parquet"}.get(layout, str(folder))
    if layout == "glob":
        (folder / "_temporary.parquet").rename(folder / "_temporary.txt")
    kind = "delta" if "delta" in layout else "parquet"
    asks = contract(view(features={"x": "int64", "part": "string"}, path=path, format=kind))
    got = retrieve(asks, asked(1, 3, 3, keys=[1, 1, 2]), at="at", repo=tmp_path)
    assert (got["x"].to_pylist(), got["part"].to_pylist()) == ([10, 20, 30], ["01", "02", "02"])


def test_a_version_of_a_delta_table_is_what_it_was(tmp_path: Path) -> None:
    """Asked at a version, a table has the rows of that version; an unknown version or source is refused."""
    for i in range(2):
        write_deltalake(str(tmp_path / "t"), pa.table({"k": [1], "ts": moments(i), "x": [i]}), mode="append")
    asks = contract(view("t", features={"x": "int64"}, path="t", format="delta"))
    for version, expected in ((None, 1), (1, 1), (0, 0)):
        versions = {} if version is None else {"t": version}
        assert retrieve(asks, asked(5), at="at", repo=tmp_path, versions=versions)["x"].to_pylist() == [expected]
    with pytest.raises(SourceError, match="version 7"):
        retrieve(asks, asked(5), at="at", repo=tmp_path, versions={"t": 7})
    with pytest.raises(NotFoundError, match="no source named 'u'"):
        retrieve(asks, asked(5), at="at", repo=tmp_path, versions={"u": 0})


def test_rows_without_key_or_time_are_no_ones(write: Write, tmp_path: Path) -> None:
    """Rows with a null key or event time answer nothing; without a knowledge time a row is known at its event time."""
    write(
        k=[1, None, 1, 1],
        ts=pa.concat_arrays([moments(0, 0), pa.nulls(1, moments(0).type), moments(1)]),
        kt=pa.concat_arrays([moments(0, 0, 0), pa.nulls(1, moments(0).type)]),
        x=[10, 20, 30, 40],
    )
    asks = contract(view(features={"x": "int64"}, created="kt"))
    assert retrieve(asks, asked(0.5, 1, keys=[1, 1]), at="at", repo=tmp_path)["x"].to_pylist() == [10, 40]
    write(k=pa.nulls(2, pa.int64()), ts=moments(0, 0), kt=moments(0, 0), x=[10, 20])
    assert retrieve(asks, asked(0.5, 1, keys=[1, 1]), at="at", repo=tmp_path)["x"].to_pylist() == [None, None]


def test_large_columns_one_by_one_are_the_same(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are the same whether columns are read together with the keys or one after another, once the rows are known."""
    keys, n = [*range(9), None], 500
    columns = {
        "x": list(range(n)),
        "s": [f"row {i}" for i in range(n)],
        "y": [None if i % 3 else i / 7 for i in range(n)],
    }
    write(k=[keys[i % 10] for i in range(n)], ts=moments(*(i % 97 for i in range(n))), **columns)
    asks = contract(view(features={"x": "int64", "s": "string", "y": "float64"}))
    rows = asked(*(i % 101 for i in range(n)), keys=[i % 11 for i in range(n)])
    together = retrieve(asks, rows, at="at", repo=tmp_path)
    monkeypatch.setattr("asof.offline.source_rows.AT_ONCE", 1)
    monkeypatch.setattr("asof.offline.parquet_columns.AT_ONCE", 1)
    assert retrieve(asks, rows, at="at", repo=tmp_path).equals(together)
    assert together["x"].null_count < n


def test_pruning_changes_no_value(write: Write, tmp_path: Path) -> None:
    """Few questions to a large source (whose other keys are not read) are answered like many."""
    n = 5000
    write(k=[i % 50 for i in range(n)], ts=moments(*(i % 97 for i in range(n))), x=list(range(n)))
    asks = contract(view(features={"x": "int64"}))
    keys = [(i * 7) % 53 for i in range(3000)]
    many = retrieve(asks, asked(*(i % 101 for i in range(3000)), keys=keys), at="at", repo=tmp_path)["x"]
    few = retrieve(asks, asked(*(i % 101 for i in range(30)), keys=keys[:30]), at="at", repo=tmp_path)["x"]
    assert few.to_pylist() == many.to_pylist()[:30]


def test_a_text_is_no_list(tmp_path: Path) -> None:
    """Entity rows with text where a function asks for a list are refused: it would see the letters of the text."""
    asks = OnDemandView("v", "v", "builtins:dict", "", "python", False, (), (Field("names", "array(string)"),), (Field("n", "int64"),))  # fmt: skip
    wanted = replace(contract(), features=(Feature("n", "v", "n", "int64", on_demand=True),), on_demand=(asks,))
    rows = asked(1).append_column("names", pa.array(["Ann, Bob"]))
    with pytest.raises(
        SourceError, match=r"entity column 'names': got string, declared array\(string\), expected lists"
    ):
        retrieve(wanted, rows, at="at", repo=tmp_path)


def test_on_demand_features_see_plain_values(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions get lists with None for null and for NaN, of stored features that need not be returned and of the request."""
    (tmp_path / "repo_functions.py").write_text(
        "def ratio(given):\n"
        "    pairs = zip(given['amount'], given['usual'])\n"
        "    return {'ratio': [None if u is None else a / u for a, u in pairs]}\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(k=[1, 2], ts=moments(0, 0), usual=[2.0, float("nan")])
    stored = view(features={"usual": "float64"})
    request = (Field("amount", "float64"),)
    on_demand = OnDemandView(
        "ratios",
        "ratios",
        "repo_functions:ratio",
        "",
        "python",
        False,
        (("rows", "usual"),),
        request,
        (Field("ratio", "float64"),),
    )
    features = (Feature("ratio", "ratios", "ratio", "float64", on_demand=True),)
    asks = replace(contract(stored), features=features, on_demand=(on_demand,))
    rows = asked(1, 1, 1, keys=[1, 2, 3]).append_column("amount", pa.array([5, 5, 5]))
    got = retrieve(asks, rows, at="at", repo=tmp_path)
    assert got.column_names == ["k", "at", "amount", "ratio"]
    assert got["ratio"].to_pylist() == [2.5, None, None]
    with pytest.raises(SchemaError, match="'amount'"):
        retrieve(asks, rows.drop_columns("amount"), at="at", repo=tmp_path)


def _work(*given: Any, **options: Any) -> None:
    pytest.fail("work was started")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"k": [1], "ts": moments(0)},
        "declares 'x' as int64, but source 'rows' has no column 'x'; .* rows.parquet has k, ts",
    ),
    ({"k": [1], "x": [1]}, "has no column 'ts'"),
    ({"ts": moments(0), "x": [1]}, "has no column 'k'"),
    ({"k": [1], "ts": ["yesterday"], "x": [1]}, "'ts' of source 'rows' is string"),
    ({"k": [1], "ts": moments(0), "x": ["a"]}, "'x' of source 'rows' is string, but view 'rows' declares it as int64"),
    ({"k": ["a"], "ts": moments(0), "x": [1]}, "'k' of source 'rows' is string"),
    ({"k": pa.array([], pa.int64()), "ts": moments(), "x": pa.array([], pa.int64())}, "has no rows"),
]


@pytest.mark.parametrize(("columns", "message"), REFUSED)
def test_a_source_that_does_not_fit_says_so(
    write: Write, tmp_path: Path, columns: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is empty, lacks a column or has another type is named before any work starts."""
    write(**columns)
    monkeypatch.setattr("asof.offline.retrieval.view_values", _work)
    with pytest.raises(SourceError, match=message):
        retrieve(contract(view(features={"x": "int64"})), asked(1), at="at", repo=tmp_path)


def test_a_source_that_cannot_be_read_says_so(write: Write, tmp_path: Path) -> None:
    """Missing, truncated, remote, a Delta table declared as Parquet and the reverse: one line that names the place."""
    asks = contract(view(features={"x": "int64"}))
    with pytest.raises(SourceError, match=r"rows.parquet does not exist"):
        retrieve(asks, asked(1), at="at", repo=tmp_path)
    path = write(k=[1] * 1000, ts=moments(*range(1000)), x=list(range(1000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"is no readable Parquet file"):
        retrieve(asks, asked(1), at="at", repo=tmp_path)
    write_deltalake(str(tmp_path / "t"), pa.table({"k": [1], "ts": moments(0), "x": [1]}))
    for place, message in ("t", "is a Delta table"), ("s3://b/t", "not on this machine"):
        with pytest.raises(SourceError, match=message):
            retrieve(contract(view(features={"x": "int64"}, path=place)), asked(1), at="at", repo=tmp_path)
    with pytest.raises(SourceError, match="no Delta table"):
        retrieve(contract(view(features={"x": "int64"}, format="delta")), asked(1), at="at", repo=tmp_path)


def test_a_value_that_is_no_declared_one_is_an_error(write: Write, tmp_path: Path) -> None:
    """Halves in a column declared as whole numbers are reported, not rounded."""
    write(k=[1], ts=moments(0), x=[0.5])
    with pytest.raises(SourceError, match="declared int64"):
        retrieve(contract(view(features={"x": "int64"})), asked(1), at="at", repo=tmp_path)


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"k": [1]}, "no column 'at'"),
    ({"at": moments(1)}, "no column 'k'"),
    ({"k": [1], "at": [5]}, "expected a timestamp"),
    ({"k": [1], "at": ["soon"]}, "ISO 8601"),
    ({"k": [1, 1], "at": pa.array([1, None], pa.timestamp("us"))}, "entity row 1 has no value"),
    ({"k": ["one"], "at": moments(1)}, "expected int64"),
    ({"k": [1.5], "at": moments(1)}, "expected keys as in the source"),
    ({"k": [1], "at": moments(1), "x": [1]}, "also a feature"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_ROWS)
def test_entity_rows_that_do_not_fit_say_so(
    write: Write, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    """Missing columns, wrong types, a row without moment and a name that is a feature's are refused."""
    write(k=[1], ts=moments(0), x=[1])
    with pytest.raises(SchemaError, match=message):
        retrieve(contract(view(features={"x": "int64"})), pa.table(columns), at="at", repo=tmp_path)


@pytest.mark.parametrize(
    "options", [{"memory": "1GB"}, {"memory_limit": "lots"}, {"memory_limit": "0GB"}, {"threads": 0}]
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    """Unknown keys and values that are no sizes or counts do not start an engine."""
    with pytest.raises(SettingsError, match=r"offline_store has"):
        EngineSettings.of(options)


def test_settings_come_from_the_repo(tmp_path: Path) -> None:
    """The engine is limited as the offline_store section of the repo says."""
    (tmp_path / "feature_store.yaml").write_text(
        "project: p\noffline_store:\n  type: asof.offline.DuckDBOfflineStore\n  memory_limit: 300MB\n  threads: 1\n"
    )
    settings = EngineSettings.load(tmp_path)
    assert (settings.memory, settings.threads) == (300_000_000, 1)
    engine = settings.connect(tmp_path)
    assert engine.sql("SELECT current_setting('threads')").fetchall() == [(1,)]
    assert "286" in engine.sql("SELECT current_setting('memory_limit')").fetchall()[0][0]
