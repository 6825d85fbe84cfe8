"""The newest known row: what a plain view's value is, and what a ttl is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asof.windows.order import roughly_sorted, stable_order

if TYPE_CHECKING:
    from asof.windows.kernel import Events, Questions

Ints = NDArray[np.int64]

_BITS = 62


def newest(events: Events, questions: Questions) -> Ints:
    """The known event of each question's key with the greatest ts; ties go to the greatest kt, then to the last.

    Events are put in order of time, whatever their key (most sources are in it already). Those that become known in that
    order are searched once for a question's moment and once for its key; those that are overtaken, the stragglers, by a
    staircase of their own. The later of both answers counts.

    Returns:
        int64[q], positions in ``events``, -1 where nothing is known.
    """
    if not len(events.ts) or not len(questions.t):
        return np.full(len(questions.t), -1, dtype=np.int64)
    order = _time_order(events)
    key, arrival = (events.key, events.arrival) if order is None else (events.key[order], events.arrival[order])
    overtaken = None if events.arrival is events.ts else _overtaken(arrival)
    key, asked = _narrow(key, questions.key)
    if overtaken is None:
        found = _last_of_key(key, arrival, asked, questions.t)
    else:
        prompt, late = np.flatnonzero(~overtaken), np.flatnonzero(overtaken)
        found = _last_of_key(key[prompt], arrival[prompt], asked, questions.t)
        found = np.where(found < 0, -1, prompt[found]) if len(prompt) else found
        found = np.maximum(found, _late_of_key(key[late], arrival[late], late, asked, questions.t))
    return found if order is None else np.where(found < 0, -1, order[found])


def _time_order(events: Events) -> Ints | None:
    """The order of events by (ts, kt, position); None where they came in it."""
    order = stable_order(events.ts)
    if events.kt is events.ts:
        return order
    ts, kt = (events.ts, events.kt) if order is None else (events.ts[order], events.kt[order])
    tied = np.flatnonzero(ts[1:] == ts[:-1])
    if not len(tied) or not (kt[tied + 1] < kt[tied]).any():
        return order
    return np.lexsort((events.kt, events.ts))


def _overtaken(arrival: Ints) -> NDArray[np.bool_] | None:
    """Which events become known after one that follows them; None where none does."""
    if not (arrival[1:] < arrival[:-1]).any():
        return None
    return arrival > np.minimum.accumulate(arrival[::-1])[::-1]


def _narrow(key: Ints, asked: Ints) -> tuple[Ints, Ints]:
    """Keys that leave room for a position beside them in one int64."""
    if (max(int(key.max()), int(asked.max())) + 2) << len(key).bit_length() < 1 << _BITS:
        return key, asked
    known = np.unique(key)
    place = np.minimum(known.searchsorted(asked), len(known) - 1)
    return known.searchsorted(key), np.where(known[place] == asked, place, -1)


def _last_of_key(key: Ints, arrival: Ints, asked: Ints, t: Ints) -> Ints:
    """Per question the last event of its key among those with arrival <= t; ``arrival`` ascends. -1 where there is none."""
    if not len(key):
        return np.full(len(t), -1, dtype=np.int64)
    shift = len(key).bit_length()
    packed = key << shift
    packed |= np.arange(len(key))
    packed.sort()
    by_time = roughly_sorted(t)
    codes = asked if by_time is None else asked[by_time]
    codes = (codes << shift) + arrival.searchsorted(t if by_time is None else t[by_time], "right")
    by_key = stable_order(codes)
    codes = codes if by_key is None else codes[by_key]
    hit = packed[packed.searchsorted(codes, "left") - 1]
    answers = np.where((hit < codes) & (hit >> shift == codes >> shift), hit & ((1 << shift) - 1), -1)
    for order in (by_key, by_time):
        if order is not None:
            back = np.empty_like(answers)
            back[order] = answers
            answers = back
    return answers


def _late_of_key(key: Ints, arrival: Ints, place: Ints, asked: Ints, t: Ints) -> Ints:
    """As :func:`_last_of_key` for events in any order of arrival: the greatest ``place`` (ascending with time) known by t.

    In order of arrival, only an event that is newer than all of its key before it can be an answer: a running maximum.
    """
    by_arrival = stable_order(arrival)
    if by_arrival is not None:
        key, arrival, place = key[by_arrival], arrival[by_arrival], place[by_arrival]
    by_key = stable_order(key)
    grouped, places = (key, place) if by_key is None else (key[by_key], place[by_key])
    lift = np.cumsum(np.diff(grouped, prepend=grouped[0]) != 0) * (int(place.max()) + 1)
    stairs = np.maximum.accumulate(places + lift) - lift
    step = np.empty_like(stairs)
    if by_key is None:
        step = stairs
    else:
        step[by_key] = stairs
    found = _last_of_key(key, arrival, asked, t)
    return np.where(found < 0, -1, step[found])
