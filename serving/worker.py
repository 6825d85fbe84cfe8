"""One worker: what it is made of, and its beginning and end."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asof.bundle import Bundle
from asof.errors import RequestError
from asof.prediction_log import Entry
from serving.booster import Booster
from serving.deployment import Deployment
from serving.limits import Limits
from serving.metrics import Metrics
from serving.micro_batching import Rounds
from serving.prediction_writer import PredictionWriter
from serving.predictor import Predictor
from serving.problems import ProblemError
from serving.readiness import Readiness
from serving.rows import RowParser, encodable
from serving.store import Store

_log = logging.getLogger("asof.serving")


@dataclass
class Worker:
    """Serves one bundle.

    Args:
        bundle: The model.
        deployment: Where Redis and the prediction log are.
        limits: How much it takes on.
        openapi: The OpenAPI document, as JSON.
    """

    bundle: Bundle
    deployment: Deployment
    limits: Limits = field(default_factory=Limits)
    openapi: bytes = b"{}"
    readiness: Readiness = field(init=False)
    _rounds: Rounds | None = field(default=None, init=False)
    _watch: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.readiness = Readiness(self.limits)

    @cached_property
    def metrics(self) -> Metrics:
        """What it counts."""
        return Metrics()

    @cached_property
    def writer(self) -> PredictionWriter:
        """Its prediction log."""
        return PredictionWriter(
            self.deployment.predictions, self.bundle.contract, self.bundle.model, self.bundle.version, self.limits,
            self.metrics.count_log,
        )  # fmt: skip

    @cached_property
    def parser(self) -> RowParser:
        """Reads rows of requests."""
        event_time = (self.bundle.metadata.get("rows") or {}).get("event_time")
        carried = event_time in {f.name for f in self.bundle.contract.request_fields}
        return RowParser(self.bundle.contract, event_time if carried else None, self.limits.max_rows)

    @cached_property
    def store(self) -> Store:
        """Where it reads stored features."""
        return Store(self.bundle.contract, self.deployment.online)

    async def start(self) -> None:
        """Load the model, look at the store once, and keep looking. A store that is down delays nothing but readiness.

        Raises:
            BundleError: The model cannot be loaded.
            ContractError: An on-demand function cannot be imported.
        """
        predictor = Predictor(self.bundle, Booster(self.bundle.booster_file), self.store)
        predictor.warm()
        self._rounds = Rounds(predictor)
        self.writer.start()
        self.readiness.drain_on_termination(self.writer.stop)
        await self.readiness.look(self.store)
        self._watch = asyncio.create_task(self.readiness.watch(self.store))

    async def stop(self) -> None:
        """Write what the prediction log still holds."""
        self.readiness.draining = True
        if self._watch is not None:
            self._watch.cancel()
        await self.store.close()
        await asyncio.to_thread(self.writer.stop)

    async def predict(self, payload: Any, request_id: str) -> Entry:
        """Score the rows of a request and log them.

        Args:
            payload: The request's JSON data.
            request_id: The id to use where the request names none.

        Raises:
            ProblemError: The worker is not ready, or the request is wrong.
            OnlineStoreError: Redis cannot be read.
            ContractError: What is stored does not fit the contract, or an on-demand function failed.
        """
        if self.readiness.reason is not None or self._rounds is None:
            raise ProblemError("not_ready", self.readiness.message)
        given = _envelope(payload, {"rows", "request_id"} if self.parser.event_time else {"rows", "request_id", "at"})
        try:
            rows = self.parser.parse(payload["rows"], payload.get("at"))
        except ProblemError as problem:
            problem.request_id = given
            raise
        entry = await self._rounds.predict(rows, given or request_id)
        self.writer.put(entry)
        self.metrics.rows.inc(len(rows.at))
        return entry


def _envelope(payload: Any, known: set[str]) -> str | None:
    """Check everything around the rows; the request id, if one is given."""
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
