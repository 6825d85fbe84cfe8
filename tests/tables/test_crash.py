"""Ingests that are killed, run out of disk, or run at the same time: real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof.tables import ingest, states
from tests.tables.repos import NOW, held, make_repo, set_aside
from tests.tables.test_ingest import payments

INGEST = """
import resource, signal, sys
from pathlib import Path
from asof.errors import AsofError
from asof.repo import Repo
from asof.tables import ingest
repo, limit, now, *files = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    print(ingest(Repo.open(repo), "payments", [Path(f) for f in files], now=int(now)).rows_added, flush=True)
except AsofError as error:
    print(type(error).__name__, error, flush=True)
"""
"""A process that ingests when it is told to; ``limit`` is the size at which its files stop growing, as a full disk would."""


def start(repo, *files, limit=0):
    """A process that has imported everything and waits for a line."""
    command = [sys.executable, "-c", INGEST, str(repo.path), str(limit), str(NOW), *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def go(*processes):
    """Let them ingest, once all have imported everything."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A file of 150,000 good rows and 3,000 bad ones."""
    path = tmp_path_factory.mktemp("crash") / "big.parquet"
    amounts = pa.array([-1.0 if i % 51 == 0 else 1.0 for i in range(153_000)], pa.float64())
    paid = pa.array([1_577_836_800_000_000 + i for i in range(153_000)], pa.int64()).cast(pa.timestamp("us", "UTC"))
    rows = payments(1).take(pa.array([0] * 153_000))
    rows = rows.set_column(0, "id", pa.array(range(153_000), pa.int64())).set_column(1, "paid_at", paid)
    pq.write_table(rows.set_column(3, "amount", amounts), path)
    return path


def _at_once(repo):
    return True


def _bad_rows_are_aside(repo):
    return (repo.path / "data" / "quarantine" / "payments" / "_delta_log" / f"{0:020d}.json").exists()


def _data_is_being_written(repo):
    return len(list((repo.path / "data" / "tables" / "payments").glob("*.parquet"))) > 1


@pytest.mark.parametrize("moment", [_at_once, _bad_rows_are_aside, _data_is_being_written])
def test_an_ingest_that_is_killed_leaves_the_table_as_it_was(tmp_path, big, moment):
    """After ``kill -9`` at any moment the table has its old rows or all rows, and running the ingest again completes both tables."""
    repo = make_repo(tmp_path / "repo")
    ingest(repo, "payments", payments(10, first=1_000_000), now=NOW)
    process = start(repo, big)
    go(process)
    while not moment(repo) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert states(repo)[0].rows in (10, 150_010)
    again = ingest(repo, "payments", big, now=NOW)
    assert again.rows_added + again.duplicates == 150_000
    assert states(repo)[0].rows == len(set(held(repo, "payments")["id"].to_pylist())) == 150_010
    assert len(set_aside(repo, "payments")) == again.quarantined == 3_000


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, big):
    """Where the data cannot be written the error says so, the table is as it was, and no data file is left over."""
    repo = make_repo(tmp_path / "repo")
    ingest(repo, "payments", payments(10, first=1_000_000), now=NOW)
    folder = repo.path / "data" / "tables" / "payments"
    before = sorted(p.name for p in folder.glob("*"))
    good = tmp_path / "good.parquet"
    pq.write_table(pq.read_table(big).filter(pa.array([i % 51 != 0 for i in range(153_000)])), good)
    process = start(repo, good, limit=100_000)
    go(process)
    out, _ = process.communicate(timeout=60)
    assert out.startswith("TableError nothing was added to ")
    assert out.count("\n") == 1
    assert sorted(p.name for p in folder.glob("*")) == before
    assert states(repo)[0].rows == 10


def test_two_ingests_at_once_add_each_row_once(tmp_path):
    """Three processes with overlapping files, started together: every id is in the table once, whoever brought it."""
    repo = make_repo(tmp_path / "repo")
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.parquet")
        pq.write_table(payments(4_000, first=2_000 * i), files[-1])
    processes = [start(repo, file) for file in files]
    go(*processes)
    added = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(added) == 8_000
    assert sorted(held(repo, "payments")["id"].to_pylist()) == list(range(8_000))
