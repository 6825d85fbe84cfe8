"""A worker process: loads a bundle, answers its requests, and shuts down without losing log rows."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asof.bundle import Bundle
from asof.errors import RequestError
from asof.prediction_log import Entry
from asof.serving.booster import Booster
from asof.serving.deployment import Deployment
from asof.serving.feature_fetcher import FeatureFetcher
from asof.serving.limits import Limits
from asof.serving.metrics import Metrics
from asof.serving.micro_batching import MicroBatcher
from asof.serving.prediction_writer import PredictionWriter
from asof.serving.predictor import Predictor
from asof.serving.problems import ProblemError
from asof.serving.readiness import Readiness
from asof.serving.request_rows import RowParser, encodable

_log = logging.getLogger("asof.serving")


@dataclass
class Worker:
    """Serves one bundle.

    Args:
        bundle: The model.
        deployment: Where Redis and the prediction log are.
        limits: Limits on requests, times and queues.
        openapi: The OpenAPI document, as JSON.
    """

    bundle: Bundle
    deployment: Deployment
    limits: Limits = field(default_factory=Limits)
    openapi: bytes = b"{}"
    readiness: Readiness = field(init=False)
    _batcher: MicroBatcher | None = field(default=None, init=False)
    _watch: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.readiness = Readiness(self.limits)

    @cached_property
    def metrics(self) -> Metrics:
        """The worker's Prometheus metrics."""
        return Metrics()

    @cached_property
    def writer(self) -> PredictionWriter:
        """Writes the prediction log."""
        return PredictionWriter(
            self.deployment.predictions, self.bundle.contract, self.bundle.model, self.bundle.version, self.limits,
            self.metrics.count_log, self.bundle.task, self.bundle.threshold,
        )  # fmt: skip

    @cached_property
    def parser(self) -> RowParser:
        """Checks the rows of requests."""
        event_time = (self.bundle.metadata.get("rows") or {}).get("event_time")
        carried = event_time in {f.name for f in self.bundle.contract.request_fields}
        return RowParser(
            self.bundle.contract, event_time if carried else None, self.limits.max_rows, None if carried else event_time
        )

    @cached_property
    def fetcher(self) -> FeatureFetcher:
        """Reads stored features."""
        return FeatureFetcher(self.bundle.contract, self.deployment.online)

    async def start(self) -> None:
        """Load the model, check the online store once, and go on checking it. If the store is down the worker starts but is not ready.

        Raises:
            BundleError: The model cannot be loaded.
            ContractError: An on-demand function cannot be imported.
        """
        boosters = tuple(Booster(file) for file in self.bundle.booster_files)
        predictor = Predictor(self.bundle, boosters, self.fetcher)
        predictor.warm()
        self._batcher = MicroBatcher(predictor)
        self.writer.start()
        self.readiness.drain_on_termination(self.writer.stop)
        await self.readiness.check(self.fetcher)
        self._watch = asyncio.create_task(self.readiness.watch(self.fetcher))

    async def stop(self) -> None:
        """Close the connections and write the rest of the prediction log."""
        self.readiness.draining = True
        if self._watch is not None:
            self._watch.cancel()
        await self.fetcher.close()
        await asyncio.to_thread(self.writer.stop)

    async def handle(self, payload: Any, request_id: str) -> Entry:
        """The scored rows of a request, which are also queued for the prediction log.

        Args:
            payload: The request's JSON data.
            request_id: The id to use if the request has none.

        Raises:
            ProblemError: The worker is not ready, or the request is invalid.
            OnlineStoreError: Redis cannot be read.
            ContractError: What is stored does not fit the contract, or an on-demand function failed.
        """
        if self.readiness.reason is not None or self._batcher is None:
            raise ProblemError("not_ready", self.readiness.message)
        given = _envelope(payload, {"rows", "request_id"} if self.parser.event_time else {"rows", "request_id", "at"})
        try:
            rows = self.parser.parse(payload["rows"], payload.get("at"))
        except ProblemError as problem:
            problem.request_id = given
            raise
        entry = await self._batcher.submit(rows, given or request_id)
        self.writer.put(entry)
        self.metrics.rows.inc(len(rows.at))
        return entry


def _envelope(payload: Any, known: set[str]) -> str | None:
    """The request id, if one is given. Checks every part of the payload but its rows."""
    if not isinstance(payload, dict) or "rows" not in payload:
        raise ProblemError("invalid_rows", "expected an object with the field 'rows', a list of rows")
    for name in payload:
        if name not in known:
            error = RequestError(None, name[:64], f"is not a field of a request; known: {', '.join(sorted(known))}")
            raise ProblemError("invalid_rows", str(error), [error])
    given = payload.get("request_id")
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= 128 and encodable(given)):
        error = RequestError(None, "request_id", "expected text of 1 to 128 characters")
        raise ProblemError("invalid_rows", str(error), [error])
    return given
