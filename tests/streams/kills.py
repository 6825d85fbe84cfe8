"""Killing things at random moments, and proving that nothing acknowledged was lost and nothing counts twice.

``python -m tests.streams.kills 100`` kills the writer, the stream consumer and the redis-server a hundred times each; the test
suite does the same with fewer kills. Children are started by a fork server that has imported everything, so that a kill
hits work and not imports.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import redis

from asof.errors import OnlineStoreError
from asof.online.redis.server import find_server
from asof.repo import Repo
from asof.streams import Producer
from asof.streams.consumer_group import ConsumerGroup, ConsumerOptions
from asof.streams.redis_source import RedisSource, dead_letter_name, stream_name
from asof.streams.status import Heartbeats
from asof.tables import Pusher
from tests.streams import world

FAST = ConsumerOptions(batch=80, linger=0.02, claim_after=0.5)
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["asof.streams.consumer_group", "asof.tables.push", "deltalake", "tests.streams.world"]
"""What the fork server imports; children that materialize also want ``asof.feast.compute_engine``, which imports Feast."""

CONTEXT.set_forkserver_preload(PRELOADED)


@dataclass
class Server:
    """A redis-server on loopback that writes and syncs every command before it answers."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its connection string."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        line = [find_server(), *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def nothing() -> None:
    """A child that ends at once: the first one waits until the fork server has imported everything."""


def warm_up() -> None:
    """Make sure that the fork server is ready."""
    process = CONTEXT.Process(target=nothing)
    process.start()
    process.join()


def consume(folder: str, plan: ConsumerOptions) -> None:
    """A child: consume until told to stop; SIGUSR1 shows where it is."""
    faulthandler.register(signal.SIGUSR1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _s, _f: stop.set())
    group = ConsumerGroup(Repo.open(folder), ["orders"], plan)
    group.run(stop)
    group.close()


def write(folder: str, said: Any, upto: int, seed: int) -> None:
    """A child: push what the table lacks of ``range(upto)``, a few rows at a time, saying what was acknowledged."""
    repo, rng = Repo.open(folder), random.Random(seed)
    known = set(world.held(repo, "visits")["id"].to_pylist())
    missing = [i for i in range(upto) if i not in known]
    with Pusher(repo, ["visits"], flush_rows=40) as pusher:
        while missing:
            size = rng.randrange(1, 12)
            pusher.push("visits", visits(missing[:size]))
            said.send(missing[:size])
            missing = missing[size:]
    said.send(None)


def visits(ids: list[int]) -> Any:
    """The events with these ids: the same each time."""
    start = 1_600_000_000_000_000
    rows = [world.events([i], random.Random(i), at=start + i * 1_000_000) for i in ids]
    return rows[0] if len(rows) == 1 else world.pa.concat_tables(rows)


def load(folder: str, said: Any) -> None:
    """A child: bring all views of a table up to date from the table."""
    from asof.feast.compute_engine import Interval, materialize
    from asof.online import Writer

    repo = Repo.open(folder)
    writer = Writer(world.PROJECT, repo.settings.online)
    for view in world.VIEWS["visits"]:
        said.send([materialize(view, writer, repo.path, Interval(0, time.time_ns() // 1_000))])
    said.send(None)


@dataclass
class Child:
    """A child process and what it said."""

    target: Callable[..., None]
    arguments: tuple[Any, ...]
    said: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mine, theirs = CONTEXT.Pipe(duplex=False)
        talks = self.target is not consume
        arguments = (self.arguments[0], theirs, *self.arguments[1:]) if talks else self.arguments
        self.process = CONTEXT.Process(target=self.target, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def kill(self) -> None:
        """Kill it; what it had said stays known."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.listen()

    def listen(self) -> None:
        """Take in what it said."""
        try:
            while self.mine.poll():
                self.said.append(self.mine.recv())
        except EOFError:
            return

    def end(self, patience: float = 60) -> None:
        """Ask it to stop, and wait; one that was told before it listened dies of it."""
        self.process.terminate()
        self.process.join(patience)
        assert self.process.exitcode in {0, -signal.SIGTERM}, f"ended with {self.process.exitcode}"


@dataclass
class Figures:
    """What a run of kills did."""

    kills: int = 0
    restarts: int = 0
    events: int = 0
    sent: int = 0
    dead: int = 0
    reads: int = 0
    held_back: int = 0
    mismatches: int = 0
    seconds: float = 0.0
    during: Counter[str] = field(default_factory=Counter)


def feed(producer: Producer, ids: list[int], rng: random.Random, bad: list[int], figures: Figures, seed: int) -> None:
    """Send events, some of them twice, and now and then a bad one; until the stream has acknowledged all."""
    rows = world.events(ids, random.Random(seed))
    again = rows.take(world.pa.array([rng.randrange(len(ids)) for _ in range(len(ids) // 10)], world.pa.int64()))
    for batch in (rows, again):
        while True:
            try:
                figures.sent += producer.push("orders", batch)
                break
            except OnlineStoreError:
                time.sleep(0.05)
    if bad:
        producer.publisher.send(producer.streams["orders"], [world.bad(n) for n in bad])


def until_drained(repo: Repo, seconds: float = 90) -> None:
    """Wait until the stream has nothing left."""
    online = repo.settings.online
    source = RedisSource(online, redis_client(repo), stream_name(world.PROJECT, "orders"), "observer")
    deadline = time.monotonic() + seconds
    while not source.drained():
        assert time.monotonic() < deadline, f"not drained: {source.backlog()}, {_said(repo)}"
        time.sleep(0.05)
    source.close()


def _said(repo: Repo) -> list[dict[str, Any]]:
    """What the consumers said last."""
    return Heartbeats(world.PROJECT, repo.settings.online, redis_client(repo)).read("orders")


def redis_client(repo: Repo) -> Any:
    """A client of the repo's Redis."""
    from asof.online import connect

    return connect(repo.settings.online)


def kill_consumers(folder: Path, kills: int, seed: int = 1, consumers: int = 2) -> Figures:
    """Kill one of two consumers at random moments while events stream in and a service reads."""
    warm_up()
    server = Server(folder / "server")
    server.start()
    repo, rng, figures = world.make_repo(folder / "repo", server.address), random.Random(seed), Figures()
    began = time.monotonic()
    try:
        _kill_consumers(repo, kills, rng, figures, consumers)
    finally:
        server.kill()
    figures.seconds = time.monotonic() - began
    return figures


def _kill_consumers(repo: Repo, kills: int, rng: random.Random, figures: Figures, consumers: int) -> None:
    watcher = world.Watcher(repo, ("orders",), rng)
    producer = Producer(repo, ["orders"])
    children = [Child(consume, (str(repo.path), FAST)) for _ in range(consumers)]
    bad: list[int] = []
    while figures.kills < kills:
        ids = list(range(figures.events, figures.events + rng.randrange(50, 250)))
        wrong = [-(len(bad) + i + 1) for i in range(rng.randrange(3))]
        bad += wrong
        feed(producer, ids, rng, wrong, figures, figures.kills)
        figures.events += len(ids)
        until = time.monotonic() + rng.uniform(0.0, 0.5)
        while time.monotonic() < until:
            watcher.look()
        which = rng.randrange(consumers)
        children[which].kill()
        figures.kills += 1
        watcher.look()
        children[which] = Child(consume, (str(repo.path), FAST))
    until_drained(repo)
    for child in children:
        child.end()
    figures.held_back = sum(1 for back in watcher.back if back)
    settle(repo, watcher, figures, bad)


def kill_redis(folder: Path, kills: int, seed: int = 2) -> Figures:
    """Kill the redis-server at random moments while events stream in and a service reads."""
    warm_up()
    server = Server(folder / "server")
    server.start()
    repo, rng, figures = world.make_repo(folder / "repo", server.address), random.Random(seed), Figures()
    began = time.monotonic()
    watcher, producer = world.Watcher(repo, ("orders",), rng), Producer(repo, ["orders"])
    child = Child(consume, (str(repo.path), FAST))
    stop = threading.Event()
    feeding = threading.Thread(target=_feed_on, args=(producer, rng, figures, stop, seed))
    feeding.start()
    try:
        while figures.kills < kills:
            until = time.monotonic() + rng.uniform(0.05, 0.5)
            while time.monotonic() < until:
                watcher.look()
            server.kill()
            figures.kills += 1
            server.start()
        stop.set()
        feeding.join()
        until_drained(repo)
        child.end()
        figures.held_back = sum(1 for back in watcher.back if back)
        settle(repo, watcher, figures, [])
    finally:
        stop.set()
        feeding.join()
        child.kill()
        server.kill()
    figures.seconds = time.monotonic() - began
    return figures


def _feed_on(producer: Producer, rng: random.Random, figures: Figures, stop: threading.Event, seed: int) -> None:
    rng = random.Random(seed + 1)
    while not stop.is_set():
        ids = list(range(figures.events, figures.events + rng.randrange(20, 120)))
        feed(producer, ids, rng, [], figures, figures.events)
        figures.events += len(ids)
        time.sleep(rng.uniform(0.05, 0.3))


def settle(repo: Repo, watcher: world.Watcher, figures: Figures, bad: list[int]) -> None:
    """The proof: every event once in the table, in every view and, if bad, among the dead dead_letters; every read recomputed."""
    world.once(repo, "orders", set(range(figures.events)))
    wrong = [*world.everything(repo, "orders"), *watcher.mismatches()]
    client = redis_client(repo)
    dead_letters = client.xrange(dead_letter_name(stream_name(world.PROJECT, "orders")))
    assert Counter(json.loads(f[b"event"])["id"] for _, f in dead_letters) == Counter(bad)
    counted = sum(int(v) for v in _counts(repo, watcher))
    assert counted == figures.events, f"{counted} events count online, {figures.events} were sent"
    figures.dead, figures.reads = len(dead_letters), len(watcher.seen)
    figures.mismatches = len(wrong)
    assert not wrong, wrong[:5]
    newest = pc.max(world.held(repo, "orders")["known_at"])
    assert newest.as_py() is not None


def _counts(repo: Repo, watcher: world.Watcher) -> list[float]:
    """How many events each buyer has online."""
    now = world.np.full(world.BUYERS, time.time_ns() // 1_000)
    found = watcher.reader.read({"buyer": list(range(world.BUYERS)), "shop": [0] * world.BUYERS}, now)
    counts: list[float] = list(found.column("orders_of_buyer", "count_1d"))
    return counts


def kill_writers(folder: Path, kills: int, seed: int = 3, *, materialize: bool = True) -> Figures:
    """Kill a process that pushes, and one that materializes, at random moments; each is started again until it is done."""
    warm_up()
    server = Server(folder / "server")
    server.start()
    repo, rng, figures = world.make_repo(folder / "repo", server.address), random.Random(seed), Figures()
    began = time.monotonic()
    try:
        _kill_pushers(repo, kills - kills // 2 if materialize else kills, rng, figures)
        if materialize:
            _kill_materializers(repo, kills, rng, figures)
    finally:
        server.kill()
    figures.seconds = time.monotonic() - began
    return figures


def _kill_pushers(repo: Repo, kills: int, rng: random.Random, figures: Figures) -> None:
    watcher = world.Watcher(repo, ("visits",), rng)
    acknowledged: set[int] = set()
    while True:
        upto = 200 * (figures.kills + 1)
        child = Child(write, (str(repo.path), upto, figures.kills))
        if figures.kills < kills:
            child.process.join(rng.uniform(0.05, 0.5))
            figures.kills += 1
            child.kill()
        else:
            child.process.join(120)
            child.listen()
        acknowledged |= {i for ids in child.said if ids for i in ids}
        check_acknowledged(watcher, acknowledged)
        if child.process.exitcode == 0 and child.said and child.said[-1] is None and figures.kills >= kills:
            break
        figures.restarts += 1
    figures.events = upto
    world.once(repo, "visits", set(range(upto)))
    wrong = world.everything(repo, "visits")
    figures.mismatches += len(wrong)
    assert not wrong, wrong[:5]


def check_acknowledged(watcher: world.Watcher, acknowledged: set[int]) -> None:
    """Right after a kill: everything that was acknowledged counts online, once, and nothing that nobody sent."""
    if not acknowledged:
        return
    rows = visits(sorted(acknowledged))
    last = 1_600_000_000_000_000 + (max(acknowledged) + 1_000) * 1_000_000
    now = world.np.full(world.BUYERS, last)
    found = watcher.reader.read({"buyer": list(range(world.BUYERS)), "shop": [0] * world.BUYERS}, now)
    counts = found.column("visits_of_buyer", "count_1d")
    recent = rows.filter(pc.greater(rows["at"].cast(world.pa.int64()), last - world.DAY))
    least = Counter(recent["buyer"].to_pylist())
    short = {b: (n, counts[b]) for b, n in least.items() if counts[b] < n}
    assert not short, f"acknowledged and not there: {short}"
    # The batch that was being pushed may be there without having been acknowledged.
    assert sum(counts) <= recent.num_rows + 12 + 200


def _kill_materializers(repo: Repo, kills: int, rng: random.Random, figures: Figures) -> None:
    from asof.online import Writer

    writer = Writer(world.PROJECT, repo.settings.online)
    while True:
        if figures.during["materialize"] % 5 == 0:
            writer.drop_project()
        child = Child(load, (str(repo.path),))
        if figures.kills < kills:
            child.process.join(rng.uniform(0.01, 0.4))
            figures.kills += 1
            figures.during["materialize"] += 1
            child.kill()
            continue
        child.process.join(120)
        assert child.process.exitcode == 0
        break
    wrong = world.everything(repo, "visits")
    figures.mismatches += len(wrong)
    assert not wrong, wrong[:5]


def main() -> None:
    """Run all three with the number of kills given, and print what happened."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    wanted = sys.argv[2:] or ["writers", "consumers", "redis"]
    CONTEXT.set_forkserver_preload([*PRELOADED, "asof.feast.compute_engine"])
    runs = {"writers": kill_writers, "consumers": kill_consumers, "redis": kill_redis}
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="asof-kills-") as folder:
            print(name, runs[name](Path(folder), kills), flush=True)  # type: ignore[operator]


if __name__ == "__main__":
    main()
