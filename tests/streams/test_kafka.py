"""Events from Kafka: the brokers are the mock cluster of Kafka's own client, on loopback."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import confluent_kafka
import pytest

from asof.errors import SettingsError
from asof.online import Writer
from asof.repo import Repo
from asof.streams import Producer
from asof.streams.consumer_group import ConsumerGroup, ConsumerOptions
from asof.streams.kafka_source import KafkaPublisher, KafkaSource, dead_letter_name, topic_name
from tests.streams import world

TOPIC = topic_name(world.PROJECT, "orders")
IMPATIENT = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}
"""The mock cluster notices that a consumer left only when its session has ended."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    """The address of a cluster of one broker that lives in this process."""
    host = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = host.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    host.flush(1)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return f"{request.node.name}-{time.monotonic_ns()}"


@pytest.fixture
def run(repo: Repo, brokers: str, topic: str) -> Callable[[], dict[str, Any]]:
    """Consumes until nothing waits, with a new consumer each time."""

    def work() -> dict[str, Any]:
        group = ConsumerGroup(
            repo,
            ["orders"],
            ConsumerOptions(kafka=brokers, kafka_options=IMPATIENT, names={"orders": topic}, linger=0.05, batch=40),
        )
        try:
            return group.run(threading.Event(), until_drained=True)["orders"].to_dict()
        finally:
            group.close()

    return work


def send(repo: Repo, brokers: str, topic: str, ids: range, *others: bytes) -> None:
    """Send events, and texts that are none."""
    with Producer(repo, ["orders"], KafkaPublisher(brokers), {"orders": topic}) as producer:
        producer.push("orders", world.events(ids, random.Random(1)))
        producer.publisher.send(topic, list(others))


def test_each_event_is_once_on_both_sides(
    repo: Repo, brokers: str, topic: str, run: Callable[[], dict[str, Any]]
) -> None:
    """Events that Kafka has twice count once, and bad ones are on the dead-letter topic."""
    send(repo, brokers, topic, range(100), b"nonsense")
    send(repo, brokers, topic, range(90, 120))
    done = run()
    assert (done["received"], done["added"], done["duplicates"], done["dead"]) == (131, 120, 10, 1)
    world.once(repo, "orders", set(range(120)))
    assert world.everything(repo, "orders") == []
    dead = KafkaSource(brokers, dead_letter_name(topic), group="reader")
    deadline = time.monotonic() + 20
    while not (found := dead.poll(10, 0.1)) and time.monotonic() < deadline:
        pass
    dead.close()
    assert [m.payload for m in found] == [b"nonsense"]


def test_offsets_follow_both_writes(
    repo: Repo, brokers: str, topic: str, run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that dies before it commits leaves its messages to the next, who finds both sides written."""
    send(repo, brokers, topic, range(30))
    taken: list[int] = []

    def killed(_: KafkaSource, messages: Sequence[Any], dead_letters: Sequence[Any]) -> None:
        taken.append(len(messages))
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(KafkaSource, "settle", killed)
        with pytest.raises(Exception, match="killed"):
            run()
    # How many messages a batch has depends on which partitions answered by then.
    (before,) = taken
    done = run()
    assert (done["added"], done["duplicates"]) == (30 - before, before)
    world.once(repo, "orders", set(range(30)))
    assert world.everything(repo, "orders") == []


def test_options_that_the_client_does_not_know_are_refused(brokers: str) -> None:
    """A mistyped option is one line."""
    with pytest.raises(SettingsError, match="refuses its options"):
        KafkaSource(brokers, TOPIC, options={"no.such.option": 1})
    with pytest.raises(SettingsError, match="refuses its options"):
        KafkaPublisher(brokers, {"no.such.option": 1})


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Kafka's client is not installed the error says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    with pytest.raises(SettingsError, match=r"asof\[kafka\]"):
        KafkaSource("127.0.0.1:1", TOPIC)


@pytest.fixture
def consumer(repo: Repo, brokers: str, topic: str) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `asof stream run` in processes that are gone afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        options = [f"--kafka-option={name}={value}" for name, value in IMPATIENT.items()]
        places = ["--kafka", brokers, "--stream", f"orders={topic}", "--batch", "20", "--linger", "0.05", *options]
        command = [sys.executable, "-m", "asof", "--repo", str(repo.path), "stream", "run", "orders", "--json", *places]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def added(repo: Repo, least: int, seconds: float = 60) -> int:
    """How many rows the table has, once it has at least so many."""
    deadline = time.monotonic() + seconds
    while (rows := world.held(repo, "orders").num_rows) < least:
        assert time.monotonic() < deadline, f"{rows} of {least} events"
        time.sleep(0.05)
    return rows


@pytest.mark.timeout(240)
def test_consumers_that_die_join_and_leave(
    repo: Repo, brokers: str, topic: str, consumer: Callable[[], subprocess.Popen[str]]
) -> None:
    """One consumer is killed in the middle of its batches and started again, another joins and leaves: each event is once, each read right."""
    watcher = world.Watcher(repo, ("orders",), random.Random(1))
    first = consumer()
    send(repo, brokers, topic, range(300))
    added(repo, 1)
    first.kill()
    watcher.look()
    second = consumer()
    send(repo, brokers, topic, range(250, 500), b"nonsense")
    watcher.look()
    third = consumer()
    done = added(repo, 400)
    send(repo, brokers, topic, range(500, 800))
    added(repo, done + 20)
    watcher.look()
    second.send_signal(signal.SIGTERM)
    send(repo, brokers, topic, range(780, 900))
    added(repo, 900)
    until_seen(repo)
    watcher.look()
    third.send_signal(signal.SIGTERM)
    assert [second.wait(60), third.wait(60)] == [0, 0]
    world.once(repo, "orders", set(range(900)))
    assert watcher.mismatches() == []
    assert world.everything(repo, "orders") == []


def until_seen(repo: Repo, seconds: float = 60) -> None:
    """Wait until no event is under way."""
    writer, deadline = Writer(world.PROJECT, repo.settings.online), time.monotonic() + seconds
    while writer.watermark("orders").under_way():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    writer.close()
