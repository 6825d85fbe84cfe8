"""The files of a source are found and read whatever characters their path has, and no other files are."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from asof.contract import Source
from asof.errors import SourceError
from asof.offline.sources import open_files
from asof.offline.vacuum import clean

NAMES = ("a b", "é", "#1", "100%", "it's", '"q"', "a&b", "a*b", "a?b", "a;b", "a:b", "{a,b}")


def values(source: Source, folder: Path) -> list[int]:
    """Column ``x`` of a source, read by DuckDB."""
    return sorted(x for (x,) in duckdb.sql(f"SELECT x FROM {open_files(source, folder).scan}").fetchall())


@pytest.mark.parametrize("name", NAMES)
def test_delta_tables(tmp_path: Path, name: str) -> None:
    """The files of a Delta table are read, and cleaned of what was replaced, in a folder of any name; so are values in partitions."""
    path = tmp_path / name / "t"
    source = Source("s", str(path), "delta", "ts", None)
    for first in (1, 3):
        rows = pa.table({"x": [first, first + 1], "city": [name, "New York"]})
        write_deltalake(path, rows, mode="overwrite", partition_by=["city"])

    assert all(Path(file).is_file() for file in open_files(source, tmp_path).paths)
    assert values(source, tmp_path) == [3, 4]
    assert len(clean(path, (), retention_hours=0)) == 2
    assert values(source, tmp_path) == [3, 4]


@pytest.mark.parametrize("name", [*NAMES, "a[x]", "%20", "a|b"])
def test_parquet_files(tmp_path: Path, name: str) -> None:
    """A name with the signs of a pattern is a name: files of other folders that it would match are not read."""
    for number, folder in enumerate((name, "a--b", "aXb", "ax")):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"x": [number]}), tmp_path / folder / "f.parquet")

    assert values(Source("s", f"{name}/f.parquet", "parquet", "ts", None), tmp_path) == [0]


def moved(folder: Path, name: str) -> Source:
    """A Delta table that was moved to where none can be made."""
    write_deltalake(folder / "t", pa.table({"x": [1]}))
    (folder / name).mkdir()
    (folder / "t").rename(folder / name / "t")
    return Source("s", f"{name}/t", "delta", "ts", None)


@pytest.mark.parametrize("name", ["a[x]", "a|b", "a^b"])
def test_a_table_that_can_only_be_read(tmp_path: Path, name: str) -> None:
    """A table in a folder in which none can be made is read."""
    assert values(moved(tmp_path, name), tmp_path) == [1]


def test_a_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    """A folder that the Delta library takes for another one is named with the characters."""
    with pytest.raises(SourceError, match="a Delta table cannot lie below a folder with %20 in its name"):
        open_files(moved(tmp_path, "%20"), tmp_path)
