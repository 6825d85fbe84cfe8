"""``asof stream``: consumes and sends events of Redis Streams or Kafka. Runs without Feast once the registry was read."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from asof.cli import repo_option
from asof.console import ProgressLine, emit, progress, table
from asof.errors import UsageError
from asof.instants import parse_moment
from asof.online.redis.connections import connect
from asof.quantities import counted
from asof.repo import Repo
from asof.streams.consumer import Progress
from asof.streams.consumer_group import ConsumerGroup, ConsumerOptions
from asof.streams.kafka_source import KafkaPublisher
from asof.streams.metrics import StreamMetrics, serve
from asof.streams.producer import Producer, RedisPublisher
from asof.streams.redis_source import CLAIM_AFTER, GROUP
from asof.streams.status import StreamStatus, statuses
from asof.tables import declarations, delta, reading
from asof.tables.checking import layout

NAMES = click.option(
    "--stream", "names", metavar="TABLE=NAME", multiple=True, help="Stream or topic of a table; may be repeated."
)
REDIS = click.option("--redis", metavar="HOST:PORT", help="Redis that has the streams; default: the online store's.")
KAFKA = click.option("--kafka", metavar="HOST:PORT,...", help="Kafka brokers; needs asof[kafka].")
OPTIONS = click.option(
    "--kafka-option",
    "kafka_options",
    metavar="KEY=VALUE",
    multiple=True,
    help="Option of Kafka's client; may be repeated.",
)
GROUPS = click.option("--group", default=GROUP, show_default=True, help="Consumer group.")

CHUNK = 2_000
"""Rows that are sent at once."""


@click.group()
def stream() -> None:
    """Feed tables and the online store from streams, each event once on both sides.

    Example: asof stream run transactions fraud_reports
    """


@stream.command()
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option(
    "--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True, help="Most events of a batch."
)
@click.option("--linger", type=click.FloatRange(0, 60), default=1.0, show_default=True, help="Seconds to fill a batch.")
@click.option(
    "--clock", type=click.Choice(["wall", "events"]), default="wall", show_default=True,
    help="events: a replay of the past in the order of knowledge time; reads are as of the newest event.",
)  # fmt: skip
@click.option(
    "--start",
    metavar="TIME",
    help="With --clock events: the online store is complete up to here; default: the table's newest row.",
)
@click.option("--once", is_flag=True, help="End when nothing waits any more.")
@click.option("--forget", is_flag=True, help="Delete entries of a Redis Stream once they are settled.")
@click.option(
    "--claim-after", type=click.FloatRange(0.1), default=CLAIM_AFTER, show_default=True,
    help="Seconds after which what another consumer left is taken over.",
)  # fmt: skip
@click.option("--metrics-port", type=click.IntRange(0, 65_535), help="Serve Prometheus metrics at this port.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Address for the metrics.")
@GROUPS
@NAMES
@REDIS
@KAFKA
@OPTIONS
@click.pass_context
def run(
    ctx: click.Context, /, tables: tuple[str, ...], once: bool, metrics_port: int | None, metrics_address: str,
    start: str | None, names: tuple[str, ...], kafka_options: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Consume the streams of tables until told to stop (Ctrl-C, SIGTERM); the batch under way is finished first.

    Events are checked as `asof ingest` checks rows; bad ones go to the stream's dead-letter stream with the reason. It may
    be killed at any moment and started again, and any number may run: each event counts once.

    Example: asof stream run transactions --metrics-port 9109
    """
    if start is not None and options["clock"] != "events":
        raise UsageError("--start belongs to --clock events, where the events' own time counts")
    first = None if start is None else parse_moment(start)
    plan = ConsumerOptions(start=first, names=_pairs(names), kafka_options=_pairs(kafka_options), **options)
    with _stopping() as stop, progress("events") as line:
        group = ConsumerGroup(Repo.open(repo_option(ctx)), tables, plan, _drawing(line))
        try:
            with _metrics(group, metrics_port, metrics_address):
                done = group.run(stop, until_drained=once)
        finally:
            group.close()
    emit({name: found.to_dict() for name, found in done.items()}, "\n".join(_told(n, p) for n, p in done.items()))


@stream.command()
@click.argument("name", metavar="TABLE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Events per second; default: as fast as it goes."
)
@NAMES
@REDIS
@KAFKA
@OPTIONS
@click.pass_context
def send(
    ctx: click.Context, name: str, files: tuple[Path, ...], rate: float | None, names: tuple[str, ...], redis: str | None,
    kafka: str | None, kafka_options: tuple[str, ...],
) -> None:  # fmt: skip
    """Send the rows of Parquet or CSV files to the stream of a table, in their order.

    Example: asof stream send transactions payments.parquet --rate 100
    """
    repo = Repo.open(repo_option(ctx))
    plan = ConsumerOptions(names=_pairs(names), redis=redis, kafka=kafka)
    declaration = declarations(repo).table(name)
    held = delta.open_table(delta.folder(repo, declaration))
    schema = delta.schema(held) if held is not None else None
    wanted = [c.name for c in declaration.columns]
    publisher = (
        KafkaPublisher(kafka, _pairs(kafka_options)) if kafka else RedisPublisher(plan.carrier(repo.settings.online))
    )
    target = plan.stream(repo.settings.project, declaration.name)
    sent = 0
    with Producer(repo, [name], publisher, {name: target}) as producer, progress("sent") as line:
        began = time.monotonic()
        for file in reading.files(files):
            found = reading.read(file, wanted)
            columns = () if found.typed else layout(declaration, schema, found)
            rows = found.with_missing(columns, declaration.missing).table
            for at in range(0, rows.num_rows, CHUNK if rate is None else max(1, min(CHUNK, int(rate / 10)))):
                size = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 10)))
                sent += producer.push(name, rows.slice(at, size))
                line.advance(size)
                if rate is not None:
                    time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    emit({"sent": sent, "stream": target}, f"{counted(sent, 'event')} -> {target}")


@stream.command()
@click.argument("tables", metavar="[TABLE...]", nargs=-1)
@GROUPS
@NAMES
@REDIS
@click.pass_context
def status(ctx: click.Context, tables: tuple[str, ...], group: str, names: tuple[str, ...], redis: str | None) -> None:
    """Show lag, rate and freshness of the streams of tables; without a table, of all.

    Example: asof stream status
    """
    repo = Repo.open(repo_option(ctx))
    declared, plan = declarations(repo), ConsumerOptions(names=_pairs(names), redis=redis)
    wanted = [declared.table(name).name for name in tables] or [t.name for t in declared.tables.values() if t.id]
    online, project = repo.settings.online, repo.settings.project
    streams = {name: plan.stream(project, name) for name in wanted}
    carrier = plan.carrier(online)
    found = statuses(project, streams, online, connect(online), group=group, carrier=(carrier, connect(carrier)))
    emit({"streams": [one.to_dict() for one in found]}, _table_of(found))


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda _s, _f: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _metrics(group: ConsumerGroup, port: int | None, address: str) -> Iterator[None]:
    if port is None:
        yield
        return
    found = {name: consumer.progress for name, consumer in group.consumers.items()}
    end = serve(StreamMetrics(found, group.lags), port, address)
    try:
        yield
    finally:
        end()


def _drawing(line: ProgressLine) -> Callable[[str, Progress], None]:
    seen: dict[str, int] = {}

    def draw(name: str, now: Progress) -> None:
        line.advance(now.received - seen.get(name, 0))
        seen[name] = now.received
        if now.problem:
            click.echo(f"asof: {name}: {now.problem}; trying again", err=True)

    return draw


def _pairs(given: Sequence[str]) -> dict[str, str]:
    split = [text.partition("=") for text in given]
    if wrong := [
        text for text, (name, equals, value) in zip(given, split, strict=True) if not (name and equals and value)
    ]:
        raise UsageError(f"got {wrong[0]!r}, expected a name, = and a value")
    return {name: value for name, _, value in split}


def _told(name: str, done: Progress) -> str:
    line = (
        f"{name}: {counted(done.received, 'event')}, {done.added:,} added, {counted(done.duplicates, 'duplicate')}, "
        f"{done.dead:,} to the dead-letter stream"
    )
    return "\n".join([line, *(f"  {count:,}: {reason}" for reason, count in done.reasons.most_common())])


def _table_of(found: Sequence[StreamStatus]) -> str:
    header = ("table", "stream", "lag", "pending", "dead", "events/s", "freshness s", "reads as of", "consumers")
    rows = [
        (
            s.table,
            s.stream,
            s.lag,
            s.pending,
            s.dead,
            s.rate,
            s.freshness,
            s.watermark or "now",
            sum(c["alive"] for c in s.consumers),
        )
        for s in found
    ]
    return table(header, rows)
