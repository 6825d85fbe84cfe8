"""The prediction log's files: what is written is what is read, whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof import prediction_log
from asof.contract import Contract
from asof.prediction_log import Entry
from tests.serving.contracts import machines

HOUR = 3_600_000_000
START = 1_533_686_400_000_000  # 2018-08-08T00:00:00Z


def entry(contract: Contract, at: list[int], request_id: str = "r") -> Entry:
    """An entry of n rows at the given moments."""
    rows, width = len(at), len(contract.features)
    vector = np.tile(np.arange(width, dtype=np.float64), (rows, 1))
    vector[:, contract.feature_names.index("load_mean_1d")] = np.nan
    vector[:, contract.feature_names.index("open")] = 1.0
    return Entry(
        request_id=request_id, served_at=START + 5, at=np.array(at, dtype=np.int64), as_of=np.array(at, dtype=np.int64),
        keys={"machine_id": [7] * rows, "site": [None] * rows},
        request={"load": [1.5] * rows, "read_at": [datetime(2018, 8, 8, tzinfo=UTC)] * rows},
        vector=vector, objects={"grade": ["A"] * rows}, statuses=np.zeros((rows, width), dtype=np.uint8),
        event_times=np.array([[START - 1, -1]] * rows, dtype=np.int64),
        outputs=np.full((rows, 1), 0.25),
    )  # fmt: skip


def table(contract: Contract, *entries: Entry) -> pa.Table:
    """The entries as rows of a log."""
    return prediction_log.to_table(contract, "m", "v1", entries, threshold=0.5)


def scanned(folder: Path, start: int, end: int) -> list[list[int]]:
    """The moments of the rows in ``[start, end)``, file by file."""
    parts = prediction_log.scan(folder, "m", start, end, ["at"])
    return [part["at"].cast(pa.int64()).to_pylist() for part in parts]


def test_rows_have_the_types_of_the_contract(contract: Contract) -> None:
    """A table made from entries has exactly the schema that the contract says."""
    assert table(contract, entry(contract, [START])).schema == prediction_log.schema(contract)


def test_values_survive_the_way_to_disk(contract: Contract, tmp_path: Path) -> None:
    """What is scanned is what was written, missing values and their types included."""
    written = table(contract, entry(contract, [START, START + 1], "a"), entry(contract, [START + 2], "b"))
    prediction_log.write(tmp_path, "m", written)
    found = pa.concat_tables(prediction_log.scan(tmp_path, "m", START, START + HOUR))
    assert found.equals(written)
    assert found["row"].to_pylist() == [0, 1, 0]
    assert found["feature.load_mean_1d"].null_count == 3
    assert found["event_time.site_state"].null_count == 3
    assert found["feature.open"].to_pylist() == [True] * 3


def test_no_entries_make_no_rows(contract: Contract) -> None:
    """An empty flush is an empty table of the same schema."""
    empty = table(contract)
    assert (empty.num_rows, empty.schema) == (0, prediction_log.schema(contract))


@given(at=st.lists(st.integers(START, START + 5 * HOUR), max_size=12), cut=st.integers(START, START + 5 * HOUR))
def test_a_scan_reads_exactly_its_span(at: list[int], cut: int) -> None:
    """Scanning [a, b) and [b, c) finds every row of [a, c) once, whatever hours they fall in."""
    contract = machines()
    with tempfile.TemporaryDirectory() as folder:
        if at:
            prediction_log.write(Path(folder), "m", table(contract, entry(contract, at)))
        spans = [(START, cut), (cut, START + 5 * HOUR + 1)]
        found = [[t for part in scanned(Path(folder), a, b) for t in part] for a, b in spans]
    assert sorted(found[0]) == sorted(t for t in at if t < cut)
    assert sorted(found[1]) == sorted(t for t in at if t >= cut)


def test_files_lie_by_hour_of_the_rows_moment(contract: Contract, tmp_path: Path) -> None:
    """A row is filed under the hour of its own moment, not of the server's clock."""
    paths = prediction_log.write(tmp_path, "m", table(contract, entry(contract, [START, START + HOUR])))
    assert [p.parent.name for p in paths] == ["hour=2018-08-08T00", "hour=2018-08-08T01"]


def test_damaged_and_foreign_files_are_reported_and_skipped(contract: Contract, tmp_path: Path) -> None:
    """A truncated file and a foreign one cost a line each, and no other row."""
    (path,) = prediction_log.write(tmp_path, "m", table(contract, entry(contract, [START])))
    (path.parent / "part-cut.parquet").write_bytes(path.read_bytes()[:-20])
    pq.write_table(pa.table({"other": [1]}), path.parent / "part-foreign.parquet")
    (path.parent / "notes.txt").write_text("hello")
    lines: list[str] = []
    rows = sum(t.num_rows for t in prediction_log.scan(tmp_path, "m", START, START + 1, report=lines.append))
    assert rows == 1
    names = sorted(Path(line.split()[0]).name for line in lines)
    assert names == ["notes.txt", "part-cut.parquet", "part-foreign.parquet"]


def test_a_column_that_a_file_lacks_is_reported(contract: Contract, tmp_path: Path) -> None:
    """Asking for a feature that an older model did not have names the file and the column."""
    prediction_log.write(tmp_path, "m", table(contract, entry(contract, [START])))
    lines: list[str] = []
    assert not list(prediction_log.scan(tmp_path, "m", START, START + 1, ["feature.new"], lines.append))
    assert "feature.new" in lines[0]


def test_an_unwritten_log_is_empty(tmp_path: Path) -> None:
    """A model that never served has no rows and no error."""
    assert not list(prediction_log.scan(tmp_path, "m", 0, START))


def test_a_failed_write_leaves_nothing(contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the rename fails, neither the file nor its temporary form stays."""

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        prediction_log.write(tmp_path, "m", table(contract, entry(contract, [START])))
    assert not [p for p in (tmp_path / "m").rglob("*") if p.is_file()]


def test_leftovers_of_killed_writers_go_once_they_are_old(tmp_path: Path) -> None:
    """An hour-old temporary file is removed, a young one may belong to a living writer."""
    folder = tmp_path / "m" / "hour=2018-08-08T00"
    folder.mkdir(parents=True)
    for name, age in (("old", 7_200), ("young", 0)):
        (folder / f".writing-{name}").touch()
        os.utime(folder / f".writing-{name}", (time.time() - age,) * 2)
    assert prediction_log.remove_leftovers(tmp_path, "m") == 1
    assert [p.name for p in folder.iterdir()] == [".writing-young"]
