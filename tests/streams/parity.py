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
from asof.commands.demo_workspace import DemoConfig, DemoWorkspace, prepare, service, stop_redis
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
    workspace, _ = prepare(folder, ROOT / "feature_repo")
    config = DemoConfig.load(workspace.repo)
    try:
        return _streamed(workspace, config, data or _simulated(workspace, config, small=small), rows)
    finally:
        stop_redis(workspace.repo)


def _simulated(workspace: DemoWorkspace, config: DemoConfig, *, small: bool) -> Path:
    file = workspace.folder / "rows.parquet"
    options = config.simulate_small if small else config.simulate
    workspace.asof(
        "simulate", *(text for name, value in options.items() for text in (f"--{name}", str(value))), "-o", str(file)
    )
    return file


def _streamed(workspace: DemoWorkspace, config: DemoConfig, data: Path, rows: int) -> dict[str, Any]:
    workspace.asof("apply")
    for table in config.tables:
        workspace.asof("ingest", table, str(data))
    last = max(
        parse_moment(str(t["last"])) if isinstance(t["last"], str) else t["last"]
        for t in workspace.asof("tables")["tables"]
    )
    declared = parse_moment(config.test_start) + 7 * 86_400_000_000 <= last
    split = workspace.asof(
        "train", config.model, *(("--test-start", config.test_start) if declared else ()), "--force"
    )["split"]
    workspace.asof("build", config.model)
    start, end = split["test_start"], split["test_end"]
    for table in config.tables:
        _forget(workspace.repo / "data" / "tables" / table, start)
    workspace.asof("materialize", "--to", start)
    command = [sys.executable, "-m", "asof", "--repo", str(workspace.repo), "serve", config.model, "--port", "{port}"]
    span = ("--from", start, "--to", end)
    with ExitStack() as running:
        address = running.enter_context(service(command, workspace.folder / "service.log"))
        consumer = running.enter_context(_consumer(workspace, config.tables, start))
        replayed = workspace.asof(
            "replay", config.model, *span, "--data", str(data), "--limit", str(rows), "--url", address, "--stream"
        )
        _await_empty(workspace, config.tables, consumer)
    return {
        "replay": replayed,
        "streams": json.loads((workspace.folder / "stream.json").read_text()),
        "skew": workspace.asof("skew", config.model, *span),
        "behind": _behind(workspace, config.model, start, end),
    }


def _forget(path: Path, start: str) -> None:
    """Leave only rows in a table that were known before ``start``: the stream must bring the others to both sides."""
    held = DeltaTable(str(path)).to_pyarrow_table()
    known = held.filter(pc.less(held["known_at"], pa.scalar(parse_moment(start), held.schema.field("known_at").type)))
    write_deltalake(str(path), known, mode="overwrite")


@contextmanager
def _consumer(workspace: DemoWorkspace, tables: tuple[str, ...], start: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "asof", "--repo", str(workspace.repo), "stream", "run", *tables]
    options = ["--clock", "events", "--start", start, "--linger", "0.01", "--json"]
    with (workspace.folder / "stream.json").open("wb") as said, (workspace.folder / "stream.log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=said, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _await_empty(workspace: DemoWorkspace, tables: tuple[str, ...], consumer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WITHIN
    while any(_waiting(s) for s in workspace.asof("stream", "status", *tables)["streams"]):
        if consumer.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the streams were not emptied: {(workspace.folder / 'stream.log').read_text()[-2000:]}")
        time.sleep(0.5)


def _waiting(stream: dict[str, Any]) -> int:
    return int(stream["lag"] or 0) + int(stream["pending"] or 0)


def _behind(workspace: DemoWorkspace, model: str, start: str, end: str) -> int:
    folder = RepoSettings.load(workspace.repo).predictions
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
