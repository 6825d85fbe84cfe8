"""Runs one consumer per table in threads of one process: makes their sources and sinks, names them, and stops them together."""

from __future__ import annotations

import fcntl
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from asof.errors import AsofError, TableError
from asof.online import Writer
from asof.online.redis.connections import connect
from asof.online.redis.server import EmbeddedRedis
from asof.repo import Repo
from asof.settings import OnlineSettings
from asof.streams.consumer import Consumer, Progress
from asof.streams.kafka_source import KafkaSource, topic_name
from asof.streams.messages import EventSource
from asof.streams.redis_source import CLAIM_AFTER, GROUP, RedisSource, stream_name
from asof.streams.status import Heartbeats
from asof.streams.table_sink import Clock, TableSink
from asof.tables import Declarations, declarations

MOST_CONSUMERS = 1_000
"""Most consumers of one table on one machine."""


@dataclass(frozen=True)
class ConsumerOptions:
    """Options of a consumer group.

    Attributes:
        batch: Most events of a batch.
        linger: Seconds to wait for a batch to fill.
        clock: Whose clock gives knowledge time, see :data:`asof.streams.table_sink.Clock`.
        start: For ``events``: the moment up to which the online store is complete before the first event.
        group: Consumer group.
        claim_after: Seconds after which unsettled messages of another consumer are claimed.
        forget: Whether settled entries are deleted from a Redis Stream.
        names: Table -> stream or topic, where it is not the default one.
        redis: Connection string of the Redis that holds the streams; by default the online store's.
        kafka: Addresses of Kafka's brokers; None for Redis Streams.
        kafka_options: Further options of its client.
    """

    batch: int = 5_000
    linger: float = 1.0
    clock: Clock = "wall"
    start: int | None = None
    group: str = GROUP
    claim_after: float = CLAIM_AFTER
    forget: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    redis: str | None = None
    kafka: str | None = None
    kafka_options: Mapping[str, Any] = field(default_factory=dict)

    def stream(self, project: str, table: str) -> str:
        """The stream or topic of a table."""
        default = topic_name if self.kafka else stream_name
        return self.names.get(table) or default(project, table)

    def carrier(self, online: OnlineSettings) -> OnlineSettings:
        """Settings of the Redis that holds the streams."""
        return online if self.redis is None else replace(online, connection_string=self.redis, redis_type="redis")


class ConsumerGroup:
    """The consumers of some tables, one thread each.

    Args:
        repo: The feature repo.
        tables: Tables, or push sources that feed them.
        options: How to consume.
        report: Called about once a second with a table and its consumer's progress.

    Raises:
        NotFoundError: There is no such table.
        UsageError: A table cannot be fed by a stream.
        SettingsError: A declaration or an option is wrong.
        OnlineStoreError: A Redis does not answer.
    """

    def __init__(
        self,
        repo: Repo,
        tables: Sequence[str],
        options: ConsumerOptions,
        report: Callable[[str, Progress], object] = lambda _t, _p: None,
    ) -> None:
        self.repo, self.options = repo, options
        self._report = report
        self._name_locks: list[IO[str]] = []
        self._closing: list[Callable[[], object]] = []
        declared = declarations(repo)
        self.consumers = {declared.table(t).name: self._consumer(declared, declared.table(t).name) for t in tables}
        self.problem: AsofError | None = None

    @property
    def lags(self) -> dict[str, Callable[[], int | None]]:
        """Table -> a function that counts unread messages."""
        return {table: _lag(consumer.source) for table, consumer in self.consumers.items()}

    def run(self, stop: threading.Event, *, until_drained: bool = False) -> dict[str, Progress]:
        """Consume until ``stop`` is set or a consumer fails.

        Raises:
            AsofError: The error of the consumer that failed.
        """
        threads = [
            threading.Thread(target=self._work, args=(c, stop, until_drained), name=f"stream-{t}")
            for t, c in self.consumers.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # a signal is handled between two waits
        if self.problem is not None:
            raise self.problem
        return {table: consumer.progress for table, consumer in self.consumers.items()}

    def close(self) -> None:
        """Close all connections and release the consumers' names."""
        for work in self._closing:
            work()
        for lock in self._name_locks:
            lock.close()

    def _work(self, consumer: Consumer, stop: threading.Event, until_drained: bool) -> None:
        try:
            consumer.run(stop, until_drained=until_drained)
        except AsofError as error:
            self.problem = error
            stop.set()
        except Exception as error:  # noqa: BLE001 - a thread's error is the caller's, and ends the others
            self.problem = AsofError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            stop.set()

    def _consumer(self, declared: Declarations, table: str) -> Consumer:
        online, project = self.repo.settings.online, self.repo.settings.project
        client, writer = connect(online), Writer(project, online)
        watermark = writer.watermark(table)
        sink = TableSink(self.repo, declared, table, writer, watermark, self.options.clock, self.options.start)
        name = self._reserve_name(table)
        source = self._source(table, name)
        self._closing += [source.close, writer.close, client.close]
        heartbeats = Heartbeats(project, online, client)
        consumer = Consumer(source, sink, self.options.batch, self.options.linger, self._revive)
        consumer.report = lambda progress: self._tell(heartbeats, table, source.name, name, progress)
        return consumer

    def _source(self, table: str, name: str) -> EventSource:
        stream = self.options.stream(self.repo.settings.project, table)
        if self.options.kafka:
            return KafkaSource(self.options.kafka, stream, group=self.options.group, options=self.options.kafka_options)
        carrier = self.options.carrier(self.repo.settings.online)
        return RedisSource(
            carrier, connect(carrier), stream, name, group=self.options.group, claim_after=self.options.claim_after,
            forget=self.options.forget,
        )  # fmt: skip

    def _revive(self) -> None:
        online = self.repo.settings.online
        if online.embedded:
            EmbeddedRedis(online.folder).start()

    def _tell(self, heartbeats: Heartbeats, table: str, stream: str, name: str, progress: Progress) -> None:
        heartbeats.send(table, stream, name, progress)
        self._report(table, progress)

    def _reserve_name(self, table: str) -> str:
        """Reserve the first name that no running consumer on this machine has. The successor of a killed consumer gets its name and its unsettled messages."""
        folder = self.repo.settings.data / "streams"
        for number in range(MOST_CONSUMERS):
            handle = _locked(folder / f"{table}.{number}.lock")
            if handle is not None:
                self._name_locks.append(handle)
                return f"{socket.gethostname()}-{number}"
        raise TableError(f"{MOST_CONSUMERS} consumers of table {table!r} run on this machine already; stop some")


def _locked(path: Path) -> IO[str] | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def _lag(source: EventSource) -> Callable[[], int | None]:
    if isinstance(source, KafkaSource):
        return source.lag
    if isinstance(source, RedisSource):
        return lambda: _unread(source)
    return lambda: None


def _unread(source: RedisSource) -> int | None:
    try:
        return source.backlog()["unread"]
    except AsofError:
        return None
