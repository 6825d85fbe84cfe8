"""``kill -9`` at random moments, in small; ``ASOF_KILLS=100`` makes it a hundred of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asof.repo import Repo
from asof.streams import Producer
from tests.streams import kills, world
from tests.streams.test_streams import events, send

KILLS = int(os.environ.get("ASOF_KILLS", "4"))


def test_killed_consumers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """Of two consumers one is killed again and again: every event is once in the table and the views, every read is recomputed."""
    figures = kills.kill_consumers(tmp_path, KILLS)
    assert (figures.kills, figures.mismatches) == (KILLS, 0)
    assert figures.events > 0
    assert figures.reads > 0


@pytest.mark.timeout(60 + 15 * KILLS)
def test_a_killed_redis_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """The server is killed again and again: what it acknowledged is there, once, and every read is recomputed."""
    figures = kills.kill_redis(tmp_path, KILLS)
    assert (figures.kills, figures.mismatches) == (KILLS, 0)
    assert figures.events > 0
    assert figures.reads > 0


def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    """A process that pushes is killed again and again: what it acknowledged counts online at once, and both sides end up whole."""
    figures = kills.kill_writers(tmp_path, KILLS, materialize=KILLS > 20)
    assert (figures.kills, figures.mismatches) == (KILLS, 0)


def test_a_consumer_that_is_told_to_stop_finishes_its_batch(repo: Repo) -> None:
    """SIGTERM ends the process with code 0; what it had taken is settled, and what it had not is left."""
    send(repo, "orders", events(0, 400))
    command = [
        sys.executable,
        "-m",
        "asof",
        "--repo",
        str(repo.path),
        "stream",
        "run",
        "orders",
        "--batch",
        "20",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        folder = repo.path / "data" / "tables" / "orders" / "_delta_log"
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    settled = world.held(repo, "orders").num_rows
    assert f'"received": {settled}' in said
    assert 0 < settled <= 400
    with Producer(repo, ["orders"]) as producer:
        assert producer.publisher.client.xpending(producer.streams["orders"], "asof")["pending"] == 0  # type: ignore[attr-defined]
