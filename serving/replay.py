"""``asof replay``: recorded rows against a running service, as if their time were now.

For each row the order is: what became known before it is ingested, the row is scored, then it is ingested itself. Rows that
do not read what another one writes are scored side by side (:meth:`serving.replay_source.Recording.chunks`), which changes no
value: a reader filters by the moment that the request carries, so a label that is ingested a few rows early is not seen
early. Time travels in the requests; no clock is faked.

A replay can be stopped and run again: rows whose answer by the same model version is in the prediction log are not asked
again, and ingesting a row twice counts it once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asof import prediction_log
from asof.bundle import Bundle
from asof.errors import ServiceError
from asof.repo import Repo
from asof.streams import Sender
from asof.tables import Pusher
from serving.connection import Address, Connection
from serving.replay_source import Recording

LARGEST_CHUNK = 256
"""Rows scored side by side at most, so that progress is smooth and what is pushed at one time stays small."""

PATIENCE = 15.0
"""Seconds for which a row is asked again while the service says that it is not ready, or is being started again."""


@dataclass
class Report:
    """What a replay did.

    Attributes:
        rows: Rows to score.
        skipped: Rows that had been answered before.
        answered: Rows that were answered now.
        failures: Message -> number of rows that got no answer.
        retries: Times that a row was asked again.
        pushed: Table -> rows that were ingested (those that were there already included).
        decisions: Rows whose decision was yes.
        seconds: Duration.
        latencies: Seconds of each answer.
    """

    rows: int
    skipped: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    pushed: Counter[str] = field(default_factory=Counter)
    decisions: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float | None:
        """Milliseconds within which ``share`` percent of the answers came; None without answers."""
        return float(np.percentile(self.latencies, share)) * 1_000 if self.latencies else None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        milliseconds = {f"p{share}": self.percentile(share) for share in (50, 90, 99)}
        return {
            "rows": self.rows,
            "answered": self.answered,
            "skipped": self.skipped,
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures.most_common(10)),
            "retries": self.retries,
            "decisions": self.decisions,
            "pushed": dict(self.pushed),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.answered / self.seconds, 1) if self.seconds else None,
            "latency_ms": milliseconds,
        }


@dataclass
class Replay:
    """Plays one recording.

    Args:
        repo: The feature repo.
        bundle: The model that the service is expected to serve.
        recording: What to play.
        url: Where the service listens.
        concurrency: Connections.
        advance: Called with a number of rows as they are done.
        stream: Send rows to their tables' streams, for `asof stream run --clock events` to take in, instead of ingesting them.
    """

    repo: Repo
    bundle: Bundle
    recording: Recording
    url: str
    concurrency: int = 8
    advance: Callable[[int], None] = lambda _rows: None
    stream: bool = False

    def run(self, *, again: bool = False) -> Report:
        """Play everything.

        Args:
            again: Ask also for rows that were answered before.

        Raises:
            ServiceError: The service cannot be reached, is not ready, or serves another version.
            OnlineStoreError: Redis failed.
            TableError: A table cannot be written.
        """
        known = set() if again else self._answered_before()
        return asyncio.run(self._run(known))

    async def _run(self, known: set[str]) -> Report:
        connections = [Connection(Address.parse(self.url)) for _ in range(self.concurrency)]
        report = Report(self.recording.scored.rows.num_rows)
        try:
            await self._check_ready(connections[0])
            began = time.perf_counter()
            with self._feed() as pusher:
                await self._play(connections, pusher, known, report)
            report.seconds = time.perf_counter() - began
            await self._await_log(connections[0], report)
        finally:
            for connection in connections:
                await connection.close()
        return report

    def _feed(self) -> Pusher | Sender:
        feed = Sender if self.stream else Pusher
        return feed(self.repo, self.recording.tables)

    async def _play(
        self, connections: Sequence[Connection], pusher: Pusher | Sender, known: set[str], report: Report
    ) -> None:
        scored, moments = self.recording.scored, self.recording.scored.moments
        requests = self.recording.requests()
        before = int(moments[0]) if self.recording.labels is None else _first(self.recording)
        for first, last in self.recording.chunks(LARGEST_CHUNK):
            now = int(moments[last - 1]) + 1
            self._push_labels(pusher, before, now, report)
            before = now
            waiting = [r for r in requests[first:last] if r["request_id"] not in known]
            report.skipped += last - first - len(waiting)
            await self._score(connections, waiting, report)
            pusher.push(scored.table, scored.rows.slice(first, last - first))
            report.pushed[scored.table] += last - first
            self.advance(last - first)
        self._push_labels(pusher, before, 2**62, report)

    def _push_labels(self, pusher: Pusher | Sender, start: int, end: int, report: Report) -> None:
        if self.recording.labels is not None:
            rows = self.recording.labels.between(start, end)
            if rows.num_rows:
                pusher.push(self.recording.labels.table, rows)
                report.pushed[self.recording.labels.table] += rows.num_rows

    async def _score(self, connections: Sequence[Connection], waiting: list[dict[str, Any]], report: Report) -> None:
        waiting.reverse()

        async def work(connection: Connection) -> None:
            while waiting:
                await self._ask(connection, waiting.pop(), report)

        await asyncio.gather(*(work(c) for c in connections[: len(waiting)]))

    async def _ask(self, connection: Connection, payload: dict[str, Any], report: Report) -> None:
        until = time.perf_counter() + PATIENCE
        while True:
            began = time.perf_counter()
            status, message, answer = await _answer(connection, payload)
            if status == 200:
                report.latencies.append(time.perf_counter() - began)
                self._note(answer, report)
                return
            if status not in {0, 503} or time.perf_counter() > until:
                report.failures[message] += 1
                return
            report.retries += 1
            await asyncio.sleep(0.25)

    def _note(self, answer: dict[str, Any], report: Report) -> None:
        prediction = answer["predictions"][0]
        served = (prediction["model"], prediction["model_version"])
        if served != (self.bundle.model, self.bundle.version):
            raise ServiceError(
                f"the service at {self.url} serves {' '.join(served)}, expected {self.bundle.model} "
                f"{self.bundle.version}; serve that one, or name its version with --version"
            )
        report.answered += 1
        report.decisions += prediction["decision"]

    async def _check_ready(self, connection: Connection) -> None:
        until = time.perf_counter() + PATIENCE
        while True:
            try:
                status, body = await connection.get("/readyz")
            except ServiceError:
                if time.perf_counter() > until - PATIENCE + 2:
                    raise
                status, body = 0, b""
            if status == 200:
                return
            if time.perf_counter() > until:
                raise ServiceError(f"the service at {self.url} is not ready: {_message(body)}")
            await asyncio.sleep(0.25)

    async def _await_log(self, connection: Connection, report: Report) -> None:
        """Wait until the service has written its prediction log, so that whoever reads it next finds every row."""
        until = time.perf_counter() + PATIENCE
        while report.answered and time.perf_counter() < until:
            _, text = await connection.get("/metrics")
            counts = _counters(text.decode())
            settled = [
                counts.get(f'asof_prediction_log_rows_total{{outcome="{o}"}}', 0) for o in ("written", "dropped")
            ]
            if sum(settled) >= counts.get("asof_service_rows_total", 0):
                return
            await asyncio.sleep(0.25)

    def _answered_before(self) -> set[str]:
        moments = self.recording.scored.moments
        found: set[str] = set()
        for table in prediction_log.scan(
            self.repo.settings.predictions, self.bundle.model, int(moments[0]), int(moments[-1]) + 1,
            ["request_id", "model_version"],
        ):  # fmt: skip
            ids, versions = table["request_id"].to_pylist(), table["model_version"].to_pylist()
            found.update(i for i, version in zip(ids, versions, strict=True) if version == self.bundle.version)
        return found


def served_version(url: str) -> str:
    """The model version that the service at ``url`` serves.

    Raises:
        ServiceError: It does not answer.
        UsageError: ``url`` is no URL.
    """

    async def ask() -> str:
        connection = Connection(Address.parse(url))
        try:
            _, body = await connection.get("/docs.json")
            return str(json.loads(body)["info"]["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"what answers at {url} is not a service of asof; serve one with `asof serve`"
            ) from error
        finally:
            await connection.close()

    return asyncio.run(ask())


async def _answer(connection: Connection, payload: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    """Status (0 for none), error message and content of an answer."""
    try:
        status, body = await connection.post("/predict", payload)
    except ServiceError as error:
        return 0, str(error), {}
    return (200, "", json.loads(body)) if status == 200 else (status, f"{status}: {_message(body)}", {})


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def _counters(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def _first(recording: Recording) -> int:
    """Moment of the first row of any table."""
    played = [recording.scored, *([recording.labels] if recording.labels else [])]
    return min(int(p.moments[0]) for p in played if len(p.moments))
