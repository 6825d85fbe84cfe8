"""``asof clean`` frees disk space and keeps everything that a model or a dataset needs."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from asof import bundle
from tests.commands.conftest import asof, copy


@pytest.fixture
def repo(filled, tmp_path):
    """A filled repo of the test's own whose payments were written anew twice, so that versions 0 and 1 hold files of their own."""
    source, _ = filled
    target = copy(source, tmp_path / "repo")
    shutil.copytree(source / "data", target / "data", ignore=shutil.ignore_patterns("redis"))
    path = target / "data/tables/transactions"
    rows = pa.table(DeltaTable(str(path)).to_pyarrow_table().slice(0, 10))
    for _ in range(2):
        write_deltalake(str(path), rows, mode="overwrite")
    (path / "part-of-a-commit-that-never-came.parquet").write_bytes(b"PAR1")
    return target


def files(repo: Path, version: int) -> list[bool]:
    """Whether each file of a version of the payments is there."""
    held = DeltaTable(str(repo / "data/tables/transactions"), version=version)
    return [Path(uri.removeprefix("file://")).exists() for uri in held.file_uris()]


def test_versions_of_models_and_of_named_datasets_stay(repo, tmp_path):
    """Version 0 stays because a model was trained on it; version 1 goes unless a dataset made of it is named; the newest stays."""
    with bundle.writing(repo / "data/models", "m", "1") as work:
        bundle.write_json(work / "metadata.json", {"model": "m", "version": "1", "tables": {"transactions": 0}})
    kept = asof("--repo", repo, "clean", "transactions", "--hours", 0, "--json").answer
    assert len(kept["deleted"]["transactions"]) == 2
    assert all(files(repo, 0))
    assert not any(files(repo, 1))
    assert all(files(repo, 2))
    assert asof("--repo", repo, "clean", "--hours", 0, "--json").answer["deleted"]["transactions"] == []


def test_a_dataset_that_is_named_can_be_made_again(repo, tmp_path, payments_file):
    """With --keep FILE, the versions that FILE was made from stay readable, and it is rebuilt byte for byte afterwards."""
    asked = tmp_path / "asked.csv"
    asked.write_text("customer_id,terminal_id,tx_amount,tx_datetime\n1,1,5.0,2018-07-20T10:00:00Z\n")
    made = asof("--repo", repo, "dataset", "fraud_v1", "--entities", asked, "-o", tmp_path / "d.parquet", "--json")
    assert made.code == 0, made.err
    path = repo / "data/tables/transactions"
    write_deltalake(str(path), DeltaTable(str(path)).to_pyarrow_table(), mode="overwrite")
    assert asof("--repo", repo, "clean", "--hours", 0, "--keep", tmp_path / "d.parquet", "--json").code == 0
    again = asof("--repo", repo, "dataset", "--like", tmp_path / "d.parquet", "-o", tmp_path / "again.parquet")
    assert again.code == 0, again.err
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "d.parquet").read_bytes()
    assert files(repo, 1) == [False]


def test_a_dry_run_and_the_week_of_grace_delete_nothing(repo):
    """--dry-run names what would go; without --hours, files that left the table just now stay."""
    planned = asof("--repo", repo, "clean", "--hours", 0, "--dry-run", "--json").answer
    assert len(planned["deleted"]["transactions"]) >= 3
    assert asof("--repo", repo, "clean", "--json").answer["deleted"]["transactions"] == []
    assert all(files(repo, 0) + files(repo, 1))
    assert "files to delete" in asof("--repo", repo, "clean", "--hours", 0, "--dry-run").out


def test_a_table_that_is_not_there_is_named(repo):
    """A wrong name is wrong use, and the right ones are told; a file that is no dataset stops everything."""
    wrong = asof("--repo", repo, "clean", "transaction")
    assert wrong.code != 0
    assert "transactions" in wrong.err
    foreign = asof("--repo", repo, "clean", "--hours", 0, "--keep", repo / "feature_store.yaml")
    assert foreign.code == 3
    assert all(files(repo, 0))
