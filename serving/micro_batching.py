"""Micro-batching: requests that arrive while a batch is being scored form the next batch.

Reading and scoring ten rows costs nearly the same as one row. Under load, all waiting requests therefore share one read of
Redis and one call of the booster. No request waits for others to arrive: on an idle worker a request is scored at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain

import numpy as np

from asof.errors import ContractError, RequestError
from asof.prediction_log import Entry
from asof.serving.predictor import Predictor
from asof.serving.request_rows import RequestRows

MOST_ROWS = 256
"""Rows after which a batch takes no further request, so that a batch stays short."""


@dataclass(slots=True)
class _PendingRequest:
    """A request that waits for its result."""

    rows: RequestRows
    request_id: str
    result: asyncio.Future[Entry]


@dataclass
class MicroBatcher:
    """Scores the requests of one event loop in batches.

    Args:
        predictor: Scores each batch.
    """

    predictor: Predictor
    _waiting: deque[_PendingRequest] = field(default_factory=deque, init=False)
    _running: asyncio.Task[None] | None = field(default=None, init=False)

    async def submit(self, rows: RequestRows, request_id: str) -> Entry:
        """The scored ``rows``; raises what :meth:`asof.serving.predictor.Predictor.score` raises."""
        request = _PendingRequest(rows, request_id, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await request.result

    async def _run(self) -> None:
        while self._waiting:
            requests = self._next_batch()
            try:
                await self._score(requests)
            except Exception as error:  # noqa: BLE001 - the waiting requests receive it
                for request in requests:
                    _fail(request, error)

    def _next_batch(self) -> list[_PendingRequest]:
        requests: list[_PendingRequest] = []
        rows = 0
        while self._waiting and (not requests or rows + len(self._waiting[0].rows.at) <= MOST_ROWS):
            request = self._waiting.popleft()
            if not request.result.done():  # otherwise its client disconnected or got a timeout
                requests.append(request)
                rows += len(request.rows.at)
        return requests

    async def _score(self, requests: Sequence[_PendingRequest]) -> None:
        if not requests:
            return
        try:
            entry = await self.predictor.score(joined([r.rows for r in requests]), requests[0].request_id)
        except (ContractError, RequestError):
            if len(requests) == 1:
                raise
            for request in requests:  # a row that an on-demand function rejects must not fail the other requests
                await self._score_alone(request)
            return
        sizes = [len(r.rows.at) for r in requests]
        for request, last in zip(requests, accumulate(sizes), strict=True):
            if not request.result.done():
                first = last - len(request.rows.at)
                request.result.set_result(part(entry, first, last, request.rows, request.request_id))

    async def _score_alone(self, request: _PendingRequest) -> None:
        try:
            await self._score([request])
        except Exception as error:  # noqa: BLE001 - as above
            _fail(request, error)


def joined(parts: Sequence[RequestRows]) -> RequestRows:
    """The rows of all ``parts``, in order."""
    if len(parts) == 1:
        return parts[0]
    return RequestRows(
        {name: list(chain.from_iterable(p.keys[name] for p in parts)) for name in parts[0].keys},
        {name: list(chain.from_iterable(p.request[name] for p in parts)) for name in parts[0].request},
        np.concatenate([p.at for p in parts]),
    )


def part(entry: Entry, first: int, last: int, rows: RequestRows, request_id: str) -> Entry:
    """The entry of one request: the rows ``[first, last)`` of a batch's ``entry``."""
    inside = slice(first, last)
    return replace(
        entry,
        request_id=request_id,
        at=rows.at,
        as_of=entry.as_of[inside],
        keys=rows.keys,
        request=rows.request,
        vector=entry.vector[inside],
        objects={name: values[inside] for name, values in entry.objects.items()},
        statuses=entry.statuses[inside],
        event_times=entry.event_times[inside],
        outputs=entry.outputs[inside],
    )


def _fail(request: _PendingRequest, error: Exception) -> None:
    if not request.result.done():
        request.result.set_exception(error)
