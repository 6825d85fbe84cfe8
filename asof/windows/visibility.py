"""Which events each question sees, for every window: sorting and searching, done once for all aggregations of a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.sorting import clock, event_order, stable_order

if TYPE_CHECKING:
    from asof.windows.kernel import Events, Questions

Ints = NDArray[np.int64]

_NONE: Ints = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Plan:
    """n events and q questions, sorted, and the w windows between them.

    Attributes:
        order: Source positions of the events in (key, ts, kt, source) order; None where they came in that order.
        asked: Positions of the questions in (key, t) order; None where they came in that order.
        key: Event keys in event order.
        prompt: Positions, in event order, of the events that no question sees later than an event after them; None for all.
        late: Positions of the others, the stragglers.
        first: int64[w, q]; with ``end`` the range of ``prompt`` events that a question sees.
        end: int64[q].
    """

    order: Ints | None
    asked: Ints | None
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
    def of(cls, events: Events, questions: Questions, windows: Sequence[int], hop: int) -> Plan:
        """The plan for ``windows`` in microseconds; n and q must not be 0."""
        bucket = _floor(events.ts, hop)
        code, span = clock(events, bucket, questions)
        at = questions.key * span + code(questions.t)
        asked = stable_order(at)
        q_key, q_t = (questions.key, questions.t) if asked is None else (questions.key[asked], questions.t[asked])
        at = at if asked is None else at[asked]
        floors = code(_floor(q_t - np.array(windows)[:, None], hop))
        floors += q_key * span
        base, known, starts = events.key * span, code(events.arrival), code(bucket)
        order = event_order(base + (starts if hop == 1 else code(events.ts)), events.kt)
        key, known, starts = events.key, known + base, starts + base
        if order is not None:
            key, known, starts = key[order], known[order], starts[order]
        since, prompt, late = None, None, _NONE
        if (known[1:] < known[:-1]).any():
            since = at.searchsorted(known, "left")
            prompt, late = _stragglers(since)
        prompt_known, prompt_starts = (known, starts) if prompt is None else (known[prompt], starts[prompt])
        end = (
            prompt_known.searchsorted(at, "right")
            if since is None
            else _seen_by(since if prompt is None else since[prompt], len(at))
        )
        first = prompt_starts.searchsorted(floors, "right")
        return cls(order, asked, key, prompt, late, np.minimum(first, end), end, known, since, starts, at, floors)

    def seen(self, positions: Ints, window: int) -> tuple[Ints, Ints]:
        """The range of sorted questions that see each event of ``positions`` in the window numbered ``window``."""
        known, since = self._known[positions], self._since
        since = self._at.searchsorted(known, "left") if since is None else since[positions]
        until = self._floors[window].searchsorted(self._starts[positions], "left")
        return since, np.maximum(until, since)

    def in_event_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values``, given per event in source order, in event order."""
        return values if self.order is None else values[self.order]


def _floor(moments: Ints, hop: int) -> Ints:
    return moments if hop == 1 else moments // hop * hop


def _stragglers(since: Ints) -> tuple[Ints | None, Ints]:
    """Positions of the events that no later one overtakes, None for all, and of the others.

    An event is overtaken where a question sees a later one and not it: who knows when in between plays no part. So no event is that
    every question sees, as online.
    """
    overtaken = since > np.minimum.accumulate(since[::-1])[::-1]
    late = np.flatnonzero(overtaken)
    return (np.flatnonzero(~overtaken) if len(late) else None), late


def _seen_by(since: Ints, questions: int) -> Ints:
    """How many events each question sees, where ``since`` is the first that sees each event."""
    return np.cumsum(np.bincount(since, minlength=questions + 1)[:questions])
