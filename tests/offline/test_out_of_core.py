"""Datasets as files: larger than the memory limit, with their provenance, made again byte for byte; and cleaning."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from asof import bundle
from asof.contract import Aggregation, Contract, JoinKey
from asof.errors import SettingsError, SourceError, TableError
from asof.offline import EngineSettings, Provenance, clean, out_of_core, rebuild, retrieve, retrieve_to, versions_in_use
from asof.offline.provenance import files_digest
from asof.offline.sources import open_files
from tests.offline.conftest import DAY, contract, view


def events(rows: int, seed: int = 0) -> pa.Table:
    """Rows of 200 keys (and of a second, text, key) over a year, some late."""
    rng = np.random.default_rng(seed)
    ts = rng.integers(0, 365 * DAY, rows)
    late = np.where(rng.random(rows) < 0.1, rng.integers(0, 9 * DAY, rows), 0)
    base = 1_577_836_800_000_000
    return pa.table(
        {
            "k": rng.integers(0, 200, rows),
            "name": pa.array([f"n{i % 7}" for i in range(rows)]),
            "ts": pa.array(ts + base).cast(pa.timestamp("us", "UTC")),
            "kt": pa.array(ts + late + base).cast(pa.timestamp("us", "UTC")),
            "x": rng.random(rows),
            "tags": pa.array([[i % 3] * (i % 2) for i in range(rows)], pa.list_(pa.int64())),
        }
    )


def questions(rows: int) -> pa.Table:
    """Rows that ask, some for no one, with columns of several kinds."""
    table = events(rows, seed=1)
    keys = pa.array(table["k"].to_pylist(), mask=np.arange(rows) % 50 == 0)
    return pa.table(
        {"at": table["ts"], "k": keys, "name": table["name"], "note": pa.array([None, "b"] * (rows // 2), pa.string())}
    )


@pytest.fixture
def asks(tmp_path: Path) -> Contract:
    """A plain view, one with two keys, a windowed one and one without keys, on a Delta table."""
    write_deltalake(str(tmp_path / "rows"), events(20_000))
    table: dict[str, Any] = {"path": "rows", "format": "delta", "created": "kt"}
    windows = [Aggregation("sum7", "x", "sum", 7 * DAY), Aggregation("last30", "x", "last", 30 * DAY)]
    keys = [JoinKey("k", "k", "int64"), JoinKey("name", "name", "string")]
    return contract(
        view("plain", features={"x": "float64", "tags": "array(int64)"}, ttl=20 * DAY, **table),
        view("both", features={"kt": "unixtimestamp"}, keys=keys, **table),
        view("spans", features={"sum7": "float64", "last30": "float64"}, windows=windows, **table),
        view("any", features={"name2": "float64"}, keys=(), field_mapping={"x": "name2"}, **table),
    )


def test_the_file_does_not_depend_on_the_memory_limit(
    asks: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece or in many sets of keys, from a table or from a file: the same bytes, and the rows that retrieve gives."""
    monkeypatch.setattr(out_of_core, "GROUP_ROWS", 1000)
    rows = questions(5_500)
    pq.write_table(rows, tmp_path / "asked.parquet")
    retrieve_to(tmp_path / "whole.parquet", asks, rows, at="at", repo=tmp_path)
    monkeypatch.setattr(out_of_core, "_WORKING_BYTES", 5_000)
    limited = EngineSettings(memory_limit="100MB", threads=1, temp_directory="spill")
    retrieve_to(tmp_path / "parts.parquet", asks, tmp_path / "asked.parquet", at="at", repo=tmp_path, settings=limited)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "parts.parquet").read_bytes()
    written = pq.read_table(tmp_path / "whole.parquet").replace_schema_metadata(None)
    assert written.equals(retrieve(asks, rows, at="at", repo=tmp_path))
    assert pq.read_metadata(tmp_path / "whole.parquet").num_row_groups == 6
    assert not list((tmp_path / "spill").iterdir())


def test_keys_of_folder_names_belong_to_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ``k=007`` holds the rows of key 7, also where keys are answered set by set."""
    for key in range(12):
        (tmp_path / "rows" / f"k={key:03}").mkdir(parents=True)
        pq.write_table(events(50).select(["ts", "x"]), tmp_path / "rows" / f"k={key:03}" / "0.parquet")
    asks = contract(view(features={"x": "float64"}, path="rows"))
    rows = questions(500).set_column(1, "k", pa.array([i % 15 for i in range(500)]))
    monkeypatch.setattr(out_of_core, "_WORKING_BYTES", 1_000_000)

    limited = EngineSettings(memory_limit="200MB", threads=1)
    retrieve_to(tmp_path / "parts.parquet", asks, rows, at="at", repo=tmp_path, settings=limited)

    written = pq.read_table(tmp_path / "parts.parquet").replace_schema_metadata(None)
    assert written.equals(retrieve(asks, rows, at="at", repo=tmp_path))
    assert 300 < len(written) - written["x"].null_count <= 400


def test_more_sets_of_keys_for_less_memory(asks: Contract, tmp_path: Path) -> None:
    """The number of sets grows as the limit shrinks; a view without keys is one."""
    files = out_of_core.PreparedRetrieval.of(asks, questions(10).schema, "at", tmp_path).files
    rows = out_of_core.EntityInput.of(questions(10))
    parts = [
        [out_of_core._parts(v, files[v.alias], asks.stored(v), rows, limit) for v in asks.views]
        for limit in (10**9, 10**6)
    ]
    assert parts[0] == [1, 1, 1, 1]
    assert min(parts[1][:3]) > 5
    assert parts[1][3] == 1


def test_no_rows_are_a_dataset_too(asks: Contract, tmp_path: Path) -> None:
    """Without entity rows the file has every column and no row."""
    retrieve_to(tmp_path / "none.parquet", asks, questions(0), at="at", repo=tmp_path)
    written = pq.read_table(tmp_path / "none.parquet")
    assert (written.num_rows, written.column_names[4:]) == (0, list(asks.feature_names))


def test_a_limit_too_small_to_read_says_so(asks: Contract, tmp_path: Path) -> None:
    """Where not even reading fits, the answer is which setting to raise, and no file is left."""
    tiny = EngineSettings(memory_limit="300KB", threads=1)
    with pytest.raises(SettingsError, match="raise memory_limit"):
        retrieve_to(tmp_path / "out" / "x.parquet", asks, questions(10), at="at", repo=tmp_path, settings=tiny)
    assert not list(tmp_path.glob("out/*"))


def test_a_file_appears_whole_or_not_at_all(asks: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while writing leaves the file that was there before, and nothing else."""
    target = tmp_path / "x.parquet"
    retrieve_to(target, asks, questions(10), at="at", repo=tmp_path)
    before = target.read_bytes()

    def failing(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", failing)
    with pytest.raises(TableError, match="No space left"):
        retrieve_to(target, asks, questions(20), at="at", repo=tmp_path)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows", "x.parquet"]


def test_provenance_says_what_a_dataset_was_made_from(asks: Contract, tmp_path: Path) -> None:
    """Table versions, fingerprint, entity rows and code revision are in the file's metadata; other files have none."""
    made = retrieve_to(tmp_path / "x.parquet", asks, questions(10), at="at", repo=tmp_path)
    read = Provenance.read(tmp_path / "x.parquet")
    assert read == made
    assert json.loads(read.to_json())["fingerprint"] == asks.fingerprint
    assert (read.tables, read.rows, read.code_revision) == (
        dict.fromkeys(("any", "both", "plain", "spans"), 0),
        10,
        None,
    )
    other = retrieve_to(tmp_path / "y.parquet", asks, questions(12), at="at", repo=tmp_path)
    assert other.entities != made.entities
    pq.write_table(questions(2), tmp_path / "foreign.parquet")
    with pytest.raises(SourceError, match="no provenance"):
        Provenance.read(tmp_path / "foreign.parquet")


def test_a_dataset_is_made_again_byte_for_byte(asks: Contract, tmp_path: Path) -> None:
    """After more data has arrived, also late data for the same moments, the rebuilt file equals the old one; a new one differs."""
    retrieve_to(tmp_path / "old.parquet", asks, questions(1000), at="at", repo=tmp_path)
    write_deltalake(str(tmp_path / "rows"), events(5_000, seed=2), mode="append")
    again = rebuild(tmp_path / "old.parquet", tmp_path / "again.parquet", tmp_path)
    assert again.identical
    assert (tmp_path / "old.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()
    retrieve_to(tmp_path / "new.parquet", asks, questions(1000), at="at", repo=tmp_path)
    assert not pq.read_table(tmp_path / "new.parquet").equals(pq.read_table(tmp_path / "old.parquet"))


def test_moments_in_seconds_are_kept_and_made_again(asks: Contract, tmp_path: Path) -> None:
    """Entity rows in types that Parquet does not have (seconds, as CSV files give them; 64-bit dates) can be made again too."""
    rows = questions(50)
    rows = rows.set_column(rows.column_names.index("at"), "at", rows["at"].cast(pa.timestamp("s", "UTC"), safe=False))
    rows = rows.append_column("day", pa.array(range(0, 50 * 86_400_000, 86_400_000), pa.date64()))
    rows = rows.append_column("seen", pa.array([[i] for i in range(50)], pa.list_(pa.timestamp("s"))))
    retrieve_to(tmp_path / "old.parquet", asks, rows, at="at", repo=tmp_path)
    assert rebuild(tmp_path / "old.parquet", tmp_path / "again.parquet", tmp_path).identical
    assert pq.read_table(tmp_path / "old.parquet")["at"].cast(pa.timestamp("s", "UTC")).equals(rows["at"])


def test_what_cannot_be_made_again_says_so(tmp_path: Path) -> None:
    """A plain Parquet source that changed, and a dataset that was edited, are refused."""
    pq.write_table(events(100), tmp_path / "rows.parquet")
    asks = contract(view(features={"x": "float64"}))
    retrieve_to(tmp_path / "x.parquet", asks, questions(10), at="at", repo=tmp_path)
    assert rebuild(tmp_path / "x.parquet", tmp_path / "y.parquet", tmp_path).identical
    edited = pq.read_table(tmp_path / "x.parquet").slice(1)
    kept = {k: v for k, v in pq.read_metadata(tmp_path / "x.parquet").metadata.items() if k == b"asof.provenance"}
    pq.write_table(edited.replace_schema_metadata(kept), tmp_path / "edited.parquet")
    with pytest.raises(SourceError, match="was changed after it was made"):
        rebuild(tmp_path / "edited.parquet", tmp_path / "z.parquet", tmp_path)
    pq.write_table(events(101), tmp_path / "rows.parquet")
    with pytest.raises(
        SourceError, match=r"plain Parquet and has changed .* its SHA-256 was [0-9a-f]{12} and is [0-9a-f]{12}"
    ):
        rebuild(tmp_path / "x.parquet", tmp_path / "z.parquet", tmp_path)


def test_a_changed_value_changes_the_digest_of_plain_parquet(tmp_path: Path) -> None:
    """A file with another value, of the same size and with the same footer, is another file; of several, names and contents count."""
    plain = {"use_dictionary": False, "write_statistics": False, "compression": "none"}
    one, other = (events(100).set_column(4, "x", pa.array([x] * 100)) for x in (1.0, 2.0))
    source = contract(view(features={"x": "float64"})).views[0].source
    pq.write_table(one, tmp_path / "rows.parquet", **plain)
    first, size = files_digest(open_files(source, tmp_path)), (tmp_path / "rows.parquet").stat().st_size
    assert first == hashlib.sha256((tmp_path / "rows.parquet").read_bytes()).hexdigest()
    pq.write_table(other, tmp_path / "rows.parquet", **plain)
    assert (tmp_path / "rows.parquet").stat().st_size == size
    assert files_digest(open_files(source, tmp_path)) != first
    pq.write_table(one, tmp_path / "rows.parquet", **plain)
    assert files_digest(open_files(source, tmp_path)) == first

    found = []
    for names in (("a=1", "a=2"), ("a=2", "a=1"), ("a=1", "a=3")):
        folder = replace(source, path="_".join(names))
        for name, rows in zip(names, (one, other), strict=True):
            (tmp_path / folder.path / name).mkdir(parents=True)
            pq.write_table(rows, tmp_path / folder.path / name / "part.parquet", **plain)
        found.append(files_digest(open_files(folder, tmp_path)))
    assert len({first, *found}) == 4


def test_plain_parquet_is_digested_once_while_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read again only if another took its place, even one of the same size and modification time."""
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(given) or digest(*given))
    source = contract(view(features={"x": "float64"})).views[0].source
    path, other = tmp_path / "rows.parquet", tmp_path / "other.parquet"
    plain = {"use_dictionary": False, "write_statistics": False, "compression": "none"}
    for file, x in ((path, 1.0), (other, 2.0)):
        pq.write_table(events(100).set_column(4, "x", pa.array([x] * 100)), file, **plain)
    first = files_digest(open_files(source, tmp_path))
    assert files_digest(open_files(source, tmp_path)) == first
    assert len(read) == 1
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert other.stat().st_size == stat.st_size
    other.replace(path)
    assert files_digest(open_files(source, tmp_path)) == hashlib.sha256(path.read_bytes()).hexdigest() != first
    assert len(read) == 2


def test_cleaning_spares_versions_that_models_were_made_from(asks: Contract, tmp_path: Path) -> None:
    """Files that only old versions need are deleted, unless a model bundle names the version; a dataset of it can be rebuilt."""
    retrieve_to(tmp_path / "old.parquet", asks, questions(100), at="at", repo=tmp_path)
    for seed in (2, 3):
        write_deltalake(str(tmp_path / "rows"), events(1_000, seed=seed), mode="overwrite")
    models = tmp_path / "models"
    with bundle.writing(models, "m", "1") as work:
        bundle.write_json(work / "metadata.json", {"model": "m", "version": "1", "tables": {"rows": 0}})
    assert versions_in_use(models) == {"rows": {0}}
    assert versions_in_use(tmp_path / "none") == {}
    planned = clean(tmp_path / "rows", versions_in_use(models)["rows"], retention_hours=0, dry_run=True)
    assert clean(tmp_path / "rows", versions_in_use(models)["rows"], retention_hours=0) == planned
    assert len(planned) == 1
    assert rebuild(tmp_path / "old.parquet", tmp_path / "again.parquet", tmp_path).identical
    assert DeltaTable(str(tmp_path / "rows")).to_pyarrow_table().num_rows == 1_000
    clean(tmp_path / "rows", [], retention_hours=0)
    with pytest.raises(SourceError, match="version 0"):
        rebuild(tmp_path / "old.parquet", tmp_path / "again.parquet", tmp_path)
    with pytest.raises(TableError, match="lost 1 file already"):
        clean(tmp_path / "rows", [0], retention_hours=0)
