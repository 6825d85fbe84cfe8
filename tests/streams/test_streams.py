"""Events through a real Redis into a real table and the online store."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from asof.cli import cli
from asof.errors import OnlineStoreError, SettingsError, TableError, UsageError
from asof.online import Writer, connect
from asof.online.redis.server import EmbeddedRedis
from asof.online.redis.watermarks import RedisWatermark
from asof.online.watermarks import SLACK
from asof.repo import Repo
from asof.streams import BatchResult, Message, Producer, Progress, TableSink
from asof.streams.consumer_group import ConsumerGroup, ConsumerOptions
from asof.streams.metrics import StreamMetrics, serve
from asof.streams.redis_source import FIELD, RedisSource, backlog, dead_letter_name, stream_name
from asof.streams.status import Heartbeats
from asof.tables import declarations
from tests.streams import world

ORDERS, VISITS = (stream_name(world.PROJECT, t) for t in ("orders", "visits"))
START = 1_600_000_000_000_000


@pytest.fixture
def groups(repo: Repo) -> Iterator[Callable[..., ConsumerGroup]]:
    """Makes groups that are closed afterwards."""
    made: list[ConsumerGroup] = []

    def make(*tables: str, **options: Any) -> ConsumerGroup:
        made.append(ConsumerGroup(repo, tables or ["orders"], ConsumerOptions(**{"linger": 0.01, **options})))
        return made[-1]

    yield make
    for group in made:
        group.close()


def send(repo: Repo, table: str, rows: pa.Table, *others: bytes) -> None:
    """Send rows, and texts that are no rows."""
    with Producer(repo, [table]) as producer:
        producer.push(table, rows)
        producer.publisher.send(producer.streams[table], list(others))


def drain(group: ConsumerGroup) -> Progress:
    """Consume until nothing waits; the progress of the only table."""
    (progress,) = group.run(threading.Event(), until_drained=True).values()
    return progress


def events(first: int, count: int, at: int | None = None) -> pa.Table:
    """``count`` events with ids from ``first``."""
    return world.events(range(first, first + count), random.Random(first), at)


def dead_letters(repo: Repo, stream: str) -> list[dict[str, str]]:
    """What lies on a dead-letter stream."""
    found = connect(repo.settings.online).xrange(dead_letter_name(stream))
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]


def watermark(repo: Repo, table: str = "orders") -> RedisWatermark:
    """The table's watermark."""
    return RedisWatermark(world.PROJECT, table, repo.settings.online, connect(repo.settings.online))


def test_each_event_is_once_on_both_sides(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """Events that are sent twice, in one batch or in two, count once in the table and in every view."""
    send(repo, "orders", events(0, 300))
    send(repo, "orders", pa.concat_tables([events(0, 20), events(300, 50), events(300, 10)]))
    done = drain(groups(batch=100))
    assert (done.received, done.added, done.duplicates, done.dead) == (380, 350, 30, 0)
    world.once(repo, "orders", set(range(350)))
    assert world.everything(repo, "orders") == []


def test_bad_events_go_to_the_dead_letter_stream(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """A bad event is there with what it was, where it stood and why; the others are taken in; all are acknowledged."""
    send(repo, "orders", events(0, 5), b"nonsense", world.bad(9))
    done = drain(groups())
    found = dead_letters(repo, ORDERS)
    assert [(x["event"], x["reason"]) for x in found] == [
        ("nonsense", "not a JSON object"),
        (world.bad(9).decode(), "at: null"),
    ]
    assert dict(done.reasons) == {"not a JSON object": 1, "at: null": 1}
    waiting = backlog(repo.settings.online, connect(repo.settings.online), ORDERS, "asof", 10)
    assert waiting == {"unread": 0, "pending": 0, "behind": 0}


STEPS = ["commit", "write", "finish", "settle"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_neither_loses_nor_doubles(
    repo: Repo, groups: Callable[..., ConsumerGroup], monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """Whatever the last thing was that a consumer did, the next one completes its batch, bad events included, under the first stamps."""
    owner, name = {
        "commit": ("asof.tables.event_writer", "commit"),
        "write": ("asof.online.writer.Writer", "write"),
        "finish": ("asof.online.redis.watermarks.RedisWatermark", "finish"),
        "settle": ("asof.streams.redis_source.RedisSource", "settle"),
    }[step]
    send(repo, "orders", events(0, 40), world.bad(1))
    dying = groups()
    with monkeypatch.context() as patch:
        patch.setattr(f"{owner}.{name}", _dying(owner, name, after=after))
        with pytest.raises(Exception, match="killed"):
            drain(dying)
    dying.close()
    under_way = world.Watcher(repo, ("orders",), random.Random(1))
    under_way.look()
    stamped = watermark(repo).under_way()
    send(repo, "orders", events(40, 10))
    drain(groups())
    world.once(repo, "orders", set(range(50)))
    assert len(dead_letters(repo, ORDERS)) == 1
    assert bool(stamped) == (step in {"commit", "write"} or (step == "finish" and not after))
    assert under_way.mismatches() == []
    assert world.everything(repo, "orders") == []


def _dying(owner: str, name: str, *, after: bool) -> Any:
    """A stand-in that ends its consumer before or after the real work."""
    import importlib

    module, _, inside = owner.rpartition(".")
    real = getattr(
        importlib.import_module(owner) if inside.islower() else getattr(importlib.import_module(module), inside), name
    )

    def work(*arguments: Any, **options: Any) -> Any:
        if after:
            real(*arguments, **options)
        raise RuntimeError("killed")

    return work


def test_events_under_way_hold_reads_back(repo: Repo) -> None:
    """Between stamp and finish reads are as of just before the oldest stamp; then as of the moment asked for."""
    mark = watermark(repo)
    stamps, low = mark.begin(["1-0", "2-0"])
    later, same_low = mark.begin(["2-0", "3-0"])
    assert stamps[0] == stamps[1] == later[0] < later[1]
    assert mark.value() == stamps[0] - 1
    assert stamps[0] - 3 * SLACK < low <= same_low < stamps[0]
    reader = world.Watcher(repo, ("orders",), random.Random(0)).reader
    now = time.time_ns() // 1_000 + 10 * SLACK
    ask = {"buyer": [1, 2], "shop": [1, 2]}
    assert reader.read(ask, np.array([now, 5])).as_of.tolist() == [int(stamps[0]) - 1, 5]
    mark.finish(["1-0", "2-0"])
    assert reader.read(ask, np.array([now, 5])).as_of.tolist() == [int(later[1]) - 1, 5]
    mark.finish(["3-0"])
    assert reader.read(ask, np.array([now, 5])).as_of.tolist() == [now, 5]


def test_stamps_of_events_that_are_gone_do_not_hold_reads_back_for_ever(
    repo: Repo, groups: Callable[..., ConsumerGroup]
) -> None:
    """A consumer that starts forgets stamps of events that the stream no longer owes anyone."""
    watermark(repo).begin(["1-1"])
    drain(groups())
    assert watermark(repo).value() is None


def test_knowledge_time_is_arrival_whatever_the_sender_says(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """A stamped event is known from when Redis saw it on, and not from the moment that it claims."""
    before = time.time_ns() // 1_000
    claimed = events(0, 3).append_column("known_at", pa.array([before - 10**9] * 3, pa.int64()).cast(world.MOMENT))
    send(repo, "orders", claimed)
    drain(groups())
    known = world.held(repo, "orders")["known_at"].cast(pa.int64()).to_pylist()
    assert min(known) > before


def test_what_a_dead_consumer_had_is_taken_over(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """Entries that were delivered to a consumer that is gone reach another one after a while."""
    send(repo, "orders", events(0, 30))
    online = repo.settings.online
    RedisSource(online, connect(online), ORDERS, "gone").poll(20, 0)
    assert drain(groups(claim_after=0.1)).added == 30
    world.once(repo, "orders", set(range(30)))


def test_two_consumers_on_one_machine_have_two_names(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """A name is free again when its consumer has ended, so that the next one gets what it left first."""
    first, second = groups(), groups()
    names = [c.consumers["orders"].source.consumer for c in (first, second)]  # type: ignore[attr-defined]
    first.close()
    third = groups().consumers["orders"].source.consumer  # type: ignore[attr-defined]
    assert len(set(names)) == 2
    assert third == names[0]


def test_a_batch_is_full_or_has_waited(repo: Repo) -> None:
    """A poll gives at most the count, and what comes within the linger time belongs to one batch."""
    online = repo.settings.online
    send(repo, "orders", events(0, 25))
    source = RedisSource(online, connect(online), ORDERS, "one")
    assert [len(source.poll(10, 0.0)) for _ in range(3)] == [10, 10, 5]
    late = threading.Timer(0.2, send, (repo, "orders", events(30, 5)))
    send(repo, "orders", events(25, 5))
    late.start()
    assert len(source.poll(10, 5.0)) == 10
    late.join()


def test_entries_with_a_field_for_each_column_are_events(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """Other producers may write fields instead of JSON."""
    fields: dict[Any, Any] = {"id": "5", "at": "2020-01-01T00:00:00Z", "buyer": "1", "shop": "2", "price": "3.5"}
    connect(repo.settings.online).xadd(ORDERS, fields)
    assert drain(groups()).added == 1
    assert world.held(repo, "orders")["price"].to_pylist() == [3.5]


def test_settled_entries_may_be_forgotten(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """With ``--forget`` the stream holds only what is still owed."""
    send(repo, "orders", events(0, 30))
    drain(groups(forget=True))
    assert connect(repo.settings.online).xlen(ORDERS) == 0


def test_an_ordered_stream_holds_reads_at_its_newest_event(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """In a replay reads are as of the newest event taken in, also those that ask for later; after its end as of what they ask."""
    group = groups("visits", clock="events", start=START)
    send(repo, "visits", events(0, 10, START))
    stop = threading.Event()
    runner = threading.Thread(target=group.run, args=(stop,))
    runner.start()
    reader = world.Watcher(repo, ("visits",), random.Random(0)).reader
    ask, far = {"buyer": [1], "shop": [1]}, np.array([START + 10**9])
    deadline = time.monotonic() + 20
    while (as_of := int(reader.read(ask, far).as_of[0])) != START + 4_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    runner.join()
    assert as_of == START + 4_000_000  # known a microsecond later, and another one may follow at the same moment
    assert reader.read(ask, far).as_of.tolist() == far.tolist()
    assert world.everything(repo, "visits") == []


def test_an_event_out_of_order_is_counted(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """An event that the watermark has passed is taken in and told."""
    send(repo, "visits", events(0, 10, START))
    assert drain(groups("visits", clock="events", start=START, batch=5)).late == 0
    watermark(repo, "visits").lift(START + 4_000_000)
    send(repo, "visits", events(10, 2, START))
    assert drain(groups("visits", clock="events", start=START)).late == 2
    world.once(repo, "visits", set(range(12)))


def test_tables_that_a_stream_cannot_feed_are_refused(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without an id, and an order of its own for one that stamps arrival, are wrong use."""
    online, declared = repo.settings.online, declarations(repo)
    with pytest.raises(UsageError, match="stamps arrival"):
        TableSink(repo, declared, "orders", None, watermark(repo), "events")  # type: ignore[arg-type]
    nameless = {"asof.column.at": "timestamp"}
    declared.tables["plain"] = world.TableDeclaration("plain", "data/tables/plain", "delta", "at", tags=nameless)
    with pytest.raises(SettingsError, match=r"no tag asof\.id"):
        TableSink(repo, declared, "plain", None, watermark(repo))  # type: ignore[arg-type]
    assert online.embedded


def test_a_table_out_of_reach_is_tried_again(
    repo: Repo, groups: Callable[..., ConsumerGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a table or Redis fails the batch is kept and told as a problem; when it works again the batch is settled."""
    real, failures = TableSink.write, [TableError("disk full"), OnlineStoreError("away"), TableError("disk full")]

    def write(self: TableSink, messages: list[Message], source: str) -> BatchResult:
        if failures:
            raise failures.pop()
        return real(self, messages, source)

    monkeypatch.setattr(TableSink, "write", write)
    monkeypatch.setattr("asof.streams.consumer.TRY_AGAIN", 0.01)
    send(repo, "orders", events(0, 10))
    group = groups()
    told: list[str] = []
    consumer = group.consumers["orders"]
    report = consumer.report
    consumer.report = lambda progress: (told.append(progress.problem), report(progress))
    done = drain(group)
    assert (done.added, done.retries, done.problem) == (10, 3, "")
    assert {"disk full", "away", ""} <= set(told)


def test_a_redis_that_ended_is_started_again(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """A consumer of the repo's own Redis survives its end."""
    send(repo, "orders", events(0, 10))
    group = groups()
    stop = threading.Event()
    runner = threading.Thread(target=group.run, args=(stop,))
    runner.start()
    EmbeddedRedis(repo.settings.online.folder).stop()
    send(repo, "orders", events(10, 10))
    deadline = time.monotonic() + 30
    while group.consumers["orders"].progress.received < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    runner.join()
    world.once(repo, "orders", set(range(20)))
    assert world.everything(repo, "orders") == []


def test_small_files_of_a_stamped_table_are_merged(
    repo: Repo, groups: Callable[..., ConsumerGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some commits the table's small files become one, and no value changes."""
    monkeypatch.setattr("asof.streams.table_sink.COMPACT_EVERY", 4)
    send(repo, "orders", events(0, 40))
    drain(groups(batch=10))
    folder = repo.path / "data" / "tables" / "orders"
    found = world.delta.open_table(folder)
    assert found is not None
    assert len(found.file_uris()) == 1
    world.once(repo, "orders", set(range(40)))
    assert world.everything(repo, "orders") == []


def test_metrics_tell_what_a_consumer_does(repo: Repo, groups: Callable[..., ConsumerGroup]) -> None:
    """Counts, lag, rate and freshness are served on loopback in Prometheus's format."""
    send(repo, "orders", events(0, 10), world.bad(1))
    group = groups()
    drain(group)
    send(repo, "orders", events(10, 3))
    progress = {t: c.progress for t, c in group.consumers.items()}
    with pytest.raises(UsageError, match="choose another --metrics-port"):
        serve(StreamMetrics(progress, group.lags), 1, "192.0.2.1")
    port = _free_port()
    end = serve(StreamMetrics(progress, group.lags), port)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    end()
    assert 'asof_stream_events_total{outcome="added",table="orders"} 10.0' in text
    assert 'asof_stream_events_total{outcome="dead",table="orders"} 1.0' in text
    assert 'asof_stream_lag_events{table="orders"} 3.0' in text
    assert 'asof_stream_freshness_seconds{table="orders"}' in text


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asof(repo: Repo, *arguments: str) -> Any:
    """The JSON answer of a verb, run in this process."""
    answer = CliRunner().invoke(cli, ["--repo", str(repo.path), *arguments, "--json"], catch_exceptions=False)
    assert answer.exit_code == 0
    return json.loads(answer.stdout)


def test_the_command_line_sends_consumes_and_tells(repo: Repo, tmp_path: Path) -> None:
    """``stream send``, ``stream run --once`` and ``stream status`` are the loop."""
    pq.write_table(events(0, 50), tmp_path / "rows.parquet")
    assert asof(repo, "stream", "send", "orders_push", str(tmp_path / "rows.parquet"), "--rate", "5000")["sent"] == 50
    before = {s["table"]: s for s in asof(repo, "stream", "status")["streams"]}
    assert (before["orders"]["lag"], before["orders"]["pending"], before["visits"]["lag"]) == (50, 0, 0)
    done = asof(repo, "stream", "run", "orders", "--once", "--linger", "0", "--metrics-port", "0")
    assert done["orders"]["added"] == 50
    (after,) = asof(repo, "stream", "status", "orders")["streams"]
    assert (after["lag"], after["dead"], after["watermark"]) == (0, 0, None)
    assert after["freshness"] > 0
    assert after["rate"] == done["orders"]["rate"] > 0
    assert [c["received"] for c in after["consumers"]] == [50]
    world.once(repo, "orders", set(range(50)))


def test_another_stream_and_another_redis_may_be_named(repo: Repo, tmp_path: Path) -> None:
    """``--stream`` and ``--redis`` say where events are."""
    from tests.streams.kills import Server

    server = Server(tmp_path / "other")
    server.start()
    try:
        pq.write_table(events(0, 5), tmp_path / "rows.parquet")
        where = ("--stream", "orders=mine", "--redis", server.address)
        assert asof(repo, "stream", "send", "orders", str(tmp_path / "rows.parquet"), *where)["stream"] == "mine"
        assert asof(repo, "stream", "run", "orders", "--once", *where)["orders"]["added"] == 5
        assert asof(repo, "stream", "status", "orders", *where)["streams"][0]["stream"] == "mine"
    finally:
        server.kill()
    assert not connect(repo.settings.online).exists("mine", ORDERS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing"], "no table named 'nothing'"),
        (["run", "orders", "--stream", "x"], "expected a name, = and a value"),
        (["run", "orders", "--start", "2020-01-01"], "--start belongs to --clock events"),
        (["run", "orders", "--clock", "events"], "stamps arrival"),
    ],
)
def test_wrong_use_is_one_line(repo: Repo, arguments: list[str], said: str) -> None:
    """What cannot be is said before anything is read."""
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(cli, ["--repo", str(repo.path), "stream", *arguments], catch_exceptions=False)


def test_payloads_are_under_one_field() -> None:
    """The field is part of what other programs rely on."""
    assert FIELD == b"event"


def test_deleting_a_project_takes_what_consumers_keep_and_leaves_streams(
    repo: Repo, groups: Callable[..., ConsumerGroup]
) -> None:
    """Watermarks, stamps and heartbeats of a project are deleted with it; its streams and other projects' keys stay."""
    send(repo, "orders", world.events(range(10), random.Random(1)), b"nonsense")
    drain(groups())
    online = repo.settings.online
    client = connect(online)
    for project in (world.PROJECT, f"{world.PROJECT}2", f"{world.PROJECT}*"):
        RedisWatermark(project, "orders", online, client).begin(["1-1"])
        Heartbeats(project, online, client).send("orders", ORDERS, "one", Progress())
    before = {key.decode() for key in client.keys("*")}
    assert {f"{{asof/streams}}#{k}" for k in ("watermarks", "inflight/orders", "consumers")} < before
    writer = Writer(world.PROJECT, online)
    writer.drop_project()
    writer.close()
    left = {key.decode() for key in client.keys("*")}
    client.close()
    assert left == {k for k in before if not k.startswith(("asof/streams/", "asof/streams#", "{asof/streams}#"))}
    assert {ORDERS, dead_letter_name(ORDERS), "{asof/streams2}#inflight/orders", "{asof/streams%2A}#consumers"} <= left
