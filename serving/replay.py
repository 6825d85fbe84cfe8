"""``asof replay``: sends recorded rows to a running service in time order and feeds every source as its rows become known.

For each row, first everything that became known before it is fed, then the row is scored, then the row itself is fed. Rows that
do not read what another row writes are scored concurrently (:meth:`asof.serving.replay_source.Recording.chunks`). This changes no
value: a reader filters by the moment in the request, so an event that is fed a few rows early is not visible early, and before
a row of a plain view replaces another one, all earlier rows are scored. Each request carries its own time; the system clock is
not changed.

A replay can be stopped and run again: rows that the same model version has already answered (they are in the prediction log)
are skipped, and ingesting a row twice counts it once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pyarrow as pa

from asof import prediction_log
from asof.bundle import Bundle
from asof.contract import Contract
from asof.errors import ServiceError, UsageError
from asof.instants import format_moment
from asof.online import Writer
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.serving.replay_source import Recording, TimedRows
from asof.streams import Producer
from asof.tables import Pusher, declarations
from asof.tables.event_writer import view_columns

LARGEST_CHUNK = 256
"""Most rows scored concurrently, so that progress is smooth and each push stays small."""

RETRY_FOR = 15.0
"""Seconds during which a request is repeated while the service is not ready or restarts."""

ANSWER_WITHIN = 30.0
"""Seconds to wait for one answer."""

_BEGINNING, _END = -(2**62), 2**62


@dataclass(repr=False)
class ReplayReport(Rendered):
    """What a replay did.

    Attributes:
        rows: Rows to score.
        skipped: Rows that were answered before this run.
        answered: Rows that were answered in this run.
        failures: Error message -> number of rows that got no prediction.
        retries: Requests that were repeated.
        pushed: Source -> rows that were fed, including rows that the table already had.
        not_fed: Source of the contract -> why none of its rows were fed.
        decisions: Rows with a positive decision.
        seconds: Duration.
        latencies: Seconds of each answer.
    """

    rows: int
    skipped: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    pushed: Counter[str] = field(default_factory=Counter)
    not_fed: dict[str, str] = field(default_factory=dict)
    decisions: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Check that every row got an answer.

        Raises:
            ServiceError: Rows got none.
        """
        if self.failures:
            message, count = self.failures.most_common(1)[0]
            raise ServiceError(
                f"{counted(sum(self.failures.values()), 'row')} got no answer; {count:,} of them: {message}"
            )

    @property
    def exit_code(self) -> int:
        """3 if rows got no answer."""
        return 3 if self.failures else 0

    def parts(self) -> Iterator[ResultTable]:
        """A table of all figures."""
        payload = self.to_dict()
        lines = [(name.replace("_", " "), payload[name]) for name in ("answered", "skipped", "failed", "retries")]
        lines += [("positive decisions", self.decisions)]
        lines += [(f"ingested into {name}", count) for name, count in self.pushed.items()]
        lines += [("seconds", payload["seconds"]), ("rows per second", payload["rows_per_second"])]
        lines += [(f"latency {name}, ms", value) for name, value in payload["latency_ms"].items()]
        yield ResultTable(("replay", "value"), lines)

    def percentile(self, share: float) -> float | None:
        """The latency percentile ``share`` in milliseconds; None without answers."""
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
            "not_fed": self.not_fed,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.answered / self.seconds, 1) if self.seconds else None,
            "latency_ms": milliseconds,
        }


class _Feed:
    """Writes rows to their tables and online views; rows that their table has and cannot recognize, online alone."""

    def __init__(self, repo: Repo, recording: Recording, *, stream: bool) -> None:
        self._pusher = (Producer if stream else Pusher)(repo, recording.tables)
        self._declared = declarations(repo)
        self._online = Writer(repo.settings.project, repo.settings.online)

    def __enter__(self) -> Self:
        self._pusher.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pusher.__exit__(kind, error, trace)

    def fed_until(self, contract: Contract, moment: int) -> None:
        """Note that the online store keeps what reads from ``moment`` on need."""
        for view in contract.views:
            if view.online:
                self._online.materializing(view, moment)

    def push(self, timed: TimedRows, rows: pa.Table) -> None:
        """Write some of the rows ``timed``."""
        if not timed.held:
            self._pusher.push(timed.table, rows)
            return
        declaration = self._declared.table(timed.table)
        for view in self._declared.readers(timed.table):
            if view.online:
                self._online.write(view, view_columns(view, declaration, rows))


@dataclass
class Replay:
    """Replays one recording against one service.

    Args:
        repo: The feature repo.
        bundle: The model that the service is expected to serve.
        recording: The rows to replay.
        url: Where the service listens.
        concurrency: Number of connections.
        advance: Called with the number of rows done since the last call.
        stream: Send rows to the streams of their tables, which `asof stream run --clock events` reads, instead of ingesting them.
    """

    repo: Repo
    bundle: Bundle
    recording: Recording
    url: str
    concurrency: int = 8
    advance: Callable[[int], None] = lambda _rows: None
    stream: bool = False

    def run(self, *, again: bool = False) -> ReplayReport:
        """Replay every row.

        Args:
            again: Also score rows that were answered before, whatever the online store keeps of their moments.

        Raises:
            ServiceError: The service cannot be reached, is not ready, or serves another version.
            UsageError: The online store no longer has what was known at the first row to score.
            OnlineStoreError: Redis failed.
            TableError: A table cannot be written.
        """
        known = set() if again else self._answered_before()
        if not again:
            self._check_kept(known)
        return asyncio.run(self._run(known))

    async def _run(self, known: set[str]) -> ReplayReport:
        report = ReplayReport(self.recording.scored.rows.num_rows, not_fed=self.recording.not_fed)
        async with _client(self.url, self.concurrency) as client:
            await self._check_ready(client)
            began = time.perf_counter()
            with _Feed(self.repo, self.recording, stream=self.stream) as feed:
                await self._play(client, feed, known, report)
            report.seconds = time.perf_counter() - began
            await self._await_log(client, report)
        return report

    async def _play(self, client: aiohttp.ClientSession, feed: _Feed, known: set[str], report: ReplayReport) -> None:
        scored, moments = self.recording.scored, self.recording.scored.moments
        requests = self.recording.requests()
        before = _BEGINNING
        for first, last in self.recording.chunks(LARGEST_CHUNK):
            now = int(moments[last - 1]) + 1
            self._feed_known(feed, before, now, report)
            before = now
            waiting = [r for r in requests[first:last] if r["request_id"] not in known]
            report.skipped += last - first - len(waiting)
            await self._score(client, waiting, report)
            _push(feed, scored, self.recording.scored_at_once(first, last), report)
            self.advance(last - first)
        self._feed_known(feed, before, _END, report)
        if not self.stream:
            last = max(
                (int(timed.moments[-1]) for timed in (scored, *self.recording.fed) if len(timed.moments)), default=0
            )
            feed.fed_until(self.recording.contract, last + 1)

    def _check_kept(self, known: set[str]) -> None:
        """The online store keeps what was known at the first row to score."""
        ids = self.recording.scored.rows[self.recording.id].to_pylist()
        waiting = [int(at) for at, one in zip(self.recording.scored.moments, ids, strict=True) if str(one) not in known]
        online = Writer(self.repo.settings.project, self.repo.settings.online)
        kept = {v.name: online.kept_from(v) for v in self.recording.contract.views if v.windowed and v.online}
        if late := [name for name, start in kept.items() if waiting and min(waiting) < start]:
            raise UsageError(
                f"the online store is at a later moment already: of {', '.join(late)} it keeps what reads from "
                f"{format_moment(kept[late[0]])} on need, and the first row to score is of {format_moment(min(waiting))}. To replay the past "
                f"again, stop the service, run `asof redis stop`, delete {self.repo.settings.data / 'redis'}, then `asof apply` and "
                "`asof materialize --to` the start of the span"
            )

    def _feed_known(self, feed: _Feed, start: int, end: int, report: ReplayReport) -> None:
        for timed in self.recording.fed:
            _push(feed, timed, timed.between(start, end), report)

    async def _score(self, client: aiohttp.ClientSession, waiting: list[dict[str, Any]], report: ReplayReport) -> None:
        waiting.reverse()

        async def work() -> None:
            while waiting:
                await self._score_row(client, waiting.pop(), report)

        await asyncio.gather(*(work() for _ in range(min(self.concurrency, len(waiting)))))

    async def _score_row(self, client: aiohttp.ClientSession, payload: dict[str, Any], report: ReplayReport) -> None:
        until = time.perf_counter() + RETRY_FOR
        while True:
            began = time.perf_counter()
            status, message, answer = await _answer(client, payload)
            if status == 200:
                report.latencies.append(time.perf_counter() - began)
                self._record(answer, report)
                return
            if status not in {0, 503} or time.perf_counter() > until:
                report.failures[message] += 1
                return
            report.retries += 1
            await asyncio.sleep(0.25)

    def _record(self, answer: dict[str, Any], report: ReplayReport) -> None:
        prediction = answer["predictions"][0]
        served = (prediction["model"], prediction["model_version"])
        if served != (self.bundle.model, self.bundle.version):
            raise ServiceError(
                f"the service at {self.url} serves {' '.join(served)}, expected {self.bundle.model} "
                f"{self.bundle.version}; serve that one, or name its version with --version"
            )
        report.answered += 1
        report.decisions += bool(prediction.get("decision"))

    async def _check_ready(self, client: aiohttp.ClientSession) -> None:
        until = time.perf_counter() + RETRY_FOR
        while True:
            try:
                status, body = await _send(client, "GET", "readyz")
            except ServiceError:
                if time.perf_counter() > until - RETRY_FOR + 2:
                    raise
                status, body = 0, b""
            if status == 200:
                return
            if time.perf_counter() > until:
                raise ServiceError(f"the service at {self.url} is not ready: {_message(body)}")
            await asyncio.sleep(0.25)

    async def _await_log(self, client: aiohttp.ClientSession, report: ReplayReport) -> None:
        """Wait until the service has written every answered row to its prediction log."""
        until = time.perf_counter() + RETRY_FOR
        while report.answered and time.perf_counter() < until:
            _, text = await _send(client, "GET", "metrics")
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
        if not len(moments):
            return found
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
        async with _client(url, 1) as client:
            _, body = await _send(client, "GET", "docs.json")
        try:
            return str(json.loads(body)["info"]["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"what answers at {url} is not a service of asof; serve one with `asof serve`"
            ) from error

    return asyncio.run(ask())


def _client(url: str, connections: int) -> aiohttp.ClientSession:
    """A client that keeps at most ``connections`` connections to ``url`` open.

    Raises:
        UsageError: ``url`` is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"got the URL {url!r}, expected one such as http://127.0.0.1:3000")
    return aiohttp.ClientSession(
        url.rstrip("/") + "/",
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN),
    )


async def _send(client: aiohttp.ClientSession, method: str, path: str, payload: Any = None) -> tuple[int, bytes]:
    """Status and body of the answer to one request; a ``payload`` is sent as JSON.

    Raises:
        ServiceError: There is no answer.
    """
    try:
        async with client.request(method, path, json=payload) as response:
            return response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServiceError(f"no answer ({str(error) or type(error).__name__}); is the service running?") from error


async def _answer(client: aiohttp.ClientSession, payload: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    """Status (0 if there is no answer), error message and content."""
    try:
        status, body = await _send(client, "POST", "predict", payload)
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


def _push(feed: _Feed, timed: TimedRows, rows: pa.Table, report: ReplayReport) -> None:
    if rows.num_rows:
        feed.push(timed, rows)
        report.pushed[timed.table] += rows.num_rows
