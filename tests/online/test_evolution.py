"""Views change while rows written before, and readers made before, live on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa

from asof.online import Reader, Status, Writer
from tests.online.tables import SECOND, T, at, contract, plain, rows, windowed

OLD = plain(("a", "int64"), ("b", "string"), ("c", "float64"))
OLD_ROWS = {"a": [7], "b": ["x"], "c": [0.5]}


def read(store: Any, *views: Any, key: int = 1) -> Any:
    return Reader(contract(*views), store).read({"key": [key]}, at(1))


def test_added_features_are_missing_in_old_rows(store: Any) -> None:
    """A feature that was added later is NULL in rows written before, the others keep their values, in any order."""
    Writer("tests", store).write(OLD, rows({"key": [1], **OLD_ROWS}))
    new = plain(("c", "float64"), ("new", "float64"), ("b", "string"), ("a", "int64"), ("text", "string"))
    found = read(store, new)
    assert [found.column("profile", n)[0] for n in ("c", "b", "a", "text")] == [0.5, "x", 7.0, None]
    assert np.isnan(found.column("profile", "new")[0])
    assert found.statuses.tolist() == [[Status.PRESENT, Status.NULL, Status.PRESENT, Status.PRESENT, Status.NULL]]


def test_dropped_features_do_not_disturb(store: Any) -> None:
    """Rows written before a feature was dropped still give the features that remain."""
    Writer("tests", store).write(OLD, rows({"key": [1], **OLD_ROWS}))
    assert read(store, plain(("c", "float64"))).values.tolist() == [[0.5]]


def test_retyped_numbers_convert_and_others_are_missing(store: Any) -> None:
    """A number stored as another type of number is read as what it is; text does not become a number, nor half an integer."""
    Writer("tests", store).write(OLD, rows({"key": [1], **OLD_ROWS}))
    found = read(store, plain(("a", "float64"), ("b", "int64"), ("c", "int64")))
    assert found.values[0, 0] == 7.0
    assert np.isnan(found.values[0, 1:]).all()
    assert found.statuses.tolist() == [[Status.PRESENT, Status.NULL, Status.NULL]]


def test_rows_of_many_layouts_in_one_read(store: Any) -> None:
    """One read may meet rows of several layouts, keys without a row, and the same key twice."""
    writer, new = Writer("tests", store), plain(("a", "int64"), ("d", "float64"))
    writer.write(OLD, rows({"key": [1, 3], "a": [1, 3], "b": ["x", "y"], "c": [0.5, 0.5]}))
    writer.write(new, rows({"key": [2], "a": [2], "d": [9.0]}))
    found = Reader(contract(new), store).read({"key": [2, 9, 1, 3, 2]}, at(5))
    assert found.values[:, 0].tolist()[:1] + found.values[2:, 0].tolist() == [2.0, 1.0, 3.0, 2.0]
    assert found.statuses[:, 1].tolist() == [Status.PRESENT, Status.NOT_FOUND, Status.NULL, Status.NULL, Status.PRESENT]


def test_windows_over_a_new_column_keep_old_events(store: Any) -> None:
    """Events written before a view aggregated a further column still count, once, also when delivered again with it."""
    old, new = windowed(("n", "x", "count")), windowed(("n", "x", "count"), ("s", "y", "sum"))
    writer = Writer("tests", store)
    table = rows({"key": [1, 1, 1], "x": [1.0, 2.0, None], "y": [10.0, 20.0, 30.0]})
    writer.write(old, table)
    assert writer.write(new, table) == 0
    later = rows({"key": [1], "x": [5.0], "y": [40.0]}).set_column(0, "id", pa.array([77]))
    assert writer.write(new, later) == 1
    found = read(store, new)
    assert found.values.tolist() == [[3.0, 40.0]]


def test_old_readers_see_events_of_new_writers(store: Any) -> None:
    """A reader made before a view changed counts events that a writer of the changed view adds, from its next read on."""
    old, new = windowed(("n", "x", "count")), windowed(("n", "x", "count"), ("s", "y", "sum"))
    writer, reader = Writer("tests", store), Reader(contract(old), store)
    writer.write(old, rows({"key": [1], "x": [1.0]}))
    assert reader.read({"key": [1]}, at(1)).values.tolist() == [[1.0]]
    Writer("tests", store).write(new, rows({"key": [1], "x": [1.0], "y": [1.0]}).set_column(0, "id", pa.array([5])))
    assert reader.read({"key": [1]}, at(1)).values.tolist() == [[2.0]]


def test_check_names_what_differs(store: Any) -> None:
    """The reader's check says which feature differs from what is applied, and nothing where all fits."""
    used = plain(("a", "int64"), ("b", "string"), ttl=5)
    reader, writer = Reader(contract(used, windowed(("n", "x", "count"))), store), Writer("tests", store)
    assert reader.check() == [
        "view profile: is not applied; run `asof apply`",
        "view spending: is not applied; run `asof apply`",
    ]
    writer.register([used, windowed(("n", "x", "count"))])
    assert reader.check() == []
    writer.register([plain(("a", "string"), ("z", "string"), ttl=6), windowed(("n", "x", "sum"))])
    said = reader.check()
    assert "feature profile:a: was int64, is string" in said
    assert "feature profile:b: is gone" in said
    assert "view profile: ttl was 5 microseconds, is 6 microseconds" in said
    assert any("feature spending:n: window was count(x) over" in line for line in said)
    writer.register([plain(("new", "float64"), ("b", "string"), ("a", "int64"), ttl=5), windowed(("n", "x", "count"))])
    assert reader.check() == []


def test_evolution_under_load(store: Any) -> None:
    """While readers run, features are added and dropped and rows written under old and new layouts: no error, no wrong value."""
    shapes = [
        plain(("a", "int64"), ("b", "float64")), plain(("a", "int64")), plain(("c", "string"), ("a", "int64"), ("b", "float64")),
        plain(("b", "float64"), ("a", "int64"), ("d", "bool")),
    ]  # fmt: skip
    wrong: list[Any] = []
    done = threading.Event()

    def watch(view: Any) -> None:
        reader = Reader(contract(view), store)
        while not done.is_set():
            try:
                found = reader.read({"key": list(range(20))}, at(20, T + 10**9))
                a = found.column("profile", "a")
                wrong.extend(v for v in a if not np.isnan(v) and v % 10 != 7)
            except Exception as error:  # noqa: BLE001 - any error is what this test looks for
                wrong.append(error)

    watchers = [threading.Thread(target=watch, args=(shapes[i],)) for i in (0, 2)]
    for thread in watchers:
        thread.start()
    for step in range(40):
        values = {"a": [10 * step + 7] * 20, "b": [0.5] * 20, "c": ["x"] * 20, "d": [True] * 20}
        Writer("tests", store).write(shapes[step % 4], rows({"key": list(range(20)), **values}, T + step * SECOND))
    done.set()
    for thread in watchers:
        thread.join()
    assert wrong == []
