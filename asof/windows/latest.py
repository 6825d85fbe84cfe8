"""The newest known row: what a plain view's value is, and what a ttl is measured against."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.events import Events, Questions
from asof.windows.sorting import FEW, empty_array, numbered, roughly_sorted, stable_order

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_BITS = 62
_NEVER = np.iinfo(np.int64).max
"""The code of an event that is no answer."""
_WORKERS = len(os.sched_getaffinity(0))
_ALONE = 1 << 17
"""Up to this many events and questions are searched by one thread."""
_PIECE = 1 << 16
"""Questions that are answered together: what is known of them stays in the cache."""


def newest(events: Events, questions: Questions) -> Ints:
    """The known event of each question's key with the greatest ts; ties go to the greatest kt, then to the last.

    Events are sorted by time, whatever their key (most sources are sorted already). Events that become known in that order
    are searched once for a question's moment and once for its key. Out-of-order events are searched separately, in order of
    arrival, with a running maximum per key. The later of the two answers counts.

    Returns:
        int64[q], positions in ``events``, -1 where nothing is known.
    """
    if not len(events.ts) or not len(questions.t):
        return np.full(len(questions.t), -1, dtype=np.int64)
    order = time_order(events)
    key, arrival = (events.key, events.arrival) if order is None else (events.key[order], events.arrival[order])
    key, asked = _narrow(key, questions.key)
    workers = _WORKERS if len(key) + len(asked) > _ALONE else 1
    builds = search_steps(key, arrival, late=events.late)
    ordered, *steps = _together(chain([partial(_SortedQuestions.of, asked, questions.t)], builds), workers)
    found = _last_of_key(steps[0], ordered, workers)
    for others in steps[1:]:
        np.maximum(found, _last_of_key(others, ordered, workers), out=found)
    found = ordered.as_asked(found)
    return found if order is None else np.where(found < 0, -1, order[found])


def _together(works: Iterable[Callable[[], Any]], workers: int) -> list[Any]:
    """The results of ``works``, run on threads; the first runs while the iterator still prepares the others."""
    if workers == 1:
        return [work() for work in works]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


def time_order(events: Events) -> Ints | None:
    """The order of events by (ts, kt, position); None where they came in it."""
    order = stable_order(events.ts)
    if not events.kt_differs:
        return order
    ts, kt = (events.ts, events.kt) if order is None else (events.ts[order], events.kt[order])
    tied = np.flatnonzero(ts[1:] == ts[:-1])
    if not len(tied) or not (kt[tied + 1] < kt[tied]).any():
        return order
    return np.lexsort((events.kt, events.ts))


def _narrow(key: Ints, asked: Ints) -> tuple[Ints, Ints]:
    """Keys that leave room for a position beside them in one int64."""
    if (max(int(key.max()), int(asked.max())) + 2) << len(key).bit_length() < 1 << _BITS:
        return key, asked
    known = np.unique(key)
    place = np.minimum(known.searchsorted(asked), len(known) - 1)
    return known.searchsorted(key), np.where(known[place] == asked, place, -1)


@dataclass(frozen=True, slots=True)
class _SortedQuestions:
    """Questions, in an order that searches walk through memory in.

    Attributes:
        by_time: Their order by time, roughly; None for the order they came in.
        t: Their moments, by time.
        by_key: The order of those by key; None for the same order.
        key: Their keys, by key and time.
    """

    by_time: Ints | None
    t: Ints
    by_key: Ints | None
    key: Ints

    @classmethod
    def of(cls, key: Ints, t: Ints) -> _SortedQuestions:
        by_time = roughly_sorted(t)
        key, t = (key, t) if by_time is None else (key[by_time], t[by_time])
        by_key = stable_order(key) if len(key) > FEW else None
        return cls(by_time, t, by_key, key if by_key is None else key[by_key])

    def as_asked(self, answers: Ints) -> Ints:
        """``answers`` to the questions by time, in the order they came in."""
        if self.by_time is None:
            return answers
        back = np.empty_like(answers)
        back[self.by_time] = answers
        return back


@dataclass(frozen=True, slots=True)
class _Steps:
    """Events to search for the last one of a key up to a moment.

    Attributes:
        arrival: The moment from which each event, or one after it, is known; ascending.
        packed: Codes of (key, position), ascending.
        shift: Bits of a position.
        answers: What each event stands for, ascending in time; None for its position.
    """

    arrival: Ints
    packed: Ints
    shift: int
    answers: Ints | None


def search_steps(key: Ints, arrival: Ints, *, late: bool) -> Iterator[Callable[[], _Steps]]:
    """The functions that build the steps of events sorted by time: one for in-order events, one for out-of-order events, if any."""
    if not late or not (arrival[1:] < arrival[:-1]).any():
        yield partial(pack_steps, key, arrival, None)
        return
    known = np.minimum.accumulate(arrival[::-1])[::-1]
    overtaken = arrival > known
    out_of_order = np.flatnonzero(overtaken)
    yield partial(pack_steps, key, known, overtaken)
    yield partial(_running_latest, key[out_of_order], arrival[out_of_order], out_of_order)


def pack_steps(key: Ints, arrival: Ints, skipped: Flags | None, answers: Ints | None = None) -> _Steps:
    """The steps of events in order of time, without those that are ``skipped``."""
    shift = len(key).bit_length()
    packed = numbered(key, shift)
    if skipped is not None:
        np.putmask(packed, skipped, _NEVER)
    packed.sort()
    return _Steps(arrival, packed, shift, answers)


def _running_latest(key: Ints, arrival: Ints, place: Ints) -> _Steps:
    """The steps of events in any order of arrival; each stands for the greatest ``place`` of its key that is known by then.

    In order of arrival, only an event that is newer than all of its key before it can be an answer: a running maximum.
    """
    by_arrival = stable_order(arrival)
    if by_arrival is not None:
        key, arrival, place = key[by_arrival], arrival[by_arrival], place[by_arrival]
    by_key = stable_order(key)
    grouped, places = (key, place) if by_key is None else (key[by_key], place[by_key])
    lift = np.cumsum(np.diff(grouped, prepend=grouped[0]) != 0) * (int(place.max()) + 1)
    latest_place = np.maximum.accumulate(places + lift) - lift
    if by_key is None:
        return pack_steps(key, arrival, None, latest_place)
    answers = np.empty_like(latest_place)
    answers[by_key] = latest_place
    return pack_steps(key, arrival, None, answers)


def _last_of_key(steps: _Steps, ordered: _SortedQuestions, workers: int) -> Ints:
    """Per question, by time, the last event of its key with arrival <= t; -1 where there is none."""
    if workers == 1 and ordered.by_key is None:
        return _search(steps, ordered.key, count_known(steps.arrival, ordered.t))
    known, found = empty_array(len(ordered.t)), empty_array(len(ordered.t))

    def count(piece: slice) -> None:
        known[piece] = count_known(steps.arrival, ordered.t[piece])

    def search(piece: slice) -> None:
        place = piece if ordered.by_key is None else ordered.by_key[piece]
        found[place] = _search(steps, ordered.key[piece], known[place])

    pieces = [slice(a, a + _PIECE) for a in range(0, len(found), _PIECE)]
    _together([partial(count, p) for p in pieces], workers)
    _together([partial(search, p) for p in pieces], workers)
    return found


def count_known(arrival: Ints, t: Ints) -> Ints:
    """How many events are known, each of them or one after it, at each moment."""
    return arrival.searchsorted(t, "right")


def _search(steps: _Steps, key: Ints, known: Ints) -> Ints:
    """The last event of each key before the position ``known``; -1 where there is none."""
    codes = key << steps.shift
    codes += known
    place = steps.packed.searchsorted(codes, "left")
    place -= 1
    found = steps.packed.take(place, mode="clip")
    codes ^= found
    codes >>= steps.shift
    found &= (1 << steps.shift) - 1
    if steps.answers is not None:
        found = steps.answers.take(found, mode="clip")
    np.putmask(found, (codes != 0) | (place < 0), -1)
    return found


SEAMS = {
    "count_known": "an event is known from its arrival on",
    "search_steps": "out-of-order events are searched, too",
    "pack_steps": "out-of-order events are left out of the in-order search",
    "stable_order": "out-of-order events are sorted by arrival",
    "time_order": "ties of event time go to the greatest knowledge time",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
