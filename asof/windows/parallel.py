"""Computes answers to many questions on all cores, one range of keys at a time.

A range of keys is small enough for its data to stay in the processor's cache. Its answers are written in order of key and
time; one pass per answer then restores the order of the questions. Both passes read or write memory sequentially, which
scattering each range's answers over all rows would not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.events import Events, Questions
from asof.windows.sorting import empty_array, stable_order

Ints = NDArray[np.int64]
Answers = dict[str, NDArray[Any]]
Compute = Callable[[Events, Questions], tuple[Ints | None, Answers]]

RANGE_SIZE = 1 << 16
"""More events and questions than this are answered by ranges of keys."""
_WORKERS = min(len(os.sched_getaffinity(0)), 4)


def by_key_ranges(
    events: Events, questions: Questions, dtypes: Mapping[str, np.dtype[Any]], compute: Compute
) -> Answers:
    """The answers of ``compute`` for every range of keys, put together in the order of the questions.

    Args:
        events: The events, in source order.
        questions: The keys and moments.
        dtypes: Name -> type of each answer.
        compute: Gives, for some events and questions, the order of the questions by key and time (None if they came in it) and the
            answers in that order.
    """
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        answers, place = _by_key(events, questions, dtypes, compute, pool)
        return answers if place is None else into_question_order(answers, place, pool)


def _by_key(
    events: Events,
    questions: Questions,
    dtypes: Mapping[str, np.dtype[Any]],
    compute: Compute,
    pool: ThreadPoolExecutor,
) -> tuple[Answers, Ints | None]:
    """The answers by key and time, and the place of each question among them; None if the questions came in that order."""
    by_key, asked = pool.map(stable_order, (events.key, questions.key))
    rows = len(questions.t)
    answers = {name: empty_array(rows, dtype) for name, dtype in dtypes.items()}
    place = empty_array(rows)

    def answer(part: KeyRange) -> bool:
        """Write the range's answers and the places of its questions; whether these were asked in another order."""
        chosen = part.events if by_key is None else by_key[part.events]
        places = np.arange(part.questions.start, part.questions.stop)
        mine = places if asked is None else asked[part.questions]
        inner, values = compute(events_at(events, chosen), _questions_at(questions, mine))
        for name, found in values.items():
            answers[name][part.questions] = found
        place[mine if inner is None else mine[inner]] = places
        return inner is not None

    moved = any(list(pool.map(answer, key_ranges(events.key, by_key, questions.key, asked))))
    return answers, place if moved or asked is not None else None


def events_at(events: Events, chosen: slice | Ints) -> Events:
    """Some of the events."""
    ts = events.ts[chosen]
    arrival = events.arrival[chosen] if events.late else ts
    kt = events.kt[chosen] if events.kt_differs else ts
    columns = {name: values[chosen] for name, values in events.columns.items()}
    return replace(events, key=events.key[chosen], ts=ts, arrival=arrival, kt=kt, columns=columns)


def _questions_at(questions: Questions, chosen: Ints) -> Questions:
    return Questions(questions.key[chosen], questions.t[chosen])


def into_question_order(answers: Answers, place: Ints, pool: ThreadPoolExecutor) -> Answers:
    """``answers`` in the order of the questions; the memory of each is reused for a later one."""
    spare = [empty_array(len(place)) for _ in range(_WORKERS)]

    def placed(values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype == object:
            return values[place]
        free = spare.pop().view(values.dtype)
        np.take(values, place, out=free, mode="clip")
        spare.append(values)
        return free

    return dict(zip(answers, pool.map(placed, answers.values()), strict=True))


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The events and the questions of some keys, as places in their order by key."""

    events: slice
    questions: slice


def key_ranges(key: Ints, by_key: Ints | None, q_key: Ints, asked: Ints | None) -> list[KeyRange]:
    """Ranges of keys with about :data:`RANGE_SIZE` events and questions.

    Args:
        key: Keys of the events.
        by_key: The order in which they ascend; None for the order they are in.
        q_key: Keys of the questions, at least one.
        asked: The order in which those ascend.
    """
    found = []
    start = q_start = 0
    while q_start < len(q_key):
        # The key that the part would end in is taken whole: it ends before the next one.
        last = _key_at(q_key, asked, min(q_start + RANGE_SIZE // 2, len(q_key)) - 1)
        if start + RANGE_SIZE // 2 < len(key):
            last = min(last, _key_at(key, by_key, start + RANGE_SIZE // 2))
        last = max(last, _key_at(q_key, asked, q_start))
        stop, q_stop = (int(k.searchsorted(last, "right", o)) for k, o in ((key, by_key), (q_key, asked)))
        found.append(KeyRange(slice(start, stop), slice(q_start, q_stop)))
        start, q_start = stop, q_stop
    return found


def _key_at(key: Ints, order: Ints | None, position: int) -> int:
    return int(key[position] if order is None else key[order[position]])


SEAMS = {
    "events_at": "a range of keys keeps all that is known of its events",
    "into_question_order": "answers return in the order of the questions",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
