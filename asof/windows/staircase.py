"""The newest known row: what a plain view's value is, and what a ttl is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asof.windows.order import clock, event_order, stable_order

if TYPE_CHECKING:
    from asof.windows.kernel import Events, Questions

Ints = NDArray[np.int64]


def newest(events: Events, questions: Questions) -> Ints:
    """The known event of each question's key with the greatest ts; ties go to the greatest kt, then to the last.

    Returns:
        int64[q], positions in ``events``, -1 where nothing is known.
    """
    if not len(events.ts) or not len(questions.t):
        return np.full(len(questions.t), -1, dtype=np.int64)
    code, span = clock(events, events.ts, questions)
    base = events.key * span
    happened = base + code(events.ts)
    order = event_order(happened, events.kt)
    known = happened if events.arrival is events.ts else base + code(events.arrival)
    known = known if order is None else known[order]
    at = questions.key * span + code(questions.t)
    asked = stable_order(at)
    rank = _newest_rank(known, at if asked is None else at[asked])
    return _positions(events, questions, order, asked, rank)


def _newest_rank(known: Ints, at: Ints) -> Ints:
    """Per moment of ``at`` the greatest rank known by then, of any key: ranks grow with the key, so only the key is to check."""
    by_arrival = stable_order(known)
    if by_arrival is None:
        return known.searchsorted(at, "right") - 1
    # Walk in order of arrival; only an event that is newer than all before it can be an answer.
    stairs = np.maximum.accumulate(by_arrival)
    step = known[by_arrival].searchsorted(at, "right") - 1
    return np.where(step < 0, -1, stairs[step])


def _positions(events: Events, questions: Questions, order: Ints | None, asked: Ints | None, rank: Ints) -> Ints:
    position = rank if order is None else order[rank]
    if asked is not None:
        as_asked = np.empty_like(position)
        as_asked[asked] = position
        unsorted = np.empty_like(rank)
        unsorted[asked] = rank
        position, rank = as_asked, unsorted
    return np.where((rank >= 0) & (events.key[position] == questions.key), position, -1)
