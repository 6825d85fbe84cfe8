"""Which events each question sees, in every window: the sorting and searching that all aggregations of a view share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.events import Events, Questions
from asof.windows.sorting import clock, event_order, stable_order

Ints = NDArray[np.int64]

_NONE: Ints = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Visibility:
    """The sorted order of n events and q questions, and the events that each question sees in w windows.

    Attributes:
        order: Source positions of the events in (key, ts, kt, source) order; None where they came in that order.
        question_order: Positions of the questions in (key, t) order; None where they came in that order.
        key: Event keys in event order.
        prompt: Positions, in event order, of the in-order events: each is visible as soon as any event after it; None for all.
        late: Positions of the others, the out-of-order events.
        first: int64[w, q]; with ``end`` the range of ``prompt`` events that a question sees.
        end: int64[q].
    """

    order: Ints | None
    question_order: Ints | None
    key: Ints
    prompt: Ints | None
    late: Ints
    first: Ints
    end: Ints
    _known: Ints
    _since: Ints | None
    _starts: Ints
    _at: Ints
    _floors: Ints

    @classmethod
    def of(cls, events: Events, questions: Questions, windows: Sequence[int], hop: int) -> Visibility:
        """What is seen in ``windows``, given in microseconds; n and q must not be 0."""
        bucket = floor_to_hop(events.ts, hop)
        code, span = clock(events, bucket if hop != 1 else None, questions)
        at = questions.key * span + code(questions.t)
        question_order = stable_order(at)
        q_key, q_t = (
            (questions.key, questions.t)
            if question_order is None
            else (questions.key[question_order], questions.t[question_order])
        )
        at = at if question_order is None else at[question_order]
        floors = code(floor_to_hop(q_t - np.array(windows)[:, None], hop))
        floors += q_key * span
        base, known, starts = events.key * span, code(events.arrival), code(bucket)
        order = event_order(base + (starts if hop == 1 else code(events.ts)), events.kt if events.kt_differs else None)
        key, known, starts = events.key, known + base, starts + base
        if order is not None:
            key, known, starts = key[order], known[order], starts[order]
        since, prompt, late = None, None, _NONE
        if (known[1:] < known[:-1]).any():
            since = at.searchsorted(known, "left")
            prompt, late = split_out_of_order(since)
        prompt_known, prompt_starts = (known, starts) if prompt is None else (known[prompt], starts[prompt])
        end = (
            prompt_known.searchsorted(at, "right")
            if since is None
            else count_seen(since if prompt is None else since[prompt], len(at))
        )
        first = prompt_starts.searchsorted(floors, "right")
        return cls(
            order, question_order, key, prompt, late, np.minimum(first, end), end, known, since, starts, at, floors
        )

    def seen(self, positions: Ints, window: int) -> tuple[Ints, Ints]:
        """The range of sorted questions that see each event of ``positions`` in the window numbered ``window``."""
        known, since = self._known[positions], self._since
        since = self._at.searchsorted(known, "left") if since is None else since[positions]
        until = self._floors[window].searchsorted(self._starts[positions], "left")
        return since, np.maximum(until, since)

    def in_event_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values``, given per event in source order, in event order."""
        return values if self.order is None else values[self.order]


def floor_to_hop(moments: Ints, hop: int) -> Ints:
    """Start of the bucket of each moment."""
    return moments if hop == 1 else moments // hop * hop


def split_out_of_order(since: Ints) -> tuple[Ints | None, Ints]:
    """Positions of the in-order events (None for all), and of the out-of-order ones.

    An event is out of order if some question sees a later event but not this one. Arrival times that no question
    distinguishes do not matter, so online, where every question sees every event, no event is out of order.
    """
    overtaken = since > np.minimum.accumulate(since[::-1])[::-1]
    late = np.flatnonzero(overtaken)
    return (np.flatnonzero(~overtaken) if len(late) else None), late


def count_seen(since: Ints, questions: int) -> Ints:
    """How many events each question sees; ``since`` is the first question that sees each event."""
    return np.cumsum(np.bincount(since, minlength=questions + 1)[:questions])


SEAMS = {
    "split_out_of_order": "which events are out of order",
    "event_order": "events are sorted by key, event time and knowledge time",
    "floor_to_hop": "the bucket of a moment",
    "count_seen": "an event is seen from its arrival on",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
