"""Events per second through ``asof stream run``: from a filled Redis Stream into the Delta table and every online view.

``python -m benchmarks streams [--data FILE] [--events N] [--batch N ...]`` uses the example's repo as it is and a file of its
layout, simulated where none is given. For each batch size: a fresh copy of the repo, N events sent, and the consumer as its own process until nothing waits.
Beside the consumer's own clock (without starting Python) it shows what sending took, and reading the stream alone, the floor.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
TABLE = "transactions"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks streams")
    parser.add_argument("--data", type=Path, help="file with the rows of the table; simulated where none is given")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1_000, 5_000, 20_000])
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    rows = rows_of(given.data).slice(0, given.events)
    with tempfile.TemporaryDirectory(prefix="asof-streams-") as folder:
        template = applied(Path(folder) / "template")
        found = [measured(template, Path(folder) / str(batch), rows, batch) for batch in given.batch]
    print(told(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def rows_of(data: Path | None) -> pa.Table:
    """The rows of a file, or simulated ones of the same layout."""
    if data is not None:
        return pq.read_table(data)
    made: pa.Table = runpy.run_path(str(ROOT / "feature_repo" / "simulate.py"))["simulate"](days=40)
    return made


def applied(repo: Path) -> Path:
    """A copy of the example's repo with its declarations applied."""
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    asof(repo, "apply")
    asof(repo, "redis", "stop")
    shutil.rmtree(repo / "data" / "redis")
    return repo


def measured(template: Path, repo: Path, rows: pa.Table, batch: int) -> dict[str, Any]:
    """One run."""
    from asof.online import connect
    from asof.repo import Repo
    from asof.streams import Producer
    from asof.streams.redis_source import RedisSource, stream_name

    shutil.copytree(template, repo)
    opened = Repo.open(repo)
    try:
        began = time.perf_counter()
        with Producer(opened, [TABLE]) as producer:
            producer.push(TABLE, rows.drop_columns(["tx_fraud"]))
        sending = time.perf_counter() - began
        floor = _read_alone(RedisSource(opened.settings.online, connect(opened.settings.online),
                                        stream_name(opened.settings.project, TABLE), "floor", group="floor"), batch)  # fmt: skip
        began = time.perf_counter()
        asof(repo, "stream", "run", "fraud_reports", "--once", "--linger", "0")
        starting = time.perf_counter() - began
        began = time.perf_counter()
        done = asof(repo, "stream", "run", TABLE, "--once", "--linger", "0", "--batch", str(batch))[TABLE]
        seconds = time.perf_counter() - began - starting
    finally:
        asof(repo, "redis", "stop")
    assert done["added"] == rows.num_rows, done
    return {
        "batch": batch,
        "events": rows.num_rows,
        "seconds": seconds,
        "events_per_second": rows.num_rows / seconds,
        "ms_per_batch": seconds / done["batches"] * 1e3,
        "sent_per_second": rows.num_rows / sending,
        "read_alone_per_second": rows.num_rows / floor,
    }


def _read_alone(source: Any, batch: int) -> float:
    """Seconds to read and acknowledge the whole stream and do nothing with it."""
    began = time.perf_counter()
    while messages := source.poll(batch, 0):
        source.settle(messages, [])
    source.close()
    return time.perf_counter() - began


def told(found: list[dict[str, Any]]) -> str:
    """The figures as text."""
    from asof.console import table

    return table(list(found[0]), [list(one.values()) for one in found])


def asof(repo: Path, *arguments: str) -> Any:
    """The JSON answer of a verb in a process of its own."""
    command = [sys.executable, "-m", "asof", "--repo", str(repo), *arguments, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
