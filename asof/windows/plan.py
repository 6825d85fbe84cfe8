"""Which events each question sees, for every window: sorting and searching, done once for all aggregations of a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Clock = Callable[[Ints], Ints]

_FITS = 1 << 62
"""Codes of (key, moment) must stay below this to be one int64."""


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
    def of(cls, events: Any, questions: Any, windows: Sequence[int | None], hop: int) -> Plan:
        """The plan for ``windows`` in microseconds (None is unbounded); n and q must not be 0."""
        bucket = _floor(events.ts, hop)
        code, span = _clock(events, bucket, questions)
        at, asked = _sorted_questions(questions.key * span + code(questions.t))
        q_key, q_t = (questions.key, questions.t) if asked is None else (questions.key[asked], questions.t[asked])
        floors = np.stack([q_key * span + (code(_floor(q_t - w, hop)) if w is not None else 0) for w in windows])
        base, known, starts = events.key * span, code(events.arrival), code(bucket)
        order = _order(base + (starts if hop == 1 else code(events.ts)), events.kt)
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

    def as_asked(self, answers: NDArray[Any]) -> NDArray[Any]:
        """``answers``, given per sorted question, in the order in which the questions were asked."""
        if self.asked is None:
            return answers
        result = np.empty_like(answers)
        result[self.asked] = answers
        return result


def _floor(moments: Ints, hop: int) -> Ints:
    return moments if hop == 1 else moments // hop * hop


def _clock(events: Any, bucket: Ints, questions: Any) -> tuple[Clock, int]:
    """A monotone code of moments in [0, span): exact for events and for questions; earlier than every event is 0."""
    low = min(int(bucket.min()) - 1, int(questions.t.min()))
    high = max(int(events.arrival.max()), int(questions.t.max()))
    keys = max(int(events.key.max()), int(questions.key.max())) + 2
    if keys * (high - low + 1) < _FITS:
        return (lambda moments: np.maximum(moments, low) - low), high - low + 1
    # Moments far apart (a year 9999 among them) and many keys: number the moments instead of measuring them.
    moments = np.unique(np.concatenate([bucket, events.ts, events.arrival, questions.t]))
    return (lambda wanted: moments.searchsorted(wanted, "right")), len(moments) + 1


def _sorted_questions(at: Ints) -> tuple[Ints, Ints | None]:
    if not (at[1:] < at[:-1]).any():
        return at, None
    asked = np.argsort(at, kind="stable")
    return at[asked], asked


def _order(codes: Ints, kt: Ints) -> Ints | None:
    """The stable order by (code, kt), None where that is the order at hand."""
    later = codes[1:] > codes[:-1]
    if (later | ((codes[1:] == codes[:-1]) & (kt[1:] >= kt[:-1]))).all():
        return None
    order = np.argsort(codes, kind="stable")
    tied = np.flatnonzero(codes[order[1:]] == codes[order[:-1]])
    if len(tied) and (kt[order[tied + 1]] < kt[order[tied]]).any():
        return np.lexsort((kt, codes))
    return order


def _stragglers(known: Ints) -> tuple[Ints | None, Ints]:
    """Positions of the events that no later event overtakes, and of the others."""
    if not (known[1:] < known[:-1]).any():
        return None, np.empty(0, dtype=np.int64)
    overtaken = known > np.minimum.accumulate(known[::-1])[::-1]
    return np.flatnonzero(~overtaken), np.flatnonzero(overtaken)
