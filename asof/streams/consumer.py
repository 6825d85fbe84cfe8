"""Moves batches from a stream to a table until it is stopped; retries while Redis or the table is out of reach."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from asof.errors import OnlineStoreError, SourceError, TableError
from asof.streams.messages import EventSource, Message
from asof.streams.table_sink import BatchResult, TableSink

TRY_AGAIN, AT_MOST = 0.2, 5.0
"""Seconds before the first retry of a failed batch, and between retries at most."""

RATE_OVER = 10.0
"""Seconds over which the rate is averaged."""

REPORT_EVERY = 1.0


@dataclass
class Progress:
    """What a consumer has done since it started.

    Attributes:
        received: Events that were settled: the sum of the next three.
        added: Events that were new.
        duplicates: Events that the table had.
        dead: Events that went to the dead-letter stream.
        late: Events of an ordered stream with a knowledge time before the watermark.
        batches: Batches written.
        retries: Retries of batches.
        freshness: Seconds between the arrival of the last batch's oldest event in the stream and its visibility to reads.
        problem: Why the last attempt failed; empty if it did not.
    """

    received: int = 0
    added: int = 0
    duplicates: int = 0
    dead: int = 0
    late: int = 0
    batches: int = 0
    retries: int = 0
    freshness: float | None = None
    problem: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    _recent: deque[tuple[float, int]] = field(default_factory=deque, repr=False)

    @property
    def rate(self) -> float:
        """Events per second over the last ten seconds."""
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > RATE_OVER:
            self._recent.popleft()
        return sum(n for _, n in self._recent) / RATE_OVER

    def add(self, messages: list[Message], outcome: BatchResult) -> None:
        """Count a batch that was settled."""
        self.received += len(messages)
        self.added += outcome.added
        self.duplicates += outcome.duplicates
        self.dead += len(outcome.dead_letters)
        self.late += outcome.late
        self.batches += 1
        self.problem = ""
        self.freshness = time.time() - min(m.sent for m in messages) / 1e6
        self.reasons.update(dead_letter.reason for dead_letter in outcome.dead_letters)
        self._recent.append((time.monotonic(), len(messages)))

    def to_dict(self) -> dict[str, Any]:
        """The progress as JSON-ready data."""
        names = ("received", "added", "duplicates", "dead", "late", "batches", "retries", "problem")
        counts: dict[str, Any] = {name: getattr(self, name) for name in names}
        freshness = None if self.freshness is None else round(self.freshness, 3)
        return {**counts, "rate": round(self.rate, 1), "freshness": freshness, "reasons": dict(self.reasons)}


@dataclass
class Consumer:
    """Moves events from a source into a table.

    Args:
        source: The stream.
        sink: Where they go.
        batch: Most events of a batch.
        linger: Seconds to wait for a batch to fill.
        revive: Called before a retry, to restart an embedded Redis that has ended.
        report: Called about once a second with the progress, and at the end.
    """

    source: EventSource
    sink: TableSink
    batch: int = 5_000
    linger: float = 1.0
    revive: Callable[[], object] = lambda: None
    report: Callable[[Progress], object] = lambda _progress: None
    progress: Progress = field(default_factory=Progress)
    _reported: float = 0.0

    def run(self, stop: threading.Event, *, until_drained: bool = False) -> Progress:
        """Consume until ``stop`` is set; the current batch is finished first.

        Args:
            stop: Ends the loop when it is set.
            until_drained: End when no message is waiting.

        Raises:
            AsofError: An error that a retry does not cure.
        """
        self._persist(lambda: self.sink.open(self.source), stop)
        while not stop.is_set():
            messages = self._persist(lambda: self.source.poll(self.batch, self.linger), stop) or []
            if messages:
                self._persist(lambda messages=messages: self._take(messages), stop)  # type: ignore[misc]
            elif until_drained and self._persist(self.source.drained, stop):
                break
            self._tell()
        self._persist(lambda: self.sink.close(self.source), stop)
        self._tell(always=True)
        return self.progress

    def _take(self, messages: list[Message]) -> None:
        outcome = self.sink.write(messages, self.source.name)
        self.source.settle(messages, outcome.dead_letters)
        self.progress.add(messages, outcome)

    def _persist(self, work: Callable[[], Any], stop: threading.Event) -> Any:
        """The result of ``work``, retried while a table or server is out of reach; None if ``stop`` is set before it succeeds."""
        pause = TRY_AGAIN
        while True:
            try:
                return work()
            except (OnlineStoreError, TableError, SourceError, redis.RedisError) as error:
                self.progress.problem = " ".join(str(error).split())
                self.progress.retries += 1
                self._tell(always=True)
            if stop.wait(pause):
                return None
            pause = min(AT_MOST, 2 * pause)
            self._revive()

    def _revive(self) -> None:
        try:
            self.revive()
        except OnlineStoreError as error:
            self.progress.problem = str(error)

    def _tell(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._reported > REPORT_EVERY:
            self._reported = now
            self.report(self.progress)
