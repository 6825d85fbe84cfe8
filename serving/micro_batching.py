"""Requests that arrive while others are being answered are answered together.

A read and a score cost nearly the same for one row as for ten, so under load a worker answers in rounds: everything that
waits is one read of Redis and one call of the booster. Nothing waits for company: a request that meets an idle worker
begins a round at once.
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
from serving.predictor import Predictor
from serving.rows import Rows

MOST_ROWS = 256
"""Rows after which a round takes no further request, so that no round takes long for the sake of many."""


@dataclass(slots=True)
class _Request:
    """A request that waits for its answer."""

    rows: Rows
    request_id: str
    answer: asyncio.Future[Entry]


@dataclass
class Rounds:
    """Answers the requests of one event loop with one predictor.

    Args:
        predictor: What scores.
    """

    predictor: Predictor
    _waiting: deque[_Request] = field(default_factory=deque, init=False)
    _round: asyncio.Task[None] | None = field(default=None, init=False)

    async def predict(self, rows: Rows, request_id: str) -> Entry:
        """Score ``rows``, see :meth:`serving.predictor.Predictor.predict`."""
        request = _Request(rows, request_id, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run())
        return await request.answer

    async def _run(self) -> None:
        while self._waiting:
            requests = self._next()
            try:
                await self._answer(requests)
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the answer
                for request in requests:
                    _refuse(request, error)

    def _next(self) -> list[_Request]:
        requests: list[_Request] = []
        rows = 0
        while self._waiting and (not requests or rows + len(self._waiting[0].rows.at) <= MOST_ROWS):
            request = self._waiting.popleft()
            if not request.answer.done():  # its client went away or was told that it takes too long
                requests.append(request)
                rows += len(request.rows.at)
        return requests

    async def _answer(self, requests: Sequence[_Request]) -> None:
        if not requests:
            return
        try:
            entry = await self.predictor.predict(joined([r.rows for r in requests]), requests[0].request_id)
        except (ContractError, RequestError):
            if len(requests) == 1:
                raise
            for request in requests:  # one row that a function cannot take must not cost the others their answers
                await self._answer_alone(request)
            return
        sizes = [len(r.rows.at) for r in requests]
        for request, last in zip(requests, accumulate(sizes), strict=True):
            if not request.answer.done():
                first = last - len(request.rows.at)
                request.answer.set_result(part(entry, first, last, request.rows, request.request_id))

    async def _answer_alone(self, request: _Request) -> None:
        try:
            await self._answer([request])
        except Exception as error:  # noqa: BLE001 - as above
            _refuse(request, error)


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all ``parts``, in order."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        {name: list(chain.from_iterable(p.keys[name] for p in parts)) for name in parts[0].keys},
        {name: list(chain.from_iterable(p.request[name] for p in parts)) for name in parts[0].request},
        np.concatenate([p.at for p in parts]),
    )


def part(entry: Entry, first: int, last: int, rows: Rows, request_id: str) -> Entry:
    """The rows ``[first, last)`` of ``entry``, which are ``rows``, as the entry of a request of their own."""
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
        scores=entry.scores[inside],
        decisions=entry.decisions[inside],
    )


def _refuse(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
