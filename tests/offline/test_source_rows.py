"""What is read of a source, and by whom: rows of other keys are left out where that pays, DuckDB is started where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from asof.contract import Aggregation, JoinKey
from asof.errors import SourceError
from asof.offline import EngineSettings, retrieve
from asof.offline.arrow_columns import joined
from tests.offline.conftest import DAY, contract, moments, view

Write = Callable[..., Path]
STORED, KEYS = 4000, 100
AMONG_ALL = [i % KEYS for i in range(500)]
AMONG_FEW = [i % 3 for i in range(500)]
"""Questions to ``STORED`` rows: few enough to look whether leaving out other keys pays, too many to be sure that it does."""


def rows(keys: list[int], kind: pa.DataType) -> pa.Table:
    """Entity rows at days between the source's."""
    return pa.table({"k": pa.array(keys).cast(kind), "at": moments(*(i % 29 + 0.5 for i in range(len(keys))))})


@pytest.mark.parametrize("kind", [pa.int64(), pa.int16(), pa.string(), pa.large_string()])
@pytest.mark.parametrize(("keys", "engines"), [(AMONG_ALL, 0), (AMONG_FEW, 1)])
def test_an_engine_is_started_where_other_keys_are_left_out(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, keys: list[int], engines: int
) -> None:
    """Where most rows are of a key that is asked for, they are read as they are, without DuckDB; the values are the same."""
    stored = [i * 7 % KEYS for i in range(STORED)]
    write(k=pa.array(stored).cast(kind), ts=moments(*(i % 31 for i in range(STORED))), x=list(range(STORED)))
    dtype = "string" if "string" in str(kind) else "int64"
    asks = contract(view(features={"x": "int64"}, keys=[JoinKey("k", "k", dtype)]))
    wanted = retrieve(asks, rows(keys * 10, kind), at="at", repo=tmp_path)["x"]
    connect, started = EngineSettings.connect, []
    monkeypatch.setattr(EngineSettings, "connect", lambda self, repo: started.append(repo) or connect(self, repo))

    found = retrieve(asks, rows(keys, kind), at="at", repo=tmp_path)["x"]

    assert found.to_pylist() == wanted.to_pylist()[: len(keys)]
    assert len(started) == engines


def test_keys_that_the_first_file_does_not_tell(tmp_path: Path) -> None:
    """A key that only the names of folders tell is filtered by, too."""
    for key in range(20):
        (tmp_path / "data" / f"k={key}").mkdir(parents=True)
        table = pa.table({"ts": moments(*range(30)), "x": [key * 100 + i for i in range(30)]})
        pq.write_table(table, tmp_path / "data" / f"k={key}" / "0.parquet")
    asks = contract(view(features={"x": "int64"}, path="data"))

    found = retrieve(asks, rows([3, 7, 99] * 30, pa.int64()), at="at", repo=tmp_path)["x"]

    assert found.to_pylist() == [None if k == 99 else k * 100 + i % 29 for i, k in enumerate([3, 7, 99] * 30)]


def test_moments_as_keys_of_folder_names(tmp_path: Path) -> None:
    """Delta writes a zoned moment into a folder's name without its zone."""
    k = moments(*(i + 0.125 for i in range(20)))
    table = pa.table({"k": k.take(pa.array([i % 20 for i in range(60)])), "ts": moments(*[0] * 60), "x": range(60)})
    write_deltalake(tmp_path / "data", table, partition_by=["k"])
    asks = contract(
        view(features={"x": "int64"}, keys=[JoinKey("k", "k", "unixtimestamp")], path="data", format="delta")
    )
    for asked in (k[3:5], k):
        rows = pa.table({"k": asked, "at": moments(*[1] * len(asked))})
        found = retrieve(asks, rows, at="at", repo=tmp_path)["x"].to_pylist()
        assert found == [i for i in range(60) if k[i % 20] in asked][-len(asked) :]


@pytest.mark.parametrize("times", [1, 20, 400])
def test_integers_that_are_too_large_for_the_other_files(tmp_path: Path, times: int) -> None:
    """Files whose keys are of different integers have the keys that they have, however many rows ask."""
    (tmp_path / "data").mkdir()
    for number, keys in enumerate([pa.array([2**63 + i for i in range(200)], pa.uint64()), pa.array(range(200))]):
        table = pa.table({"k": keys, "ts": moments(*[0] * 200), "x": range(number * 1000, number * 1000 + 200)})
        pq.write_table(table, tmp_path / "data" / f"{number}.parquet")
    asks = contract(view(features={"x": "int64"}, path="data"))

    found = retrieve(asks, rows([20, 39, 999] * times, pa.int64()), at="at", repo=tmp_path)["x"]

    assert found.to_pylist() == [1020, 1039, None] * times


@pytest.mark.parametrize("times", [1, 400])
def test_a_source_may_call_its_columns_as_duckdb_does(write: Write, tmp_path: Path, times: int) -> None:
    """``file_index`` and ``file_row_number`` are names like any other."""
    write(k=[i % 20 for i in range(400)], ts=moments(*[0] * 400), file_index=range(400), file_row_number=range(400))
    asks = contract(view(features={"file_index": "int64", "file_row_number": "int64"}))

    found = retrieve(asks, rows([3, 7, 99] * times, pa.int64()), at="at", repo=tmp_path)

    assert found["file_index"].to_pylist() == found["file_row_number"].to_pylist() == [383, 387, None] * times


@pytest.mark.parametrize("times", [1, 400])
def test_keys_that_are_not_there(write: Write, tmp_path: Path, times: int) -> None:
    """NaN, as pandas writes a missing whole number, is no key, neither in a source nor in entity rows; categories are what they say."""
    stored = [float("nan") if i % 4 == 0 else float(i % 20) for i in range(400)]
    write(k=pa.array(stored, pa.float64(), from_pandas=False), ts=moments(*[0] * 400), x=range(400))
    asks = contract(view(features={"x": "int64"}))
    floats = pa.array([3.0, float("nan"), 8.0] * times, from_pandas=False)
    whole = pa.array([3, None, 8] * times, pa.int64()).dictionary_encode()

    for keys in (floats, whole):
        asked = pa.table({"k": keys, "at": moments(*[1] * len(keys))})
        assert retrieve(asks, asked, at="at", repo=tmp_path)["x"].to_pylist() == [383, None, None] * times


@pytest.mark.parametrize("times", [1, 400])
def test_lists_of_views(write: Write, tmp_path: Path, times: int) -> None:
    """Arrow cannot take from views, also inside lists; the values are there however many rows ask."""
    words = pa.array([["a", None, str(i)] for i in range(400)], pa.list_(pa.string_view()))
    write(k=[i % 20 for i in range(400)], ts=moments(*[0] * 400), words=words)
    asks = contract(view(features={"words": "array(string)"}))

    found = retrieve(asks, rows([3, 99] * times, pa.int64()), at="at", repo=tmp_path)["words"]

    assert found.to_pylist() == [["a", None, "383"], None] * times


def test_types_that_arrow_does_not_know(tmp_path: Path) -> None:
    """A file that polars wrote and Arrow cannot read is named."""
    pl.DataFrame({"k": pl.Series([1], dtype=pl.Int128)}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match=r"'rows': .*is no readable Parquet file"):
        retrieve(contract(view(features={"x": "int64"})), rows([1], pa.int64()), at="at", repo=tmp_path)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_windows_over_texts_of_every_type(write: Write, tmp_path: Path, kind: pa.DataType) -> None:
    """Categories, long texts and views are texts to a window."""
    write(k=[1, 1, 1], ts=moments(0, 1, 2), word=pa.array(["b", "a", "b"]).cast(kind))
    windows = [Aggregation("words", "word", "count_distinct", 9 * DAY), Aggregation("newest", "word", "last", 9 * DAY)]
    asks = contract(view(features={"words": "int64", "newest": "string"}, windows=windows))

    found = retrieve(asks, pa.table({"k": [1, 1], "at": moments(1, 3)}), at="at", repo=tmp_path)

    assert (found["words"].to_pylist(), found["newest"].to_pylist()) == ([2, 2], ["a", "b"])


def test_a_single_piece_is_not_copied() -> None:
    """One chunk is that array; several become one of the same values."""
    array = pa.array([1, None, 3])

    assert joined(pa.chunked_array([array])).buffers()[1].address == array.buffers()[1].address
    assert joined(pa.chunked_array([array, array])).to_pylist() == [1, None, 3] * 2
    assert joined(pa.chunked_array([], pa.int64())).to_pylist() == []
