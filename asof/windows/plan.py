"""Which events each question sees, for every window: sorting and searching, done once for all aggregations of a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.order import clock, event_order, stable_order

if TYPE_CHECKING:
    from asof.windows.kernel import Events, Questions

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """n events and q questions, sorted, and the w windows between them.

    Attributes:
        order: Source positions of the events in (key, ts, kt, source) order; None where they came in that order.
        asked: Positions of the questions in (key, t) order; None where they came in that order.
        key: Event keys in event order.
        prompt: Positions, in event order, of the events that become known in order; None for all of them.
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
        floors = np.stack([q_key * span + code(_floor(q_t - w, hop)) for w in windows])
        base, known, starts = events.key * span, code(events.arrival), code(bucket)
        order = event_order(base + (starts if hop == 1 else code(events.ts)), events.kt)
        key, known, starts = events.key, known + base, starts + base
        if order is not None:
            key, known, starts = key[order], known[order], starts[order]
        prompt, late = _stragglers(known)
        prompt_known, prompt_starts = (known, starts) if prompt is None else (known[prompt], starts[prompt])
        end = prompt_known.searchsorted(at, "right")
        first = prompt_starts.searchsorted(floors.ravel(), "right").reshape(floors.shape)
        return cls(order, asked, key, prompt, late, np.minimum(first, end), end, known, starts, at, floors)

    def seen(self, positions: Ints, window: int) -> tuple[Ints, Ints]:
        """The range of sorted questions that see each event of ``positions`` in the window numbered ``window``."""
        since = self._at.searchsorted(self._known[positions], "left")
        until = self._floors[window].searchsorted(self._starts[positions], "left")
        return since, np.maximum(until, since)

    def in_event_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values``, given per event in source order, in event order."""
        return values if self.order is None else values[self.order]


def _floor(moments: Ints, hop: int) -> Ints:
    return moments if hop == 1 else moments // hop * hop


def _stragglers(known: Ints) -> tuple[Ints | None, Ints]:
    """Positions of the events that no later event overtakes, and of the others."""
    if not (known[1:] < known[:-1]).any():
        return None, np.empty(0, dtype=np.int64)
    overtaken = known > np.minimum.accumulate(known[::-1])[::-1]
    return np.flatnonzero(~overtaken), np.flatnonzero(overtaken)
