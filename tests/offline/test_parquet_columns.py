"""Whole columns read without an engine: the same rows, types and skipped row groups, whoever decodes them."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof.contract import Source
from asof.errors import SourceError
from asof.offline.parquet_columns import ParquetRows, TimeBounds
from asof.offline.sources import SourceFiles, open_files

ROWS, GROUP = 90, 10
START = 1_700_000_000_000_000
COLUMNS = {
    **{str(t): pa.array([None, *range(1, ROWS)], t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): pa.array([*range(1, ROWS), None], t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{str(t): pa.array([float("nan"), None, *range(2, ROWS)], t) for t in (pa.float32(), pa.float64())},
    "bool": pa.array([None, *(i % 3 == 0 for i in range(1, ROWS))]),
    "naive": pa.array([None, *range(1, ROWS)], pa.timestamp("us")),
    "moment": pa.array(range(START, START + ROWS), pa.timestamp("us", "UTC")),
    "abroad": pa.array(range(ROWS), pa.timestamp("us", "Asia/Tokyo")),
    "fine": pa.array(range(ROWS), pa.timestamp("ns")),
    "date": pa.array([dt.date(2024, 1, 1 + i % 28) for i in range(ROWS)]),
    "text": pa.array([None, *(f"row {i}" for i in range(1, ROWS))]),
    "list": pa.array([None, *([i] * (i % 3) for i in range(1, ROWS))]),
    "decimal": pa.array([decimal.Decimal(i) for i in range(ROWS)], pa.decimal128(20, 2)),
}
NAMES = tuple(n for n in COLUMNS if n != "list")
"""Columns of one leaf each; with a list among them, statistics are not found by position and no row group is skipped."""


@pytest.fixture
def files(tmp_path: Path) -> SourceFiles:
    """A source of two files, of nine row groups each."""
    for number in range(2):
        pq.write_table(pa.table(COLUMNS).select(NAMES), tmp_path / f"{number}.parquet", row_group_size=GROUP)
    return _files(tmp_path)


def _files(folder: Path) -> SourceFiles:
    return open_files(Source("s", str(folder), "parquet", "moment", None), folder)


def read(files: SourceFiles, names: Sequence[str], reach: TimeBounds) -> pa.Table:
    """Some columns of the rows in reach."""
    rows = ParquetRows.of(files, names, reach)
    assert rows is not None
    return rows.read(names)


def test_every_type_is_read_as_it_is_stored(tmp_path: Path) -> None:
    """Columns of every type come in the order asked for, with their types, nulls and order of rows."""
    table = pa.table(COLUMNS)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=GROUP)
    names = list(reversed(COLUMNS))

    found = read(_files(tmp_path), names, TimeBounds("moment", None, None))

    assert found.schema.equals(table.select(names).schema)
    assert str(found.to_pydict()) == str(table.select(names).to_pydict())


@pytest.mark.parametrize(
    ("first", "last", "rows"),
    [(None, None, ROWS), (25, 44, 30), (None, 9, 10), (89, None, 10), (ROWS, None, 0), (None, -1, 0)],
)
def test_row_groups_out_of_reach_are_skipped(
    files: SourceFiles, first: int | None, last: int | None, rows: int
) -> None:
    """Of each file the row groups that overlap the reach are read, whole and in order."""
    reach = TimeBounds("moment", *(None if bound is None else START + bound for bound in (first, last)))

    found = read(files, NAMES, reach)

    assert found.num_rows == 2 * rows
    start = (first or 0) // GROUP * GROUP
    wanted = pa.table(COLUMNS).select(NAMES).slice(start, rows)
    assert found.to_pydict()["moment"] == wanted["moment"].to_pylist() * 2
    assert found.to_pydict()["text"] == wanted["text"].to_pylist() * 2


def test_row_groups_in_reach_need_not_lie_together(tmp_path: Path) -> None:
    """Rows that are in no order of time are skipped as well, and what remains stays in source order."""
    moments = [*range(20), *range(100, 120), *range(10, 30)]
    table = pa.table({"moment": pa.array(moments, pa.timestamp("us", "UTC")), "n": range(60), "s": ["x"] * 60})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=GROUP)

    found = read(_files(tmp_path), ["n", "s", "moment"], TimeBounds("moment", 10, 19))

    assert found["n"].to_pylist() == [*range(10, 20), *range(40, 50)]


def test_what_polars_cannot_read_is_read_by_arrow(files: SourceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which library decodes a column changes nothing about it."""
    reach = TimeBounds("moment", START + 25, START + 44)
    wanted = read(files, NAMES, reach)
    monkeypatch.setattr(ParquetRows, "_numbers", lambda *_: None)

    found = read(files, NAMES, reach)

    assert found.schema.equals(wanted.schema)
    assert str(found.to_pydict()) == str(wanted.to_pydict())


def test_a_damaged_file_is_named(files: SourceFiles) -> None:
    """A file whose pages are damaged is an error of its source, not of a library."""
    path = Path(files.paths[0])
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 4) + content[4 + len(content) // 4 :])

    with pytest.raises(SourceError, match=r"'s'.*0\.parquet cannot be read"):
        read(files, ["int64", "double"], TimeBounds("moment", None, None))


@pytest.mark.parametrize("bounds", [(None, None), (START + 25, START + 44)])
def test_numbers_come_in_one_piece_on_demand(files: SourceFiles, bounds: tuple[int | None, int | None]) -> None:
    """Whole files and parts of them are joined while they are read, where that was asked for, and hold the same rows."""
    names = [n for n in NAMES if n in {"int64", "double", "moment", "bool"}]
    rows = ParquetRows.of(files, names, TimeBounds("moment", *bounds))
    assert rows is not None

    found = rows.read(names, whole=True)

    assert {c.num_chunks for c in found.columns} == {1}
    assert str(found.to_pydict()) == str(rows.read(names).to_pydict())


def test_columns_are_read_in_blocks(files: SourceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few columns are read at a time, together they are the columns asked for."""
    reach = TimeBounds("moment", START + 25, START + 44)
    wanted = read(files, NAMES, reach)
    rows = ParquetRows.of(files, NAMES, reach)
    assert rows is not None
    monkeypatch.setattr("asof.offline.parquet_columns.AT_ONCE", 3 * 8 * rows.count)

    blocks = list(rows.blocks(NAMES))

    assert [len(b.column_names) for b in blocks[:-1]] == [3] * (len(NAMES) // 3 - (len(NAMES) % 3 == 0))
    for name, block in ((n, b) for b in blocks for n in b.column_names):
        assert str(block[name].to_pylist()) == str(wanted[name].to_pylist())


def test_a_file_that_is_replaced_is_noticed(files: SourceFiles) -> None:
    """Columns that are read later are of the same file, or an error says that they are not."""
    rows = ParquetRows.of(files, NAMES, TimeBounds("moment", None, None))
    assert rows is not None
    path = Path(files.paths[1])
    other = path.with_name("other")
    pq.write_table(pa.table(COLUMNS).select(NAMES), other)
    os.replace(other, path)

    with pytest.raises(SourceError, match=r"1\.parquet was replaced while it was read"):
        rows.read(["int64"])
