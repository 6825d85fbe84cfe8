"""Many events and questions, answered by ranges of keys on all cores.

A range of keys is small enough for what is worked on to stay in the cache. Its answers are written side by side, in order of key
and time; one pass per answer then brings them into the order that was asked. Both walk through memory, which scattering each
range's answers over all rows would not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.kernel import Events, Questions, empty, sorted_answers
from asof.windows.room import room
from asof.windows.sorting import stable_order

if TYPE_CHECKING:
    from asof.contract import Aggregation

Ints = NDArray[np.int64]
Answers = dict[str, NDArray[Any]]

PIECE = 1 << 16
"""More events and questions than this are answered by ranges of keys."""
_WORKERS = min(len(os.sched_getaffinity(0)), 4)


def aggregate(events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int = 1) -> Answers:
    """The value of every aggregation at every question.

    Args:
        events: The events, in source order.
        questions: The keys and moments.
        aggregations: What to compute; an empty ``column`` counts events.
        hop: Bucket width in microseconds.

    Returns:
        Name -> q values in the order of the questions: float64 with NaN for missing, int64 for counts, or objects with None for missing where
        min, max or last is over strings or bytes. ``count``, ``sum`` and ``count_distinct`` of an empty window are 0.
    """
    rows = len(questions.t)
    if not len(events.ts) or not rows:
        return {a.name: empty(events, a, rows) for a in aggregations}
    if len(events.ts) + rows > PIECE:
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            answers, place = _by_key(events, questions, aggregations, hop, pool)
            return answers if place is None else _all_as_asked(answers, place, pool)
    order, answers = sorted_answers(events, questions, aggregations, hop)
    return answers if order is None else {name: _as_asked(values, order) for name, values in answers.items()}


def _as_asked(values: NDArray[Any], order: Ints) -> NDArray[Any]:
    answers = np.empty_like(values)
    answers[order] = values
    return answers


def _by_key(
    events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int, pool: ThreadPoolExecutor
) -> tuple[Answers, Ints | None]:
    """The answers by key and time, and the place of each question among them; None where they were asked in that order."""
    by_key, asked = pool.map(stable_order, (events.key, questions.key))
    rows = len(questions.t)
    answers = {a.name: room(rows, empty(events, a, 0).dtype) for a in aggregations}
    place = room(rows)

    def answer(piece: Piece) -> bool:
        """Write the piece's answers and the places of its questions; whether these were asked in another order."""
        chosen = piece.events if by_key is None else by_key[piece.events]
        places = np.arange(piece.asked.start, piece.asked.stop)
        mine = places if asked is None else asked[piece.asked]
        inner, values = sorted_answers(_chosen(events, chosen), _asked(questions, mine), aggregations, hop)
        for name, found in values.items():
            answers[name][piece.asked] = found
        place[mine if inner is None else mine[inner]] = places
        return inner is not None

    moved = any(list(pool.map(answer, pieces(events.key, by_key, questions.key, asked))))
    return answers, place if moved or asked is not None else None


def _chosen(events: Events, chosen: slice | Ints) -> Events:
    """Some of the events. What is one array stays one: that tells that nothing is late."""
    ts = events.ts[chosen]
    arrival, kt = (ts if times is events.ts else times[chosen] for times in (events.arrival, events.kt))
    return Events(events.key[chosen], ts, arrival, kt, {name: v[chosen] for name, v in events.columns.items()})


def _asked(questions: Questions, chosen: Ints) -> Questions:
    return Questions(questions.key[chosen], questions.t[chosen])


def _all_as_asked(answers: Answers, place: Ints, pool: ThreadPoolExecutor) -> Answers:
    """``answers`` taken from their places; they give their memory to those after them."""
    spare = [room(len(place)) for _ in range(_WORKERS)]

    def placed(values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype == object:
            return values[place]
        free = spare.pop().view(values.dtype)
        np.take(values, place, out=free, mode="clip")
        spare.append(values)
        return free

    return dict(zip(answers, pool.map(placed, answers.values()), strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """The events and the questions of some keys, as places in their order by key."""

    events: slice
    asked: slice


def pieces(key: Ints, by_key: Ints | None, q_key: Ints, asked: Ints | None) -> list[Piece]:
    """Ranges of keys with about :data:`PIECE` events and questions.

    Args:
        key: Keys of the events.
        by_key: The order in which they ascend; None for the order they are in.
        q_key: Keys of the questions, at least one.
        asked: The order in which those ascend.
    """
    found = []
    start = q_start = 0
    while q_start < len(q_key):
        # The key that the piece would end in is taken whole: it ends before the next one.
        last = _key_at(q_key, asked, min(q_start + PIECE // 2, len(q_key)) - 1)
        if start + PIECE // 2 < len(key):
            last = min(last, _key_at(key, by_key, start + PIECE // 2))
        last = max(last, _key_at(q_key, asked, q_start))
        stop, q_stop = (int(k.searchsorted(last, "right", o)) for k, o in ((key, by_key), (q_key, asked)))
        found.append(Piece(slice(start, stop), slice(q_start, q_stop)))
        start, q_start = stop, q_stop
    return found


def _key_at(key: Ints, order: Ints | None, position: int) -> int:
    return int(key[position] if order is None else key[order[position]])
