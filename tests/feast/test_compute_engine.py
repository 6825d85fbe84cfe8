"""Materialization takes the newest known row of each key, whether or not there is anything to choose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asof.feast.compute_engine
from asof.contract import JoinKey
from asof.feast.compute_engine import Interval, materialize
from asof.offline import retrieve
from asof.online import MemoryStore, Reader, Status, Writer
from tests.online.tables import KEY, SECOND, T, at, contract, plain, rows, windowed

HOUR = 3_600 * SECOND
SHOP, ITEM = JoinKey("shop", "shop", "string"), JoinKey("item", "item", "int64")
Row = tuple[str | None, int | None, int, int]


def written(folder: Path, given: list[Row], keys: tuple[JoinKey, ...], interval: Interval) -> tuple[Reader, list[int]]:
    """A reader after materialization of (shop, item, event second, knowledge second) rows, and the numbers of progress."""
    view = plain(("a", "int64"), keys=keys)
    told: list[int] = []
    table = rows(
        {"shop": [r[0] for r in given], "item": [r[1] for r in given], "a": list(range(len(given)))},
        [T + r[2] * SECOND for r in given], [T + r[3] * SECOND for r in given],
    )  # fmt: skip
    pq.write_table(table, folder / "events")

    class Bar:
        update, close = told.append, lambda *_: None

    def progress(total: int) -> Any:
        told.append(-total)
        return Bar

    store = MemoryStore()
    materialize(view, Writer("tests", store), folder, interval, progress)
    return Reader(contract(view), store), told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.integers(0, 3) | st.none(), st.integers(0, 5), st.integers(0, 5)),
             min_size=1, max_size=12),
    st.sampled_from([(SHOP, ITEM), (ITEM,), ()]),
)  # fmt: skip
def test_newest_known_row_of_each_key(tmp_path: Path, given: list[Row], keys: tuple[JoinKey, ...]) -> None:
    """Rows of any keys, null ones among them, with ties and late ones: each key has the row that the definition says."""
    interval = Interval(T + SECOND, T + 4 * SECOND)
    reader, told = written(tmp_path, given, keys, interval)
    best: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for number, (shop, item, ts, kt) in enumerate(given):
        key = tuple({"shop": shop, "item": item}[k.column] for k in keys)
        if None not in key and 1 <= max(ts, kt) <= 4:
            best[key] = max(best.get(key, (-1, -1, -1)), (ts, kt, number))
    asked = {k.request: [key[i] for key in best] for i, k in enumerate(keys)}
    found = reader.read(asked, at(len(best), T + 4 * SECOND))
    assert found.values[:, 0].tolist() == [number for _, _, number in best.values()]
    assert sum(told) == 0


def test_distinct_keys_need_no_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every key has one row the rows are taken as they are read."""
    monkeypatch.delattr(asof.feast.compute_engine, "_selection")
    reader, told = written(tmp_path, [("x", 1, 1, 1), ("y", 1, 2, 2)], (SHOP, ITEM), Interval(T, T + 9 * SECOND))
    found = reader.read({"shop": ["y", "x"], "item": [1, 1]}, at(2, T + 9 * SECOND))
    assert (found.values[:, 0].tolist(), told) == ([1, 0], [-2, 2])


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "to choose"])
def test_texts_of_every_type(tmp_path: Path, kind: pa.DataType, *, ties: bool) -> None:
    """Keys and values that a file holds as categories, long texts or views are the texts that they say."""
    given = {"shop": ["x", "y", "x"], "item": [1, 1, 1 if ties else 2], "a": ["first", None, "third"]}
    table = rows(given, [T, T, T + SECOND], [T, T, T + SECOND])
    for name in ("shop", "a"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()).cast(kind))
    pq.write_table(table, tmp_path / "events")
    view, store = plain(("a", "string"), keys=(SHOP, ITEM)), MemoryStore()

    materialize(view, Writer("tests", store), tmp_path, Interval(T, T + 9 * SECOND), None)

    asked = {"shop": ["x", "y"], "item": [1, 1]}
    found = Reader(contract(view), store).read(asked, at(2, T + 9 * SECOND))
    assert list(found.column("profile", "a")) == ["third" if ties else "first", None]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "to choose"])
def test_keys_of_folder_names(tmp_path: Path, *, ties: bool) -> None:
    """What only the names of folders tell is of the declared type, as in training: ``item=007`` holds item 7."""
    for item in (7, 8):
        folder = tmp_path / "events" / f"item={item:03}"
        folder.mkdir(parents=True)
        moments = [T, T + SECOND] if ties else [T]
        pq.write_table(rows({"a": [item * 10 + i for i in range(len(moments))]}, moments), folder / "0.parquet")
    view, store = plain(("a", "int64"), keys=(ITEM,)), MemoryStore()

    materialize(view, Writer("tests", store), tmp_path, Interval(T, T + 9 * SECOND), None)

    found = Reader(contract(view), store).read({"item": [8, 7, 9]}, at(3, T + 9 * SECOND))
    assert str(found.values[:, 0].tolist()) == str([80.0 + ties, 70.0 + ties, float("nan")])


def test_whole_numbers_with_gaps_as_keys(tmp_path: Path) -> None:
    """A file that pandas wrote has whole numbers as floats, and NaN where one is missing, in keys and in features: as in training."""
    item, a = (pa.array(v, from_pandas=False) for v in ([7.0, float("nan"), 8.0], [float("nan"), 2.0, 3.0]))
    pq.write_table(rows({"item": item, "a": a, "b": [2**60 + 1, 0, 5]}), tmp_path / "events")
    view, store = plain(("a", "int64"), ("b", "float64"), keys=(ITEM,)), MemoryStore()

    materialize(view, Writer("tests", store), tmp_path, Interval(T, T + 9 * SECOND), None)

    found = Reader(contract(view), store).read({"item": [8, 7]}, at(2, T + 9 * SECOND))
    trained = retrieve(contract(view), pa.table({"item": [8, 7], "at": pa.array(at(2, T + 9 * SECOND))
        .cast(pa.timestamp("us", "UTC"))}), at="at", repo=tmp_path)  # fmt: skip
    assert trained["profile_a"].to_pylist() == [3, None]
    assert trained["profile_b"].to_pylist() == found.values[:, 1].tolist() == [5.0, float(2**60 + 1)]
    assert str(found.values[:, 0].tolist()) == "[3.0, nan]"


@pytest.mark.parametrize("hop", [1, 60 * SECOND])
@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["keys", "no keys"])
def test_of_events_at_the_same_times_the_last_in_the_source_is_last(
    tmp_path: Path, keys: tuple[JoinKey, ...], hop: int
) -> None:
    """Events with equal event and knowledge times stay in source order, across files, as in a dataset."""
    folder = tmp_path / "events"
    folder.mkdir()
    count, owners, random = 20_000, 50, np.random.default_rng(1)
    moments = T + 300 * SECOND * random.integers(0, 4, count)
    table = rows({"key": random.integers(0, owners, count), "x": np.arange(count, dtype=float)}, moments.tolist())
    for i in range(4):
        pq.write_table(table.slice(i * count // 4, count // 4), folder / f"{i}.parquet")
    view, store = replace(windowed(("last", "x", "last")), join_keys=keys, hop=hop), MemoryStore()

    materialize(view, Writer("tests", store), tmp_path, Interval(0, T + HOUR), None)

    asked = {k.request: list(range(owners)) for k in keys}
    found = Reader(contract(view), store).read(asked, at(owners if keys else 1, T + HOUR)).values[:, 0]
    kind = pa.timestamp("us", "UTC")
    questions = pa.table({**asked, "at": pa.array(at(len(found), T + HOUR)).cast(kind)})
    right = retrieve(contract(view), questions, at="at", repo=tmp_path)["spending_last"].to_pylist()
    assert found.tolist() == right
    newest = [np.flatnonzero((moments == moments.max()) & (table["key"].to_numpy() == k))[-1] for k in range(owners)]
    assert right == [float(i) for i in (newest if keys else [max(newest)])]


END = T + 100 * HOUR


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 110), st.integers(0, 30)), min_size=1, max_size=14),
    st.lists(st.integers(0, 120), min_size=1, max_size=6),
    st.sampled_from([1, HOUR]),
    st.sampled_from([0, 20 * HOUR]),
)
def test_a_read_is_what_a_dataset_has_or_says_that_it_is_not_kept(
    tmp_path: Path, given: list[tuple[int, int, int]], hours: list[int], hop: int, ttl: int
) -> None:
    """After a materialization a read at any moment gives the dataset's values or NOT_KEPT, and from its end on never NOT_KEPT."""
    known = [g for g in given if g[1] + g[2] <= 100] or [(1, 0, 0)]
    table = rows(
        {"key": [g[0] for g in known], "x": [float(i) for i in range(len(known))]},
        [T + g[1] * HOUR for g in known], [T + (g[1] + g[2]) * HOUR for g in known],
    )  # fmt: skip
    pq.write_table(table, tmp_path / "events")
    counted = windowed(("n", "x", "count"), ("m", "x", "max"))
    views = (plain(("x", "float64"), ttl=ttl), replace(counted, hop=hop, ttl=ttl))
    store = MemoryStore()
    for view in views:
        materialize(view, Writer("tests", store), tmp_path, Interval(0, END), None)
    moments = np.array([T + h * HOUR for h in hours for _ in range(4)])
    keys = {"key": [k for _ in hours for k in range(1, 5)]}
    found = Reader(contract(*views), store).read(keys, moments)
    asked = pa.table({**keys, "at": pa.array(moments).cast(pa.timestamp("us", "UTC"))})
    right = retrieve(contract(*views), asked, at="at", repo=tmp_path, knowledge=True)
    for column, (view, name) in enumerate(found.columns):
        for row, wanted in enumerate(right[f"{view}_{name}"].to_pylist()):
            if found.statuses[row, column] == Status.NOT_KEPT:
                assert moments[row] < END
                assert np.isnan(found.values[row, column])
            else:
                assert str(found.values[row, column]) == str(float("nan") if wanted is None else float(wanted))


def test_before_what_was_materialized(tmp_path: Path) -> None:
    """A replaced row, and windows that are not stored any more, say NOT_KEPT: not "not found, 0"."""
    table = rows({"key": [1, 1, 2], "x": [1.0, 2.0, 3.0]}, [T, T + 99 * HOUR, T])
    pq.write_table(table, tmp_path / "events")
    views, store = (plain(("x", "float64")), windowed(("n", "x", "count"))), MemoryStore()
    writer = Writer("tests", store)
    for view in views:
        materialize(view, writer, tmp_path, Interval(0, END), None)
    reader = Reader(contract(*views), store)
    early = reader.read({"key": [1, 2]}, at(2, T + HOUR))
    assert early.statuses.tolist() == [[Status.NOT_KEPT] * 2, [Status.PRESENT, Status.NOT_KEPT]]
    assert np.isnan(early.values[:, 1]).all()
    assert reader.read({"key": [1, 2]}, at(2, END)).statuses.tolist() == [[0, 0], [0, 0]]
    writer.drop("spending")
    assert reader.read({"key": [1]}, at(1, T + HOUR)).statuses.tolist() == [[Status.NOT_KEPT, Status.NOT_FOUND]]
