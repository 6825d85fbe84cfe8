"""The whole law at once: payments are scored while a stream feeds both sides from another process, and nothing differs.

``python -m tests.streams.parity --rows 20000 [--data FILE]``: the example's repo, trained and served; ``asof stream run`` of all
its tables in a process of its own; recorded rows replayed against the service and sent to the streams; then every served
value recomputed from the tables. Beside that it counts the reads that were held back by the watermark, because a run in which
the stream always was ahead would prove little.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from asof import prediction_log
from asof.demo import Script, Stage, prepare, service, stop_redis
from asof.instants import parse_moment
from asof.settings import RepoSettings

ROOT = Path(__file__).parents[2]
WITHIN = 300.0
"""Seconds that the streams may take to be empty after the replay."""


def streamed(folder: Path, data: Path | None, rows: int, *, small: bool = False) -> dict[str, Any]:
    """What a streamed replay of ``rows`` rows served and what of it differs.

    Args:
        folder: An empty folder.
        data: File with the rows; simulated where there is none.
        rows: Most rows to replay.
        small: Whether to simulate few.

    Returns:
        ``replay`` and ``skew``, the answers of these verbs; ``streams``, what each consumer did; ``behind``, the number of
        served rows that saw the events up to a moment before their own.
    """
    stage, _ = prepare(folder, ROOT / "feature_repo")
    script = Script.load(stage.repo)
    try:
        return _streamed(stage, script, data or _simulated(stage, script, small=small), rows)
    finally:
        stop_redis(stage.repo)


def _simulated(stage: Stage, script: Script, *, small: bool) -> Path:
    file = stage.folder / "rows.parquet"
    options = script.simulate_small if small else script.simulate
    stage.asof(
        "simulate", *(text for name, value in options.items() for text in (f"--{name}", str(value))), "-o", str(file)
    )
    return file


def _streamed(stage: Stage, script: Script, data: Path, rows: int) -> dict[str, Any]:
    stage.asof("apply")
    for table in script.tables:
        stage.asof("ingest", table, str(data))
    last = max(
        parse_moment(str(t["last"])) if isinstance(t["last"], str) else t["last"]
        for t in stage.asof("tables")["tables"]
    )
    declared = parse_moment(script.test_start) + 7 * 86_400_000_000 <= last
    split = stage.asof("train", script.model, *(("--test-start", script.test_start) if declared else ()), "--force")[
        "split"
    ]
    stage.asof("build", script.model)
    start, end = split["test_start"], split["test_end"]
    for table in script.tables:
        _forget(stage.repo / "data" / "tables" / table, start)
    stage.asof("materialize", "--to", start)
    command = [sys.executable, "-m", "asof", "--repo", str(stage.repo), "serve", script.model, "--port", "{port}"]
    span = ("--from", start, "--to", end)
    with ExitStack() as running:
        address = running.enter_context(service(command, stage.folder / "service.log"))
        consumer = running.enter_context(_consumer(stage, script.tables, start))
        replayed = stage.asof(
            "replay", script.model, *span, "--data", str(data), "--limit", str(rows), "--url", address, "--stream"
        )
        _await_empty(stage, script.tables, consumer)
    return {
        "replay": replayed,
        "streams": json.loads((stage.folder / "stream.json").read_text()),
        "skew": stage.asof("skew", script.model, *span),
        "behind": _behind(stage, script.model, start, end),
    }


def _forget(path: Path, start: str) -> None:
    """Leave only rows in a table that were known before ``start``: the stream must bring the others to both sides."""
    held = DeltaTable(str(path)).to_pyarrow_table()
    known = held.filter(pc.less(held["known_at"], pa.scalar(parse_moment(start), held.schema.field("known_at").type)))
    write_deltalake(str(path), known, mode="overwrite")


@contextmanager
def _consumer(stage: Stage, tables: tuple[str, ...], start: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "asof", "--repo", str(stage.repo), "stream", "run", *tables]
    options = ["--clock", "events", "--start", start, "--linger", "0.01", "--json"]
    with (stage.folder / "stream.json").open("wb") as said, (stage.folder / "stream.log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=said, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _await_empty(stage: Stage, tables: tuple[str, ...], consumer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WITHIN
    while any(_waiting(s) for s in stage.asof("stream", "status", *tables)["streams"]):
        if consumer.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the streams were not emptied: {(stage.folder / 'stream.log').read_text()[-2000:]}")
        time.sleep(0.5)


def _waiting(stream: dict[str, Any]) -> int:
    return int(stream["lag"] or 0) + int(stream["pending"] or 0)


def _behind(stage: Stage, model: str, start: str, end: str) -> int:
    folder = RepoSettings.load(stage.repo).predictions
    logged = prediction_log.scan(folder, model, parse_moment(start), parse_moment(end))
    return sum(pc.sum(pc.less(t["as_of"], t["at"])).as_py() or 0 for t in logged)


def main() -> None:
    """Run and print the figures; exit code 1 where a value differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams.parity")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asof-parity-") as folder:
        found = streamed(Path(folder), given.data and given.data.resolve(), given.rows)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["skew"]["exit_code"] or found["replay"]["failed"] else 0)


if __name__ == "__main__":
    main()
