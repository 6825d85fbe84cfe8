"""Events from Kafka (``pip install asof[kafka]``): a topic is a stream, its value the event, a consumer group the consumers.

Offsets are committed after both sides were written. Bad events go to the topic ``<topic>.dead`` before that, with the reason in
a header: one that was sent there before a crash is sent again after it, with the same position.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asof.errors import OnlineStoreError, SettingsError
from asof.streams.messages import DeadLetter, Message
from asof.streams.redis_source import GROUP, WAIT

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

MOVED = {"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "_NO_OFFSET", "_ASSIGNMENT_LOST"}
"""Errors that mean: the partition is another consumer's now, who gets the messages again and finds both sides written."""

PATIENCE = 10.0
"""Seconds to wait for an answer of the brokers."""


def topic_name(project: str, table: str) -> str:
    """The topic of a table, unless another one is named: ``asof.project.table``."""
    return f"asof.{project}.{table}"


def dead_letter_name(topic: str) -> str:
    """The dead-letter topic beside ``topic``."""
    return f"{topic}.dead"


class KafkaSource:
    """One consumer of a topic.

    Args:
        brokers: Addresses, ``host:port[,host:port...]``.
        topic: Name of the topic.
        group: Consumer group.
        options: Further options of librdkafka.

    Raises:
        SettingsError: The client library is not installed, or refuses an option.
    """

    def __init__(
        self, brokers: str, topic: str, *, group: str = GROUP, options: Mapping[str, Any] | None = None
    ) -> None:
        library = _library()
        self.topic = topic
        common = {"bootstrap.servers": brokers, **(options or {})}
        mine = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        try:
            self._consumer: Consumer = library.Consumer({**common, **mine})
            self._producer: Producer = library.Producer({**common, "enable.idempotence": True})
        except library.KafkaException as error:
            raise SettingsError(f"Kafka's client refuses its options: {error}") from error
        self._consumer.subscribe([topic])
        self._failure = library.KafkaException

    @property
    def name(self) -> str:
        """The topic."""
        return self.topic

    def poll(self, count: int, linger: float) -> list[Message]:
        """As :meth:`asof.streams.messages.EventSource.poll`.

        Raises:
            OnlineStoreError: The brokers report an error.
        """
        found = self._consume(1, WAIT)
        deadline = time.monotonic() + linger
        while found and len(found) < count and (left := deadline - time.monotonic()) > 0:
            found += self._consume(count - len(found), left)
        return found

    def settle(self, messages: Sequence[Message], dead_letters: Sequence[DeadLetter]) -> None:
        """Send the dead letters to the dead-letter topic, wait until they are there, and commit the offsets.

        Raises:
            OnlineStoreError: The brokers do not take the dead letters or the offsets.
        """
        for dead_letter in dead_letters:
            said: list[tuple[str, str | bytes | None]] = [
                ("reason", dead_letter.reason.encode()),
                ("position", dead_letter.message.position.encode()),
            ]
            self._producer.produce(dead_letter_name(self.topic), dead_letter.message.payload or b"", headers=said)
        if self._producer.flush(PATIENCE):
            raise OnlineStoreError(
                f"Kafka did not take the dead letters of topic {self.topic!r} within {PATIENCE:.0f} s"
            )
        try:
            self._consumer.commit(offsets=_offsets(messages), asynchronous=False)
        except self._failure as error:
            if error.args[0].name() not in MOVED:
                raise OnlineStoreError(f"Kafka did not take the offsets of topic {self.topic!r}: {error}") from error

    def drained(self) -> bool:
        """Whether the committed offsets of every partition of this consumer are its end."""
        return self.lag() == 0

    def lag(self) -> int | None:
        """Messages of this consumer's partitions that are not committed; None while it has no partitions or no broker answers."""
        try:
            mine = self._consumer.assignment()
            if not mine:
                return None
            waiting = 0
            for partition in self._consumer.committed(mine, timeout=PATIENCE):
                low, high = self._consumer.get_watermark_offsets(partition, timeout=PATIENCE)
                waiting += high - max(partition.offset, low)
        except self._failure:
            return None
        return waiting

    def pending(self) -> None:
        """Kafka does not say what was delivered and not committed."""
        return

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _consume(self, count: int, seconds: float) -> list[Message]:
        found, problem = [], ""
        for raw in self._consumer.consume(count, seconds):
            if (error := raw.error()) is not None:
                ignored = error.retriable() or error.name() in {"UNKNOWN_TOPIC_OR_PART", "_PARTITION_EOF"}
                problem = problem if ignored else error.str()
                continue
            position = f"{raw.topic()}/{raw.partition()}/{raw.offset()}"
            found.append(Message(position, raw.value(), raw.timestamp()[1] * 1000))
        if problem and not found:  # what was handed over must not be lost; the error comes again
            raise OnlineStoreError(f"Kafka topic {self.topic!r}: {problem}")
        return found


class KafkaPublisher:
    """Appends to topics.

    Args:
        brokers: Addresses, ``host:port[,host:port...]``.
        options: Further options of librdkafka.

    Raises:
        SettingsError: The client library is not installed, or refuses an option.
    """

    def __init__(self, brokers: str, options: Mapping[str, Any] | None = None) -> None:
        library = _library()
        try:
            self._producer: Producer = library.Producer(
                {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 5, **(options or {})}
            )
        except library.KafkaException as error:
            raise SettingsError(f"Kafka's client refuses its options: {error}") from error

    def send(self, stream: str, payloads: Sequence[bytes]) -> None:
        """Append events to a topic, in order, and wait until they are there.

        Raises:
            OnlineStoreError: The brokers do not take them; some may be there.
        """
        for payload in payloads:
            while True:
                try:
                    self._producer.produce(stream, payload)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        if self._producer.flush(PATIENCE):
            raise OnlineStoreError(f"Kafka did not take all events for topic {stream!r} within {PATIENCE:.0f} s")

    def close(self) -> None:
        """Send what is left."""
        self._producer.flush(PATIENCE)


def _library() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise SettingsError("Kafka's client is not installed; run: pip install 'asof[kafka]'") from None
    return confluent_kafka


def _offsets(messages: Sequence[Message]) -> list[Any]:
    """For each partition the offset after the last of ``messages``."""
    from confluent_kafka import TopicPartition

    after: dict[tuple[str, int], int] = {}
    for message in messages:
        topic, partition, offset = message.position.rsplit("/", 2)
        place = (topic, int(partition))
        after[place] = max(after.get(place, 0), int(offset) + 1)
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in after.items()]
