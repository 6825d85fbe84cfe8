"""What is read of a source, and by whom: rows of other keys are left out where that pays, DuckDB is started where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof.contract import Aggregation, JoinKey
from asof.offline import EngineSettings, retrieve
from asof.offline.columns import joined
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
