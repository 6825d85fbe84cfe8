"""Streams on a real cluster of three nodes: keys of a batch lie on all of them, scripts touch one slot each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from asof.cli import cli
from asof.online import Writer, connect
from asof.repo import Repo
from asof.streams import Producer
from asof.streams.consumer_group import ConsumerGroup, ConsumerOptions
from asof.streams.redis_source import dead_letter_name, stream_name
from asof.tables import push
from tests.online import servers
from tests.streams import world


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    """A repo whose Redis is a cluster."""
    with servers.cluster(tmp_path / "cluster") as ports:
        yield world.make_repo(tmp_path / "repo", servers.addresses(ports), "redis_cluster")


def send(repo: Repo, ids: range, *others: bytes) -> None:
    with Producer(repo, ["orders", "visits"]) as producer:
        producer.push("orders", world.events(ids, random.Random(ids.start)))
        producer.publisher.send(producer.streams["orders"], list(others))


def test_each_event_is_once_and_every_read_is_right(repo: Repo) -> None:
    """Two consumers and a push feed a cluster while it is read: every vector is what the table says for its moment."""
    watcher = world.Watcher(repo, ("orders",), random.Random(1))
    groups = [ConsumerGroup(repo, ["orders"], ConsumerOptions(linger=0.01, batch=30)) for _ in range(2)]
    stop, done = threading.Event(), threading.Event()
    threads = [threading.Thread(target=group.run, args=(stop,)) for group in groups]
    threads.append(threading.Thread(target=lambda: [watcher.look() for _ in iter(done.is_set, True)]))
    for thread in threads:
        thread.start()
    try:
        for start in range(0, 400, 80):
            send(repo, range(start, start + 100), world.bad(start))
        push(repo, "orders", world.events(range(1000, 1040), random.Random(3)))
        deadline = time.monotonic() + 60
        while any(not group.consumers["orders"].source.drained() for group in groups):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads[:2]:
            thread.join()
        done.set()
        threads[2].join()
        for group in groups:
            group.close()
    world.once(repo, "orders", {*range(420), *range(1000, 1040)})
    time.sleep(0.1)
    assert max(watcher.back) > 0
    assert watcher.mismatches() == []
    assert world.everything(repo, "orders") == []
    client = connect(repo.settings.online)
    assert client.xlen(dead_letter_name(stream_name(world.PROJECT, "orders"))) == 5
    client.close()


def test_the_command_and_an_ordered_stream(repo: Repo) -> None:
    """`asof stream run` drains a cluster's streams, with watermarks in order as well; dropping the project leaves streams only."""
    with Producer(repo, ["visits"]) as producer:
        producer.push("visits", world.events(range(200), random.Random(1), at=1_600_000_000_000_000))
    arguments = ["--repo", str(repo.path), "stream", "run", "visits", "--once", "--clock", "events"]
    ended = CliRunner().invoke(cli, [*arguments, "--batch", "60"])
    assert ended.exit_code == 0, ended.output
    world.once(repo, "visits", set(range(200)))
    watcher = world.Watcher(repo, ("visits",), random.Random(1))
    for second in range(100, 130):
        watcher.look(1_600_000_000_000_000 + second * 1_000_000)
    assert watcher.mismatches() == []
    said = CliRunner().invoke(cli, ["--repo", str(repo.path), "stream", "status", "visits"])
    assert said.exit_code == 0, said.output
    writer = Writer(world.PROJECT, repo.settings.online)
    assert writer.drop_project() > 0
    writer.close()
    client = connect(repo.settings.online)
    assert set(client.scan_iter("*")) == {stream_name(world.PROJECT, "visits").encode()}
    client.close()
