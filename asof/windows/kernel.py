"""Events, questions, and the functions over windows. See the package's docstring for the law and the method."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows import ranges, stragglers
from asof.windows.distinct import covered
from asof.windows.order import stable_order
from asof.windows.plan import Plan

if TYPE_CHECKING:
    from asof.contract import Aggregation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PIECE = 1 << 16
"""More events and questions than this are answered by ranges of keys, so that what is worked on stays in the cache."""
_WORKERS = min(len(os.sched_getaffinity(0)), 4)
ZERO_WHEN_EMPTY = frozenset({"count", "sum", "count_distinct"})
_ORDERED = frozenset({"min", "max", "last"})
_SPREAD = frozenset({"std", "var"})


@dataclass(frozen=True, slots=True)
class Events:
    """n events in source order, the order that decides between equal (ts, kt).

    Attributes:
        key: Dense codes, int64[n] >= 0, shared with the questions.
        ts: Event time, int64[n], microseconds UTC.
        arrival: First moment at which the event is known, int64[n]: max(ts, kt), or ts with knowledge time off.
        kt: Knowledge time, int64[n]; equal to ``ts`` where the source has none.
        columns: Column -> n values: numbers or booleans (NaN is missing), or an object array of str or bytes (None is missing).
    """

    key: Ints
    ts: Ints
    arrival: Ints
    kt: Ints
    columns: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Questions:
    """q questions, in any order: ``key`` int64[q] (-1 matches nothing), ``t`` int64[q] in microseconds UTC."""

    key: Ints
    t: Ints


def aggregate(
    events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int = 1
) -> dict[str, NDArray[Any]]:
    """The value of every aggregation at every question.

    Args:
        events: The events, in source order.
        questions: The keys and moments.
        aggregations: What to compute; an empty ``column`` counts events.
        hop: Bucket width in microseconds.

    Returns:
        Name -> q values in the order of the questions: float64 with NaN for missing, or objects with None for missing where
        min, max or last is over strings or bytes. ``count``, ``sum`` and ``count_distinct`` of an empty window are 0.
    """
    rows = len(questions.t)
    if not len(events.ts) or not rows:
        return {a.name: _empty(events, a, rows) for a in aggregations}
    if len(events.ts) + rows <= PIECE:
        return _aggregate(events, questions, aggregations, hop)
    answers = {a.name: _empty(events, a, rows) for a in aggregations}
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        found = pool.map(
            lambda piece: (piece, _aggregate(piece.events, piece.questions, aggregations, hop)),
            pieces(events, questions),
        )
        for piece, values in found:
            for name, answer in answers.items():
                answer[piece.asked] = values[name]
    return answers


def _aggregate(
    events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int
) -> dict[str, NDArray[Any]]:
    if not len(events.ts):
        return {a.name: _empty(events, a, len(questions.t)) for a in aggregations}
    windows = sorted({a.window for a in aggregations})
    plan = Plan.of(events, questions, windows, hop)
    columns: dict[str, _Column] = {}
    answers: dict[str, NDArray[Any]] = {}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for column, function in dict.fromkeys((a.column, a.function) for a in aggregations):
            if column not in columns:
                spread = {windows.index(a.window) for a in aggregations if a.column == column and a.function in _SPREAD}
                columns[column] = _Column(plan, events.columns[column] if column else None, spread)
            wanted = [a for a in aggregations if a.column == column and a.function == function]
            table = _FUNCTIONS[function](columns[column], [windows.index(a.window) for a in wanted])
            answers.update((a.name, plan.as_asked(row)) for a, row in zip(wanted, table, strict=True))
    return {a.name: answers[a.name] for a in aggregations}


@dataclass(frozen=True, slots=True)
class Piece:
    """The events and questions of some keys, and the positions of these questions among all."""

    events: Events
    questions: Questions
    asked: Ints


def pieces(events: Events, questions: Questions) -> Iterator[Piece]:
    """Events and questions by ranges of keys, about :data:`PIECE` of them at a time: small enough to stay in the cache."""
    by_key, asked = stable_order(events.key), stable_order(questions.key)
    key = events.key if by_key is None else events.key[by_key]
    q_key = questions.key if asked is None else questions.key[asked]
    asked = np.arange(len(q_key)) if asked is None else asked
    start = q_start = 0
    while q_start < len(q_key):
        # The key that the piece would end in is taken whole: it ends before the next one.
        last = min(q_key[min(q_start + PIECE // 2, len(q_key)) - 1], _key_at(key, start + PIECE // 2, q_key[-1]))
        last = max(last, q_key[q_start])
        stop, q_stop = int(key.searchsorted(last, "right")), int(q_key.searchsorted(last, "right"))
        chosen = slice(start, stop) if by_key is None else by_key[start:stop]
        mine = Events(
            key[start:stop],
            events.ts[chosen],
            events.arrival[chosen],
            events.kt[chosen],
            {name: values[chosen] for name, values in events.columns.items()},
        )
        positions = asked[q_start:q_stop]
        yield Piece(mine, Questions(q_key[q_start:q_stop], questions.t[positions]), positions)
        start, q_start = stop, q_stop


def _key_at(key: Ints, position: int, beyond: int) -> int:
    return int(key[position]) if position < len(key) else int(beyond)


def _empty(events: Events, aggregation: Aggregation, rows: int) -> NDArray[Any]:
    if aggregation.function in ZERO_WHEN_EMPTY:
        return np.zeros(rows)
    values = events.columns[aggregation.column]
    if values.dtype == object and aggregation.function in _ORDERED:
        return np.full(rows, None, dtype=object)
    return np.full(rows, np.nan)


class _Column:
    """The events that have a value in one column, and the ranges of them that each question sees in each window.

    Attributes:
        values: float64[n] in event order: the values, or the ranks of strings or bytes; zeros for the column of no name.
        names: The distinct strings or bytes in rank order; None for numbers.
        at: Positions of the prompt events that have a value; None where that is all events.
        late: Positions of the stragglers that have a value.
        first: int64[w, q]; with ``end`` (same shape) the range of ``at`` that each question sees.
        count: int64[w, q], how many events with a value each question sees, stragglers included.
        spread: Windows whose standard deviation or variance is asked for; their mean comes with it.
    """

    def __init__(self, plan: Plan, values: NDArray[Any] | None, spread: set[int]) -> None:
        self.spread = spread
        self._ranges: dict[tuple[int, ...], tuple[NDArray[np.bool_], ranges.Ranges | None]] = {}
        self._moments: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
        self.plan, self.at, self.late = plan, plan.prompt, plan.late
        self.first, self.end = plan.first, np.broadcast_to(plan.end, plan.first.shape)
        self.values: Floats = np.zeros(len(plan.key))
        self.names: NDArray[Any] | None = None
        if values is not None:
            self.values, self.names = _numbers(plan.in_event_order(values))
            self._leave_out(np.isnan(self.values))
        self.count = self.end - self.first
        self.seen = [plan.seen(self.late, w) for w in range(len(self.first))] if len(self.late) else []
        for window, seen in enumerate(self.seen):
            self.count[window] += stragglers.counts(seen, self.count.shape[1])

    def _leave_out(self, missing: NDArray[np.bool_]) -> None:
        if not missing.any():
            return
        kept = ~missing if self.at is None else ~missing[self.at]
        before = np.concatenate([[0], np.cumsum(kept)])
        self.first, self.end = before[self.first], before[self.end]
        self.at = np.flatnonzero(kept) if self.at is None else self.at[kept]
        self.late = self.late[~missing[self.late]]

    @cached_property
    def prompt(self) -> Floats:
        """The values of the prompt events that have one."""
        return self.values if self.at is None else self.values[self.at]

    def ranges(self, picked: list[int]) -> tuple[NDArray[np.bool_], ranges.Ranges | None]:
        """Which (window, question) pairs see prompt events, and the ranges of ``prompt`` that those see; None if none does."""
        asked = tuple(picked)
        if asked not in self._ranges:
            first, end = self.first[picked].ravel(), self.end[picked].ravel()
            some = end > first
            found = ranges.Ranges(first[some], end[some], len(self.prompt)) if some.any() else None
            self._ranges[asked] = (some, found)
        return self._ranges[asked]

    def moments(self, picked: list[int]) -> tuple[Floats, Floats]:
        """Mean and sum of squared deviations of all events that have a value, [len(picked), q]; 0 where there are none."""
        asked = tuple(picked)
        if asked not in self._moments:
            self._moments[asked] = self._merged_moments(picked)
        return self._moments[asked]

    def _merged_moments(self, picked: list[int]) -> tuple[Floats, Floats]:
        some, chosen = self.ranges(picked)
        means, spreads = np.zeros(len(some)), np.zeros(len(some))
        if chosen is not None:
            means[some], spreads[some] = ranges.moments(self.prompt, chosen)
        mean, spread = means.reshape(len(picked), -1), spreads.reshape(len(picked), -1)
        for row, window in enumerate(picked if self.seen else ()):
            prompt = (self.end[window] - self.first[window], mean[row], spread[row])
            late = stragglers.moments(*self.stragglers(window), self.count.shape[1])
            _, mean[row], spread[row] = ranges.merge(prompt, late)
        return mean, spread

    def stragglers(self, window: int) -> tuple[Floats, tuple[Ints, Ints]]:
        """Values of the stragglers that have one, and the range of questions that see each."""
        return self.values[self.late], self.seen[window]


def _numbers(values: NDArray[Any]) -> tuple[Floats, NDArray[Any] | None]:
    if values.dtype != object:
        return values.astype(np.float64, copy=False), None
    there = np.array([v is not None and v == v for v in values], dtype=bool)
    names, ranks = np.unique(values[there], return_inverse=True)
    numbers = np.full(len(values), np.nan)
    numbers[there] = ranks
    return numbers, names


def _folded(column: _Column, picked: list[int], operation: np.ufunc, empty: float) -> Floats:
    """``operation`` over prompt events and stragglers, [len(picked), q]; ``empty`` where there are none."""
    some, chosen = column.ranges(picked)
    result = np.full(len(some), empty)
    if chosen is not None:
        result[some] = ranges.fold(operation, column.prompt, chosen)
    table = result.reshape(len(picked), -1)
    for row, window in enumerate(picked if column.seen else ()):
        late = stragglers.fold(operation, *column.stragglers(window), table.shape[1], empty)
        table[row] = operation(table[row], late)
    return table


def _count(column: _Column, picked: list[int]) -> Floats:
    return column.count[picked].astype(np.float64)


def _sum(column: _Column, picked: list[int]) -> Floats:
    return _folded(column, picked, np.add, 0.0)


def _mean(column: _Column, picked: list[int]) -> Floats:
    if set(picked) <= column.spread:
        return np.where(column.count[picked] > 0, column.moments(picked)[0], np.nan)
    mean: Floats = _sum(column, picked) / column.count[picked]
    return mean


def _min(column: _Column, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, _folded(column, picked, np.minimum, np.inf))


def _max(column: _Column, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, _folded(column, picked, np.maximum, -np.inf))


def _last(column: _Column, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, column.values[_last_position(column, picked)])


def _last_position(column: _Column, picked: list[int]) -> Ints:
    """Position in event order of the last event that each question sees, [len(picked), q]; -1 where there is none."""
    first, end = column.first[picked], column.end[picked]
    position = np.where(end > first, end - 1, -1)
    if column.at is not None:
        position = np.append(column.at, -1)[position]
    for row, window in enumerate(picked if column.seen else ()):
        late = stragglers.fold(np.maximum, column.late, column.seen[window], position.shape[1], -1)
        np.maximum(position[row], late, out=position[row])
    return position


def _named(column: _Column, picked: list[int], numbers: Floats) -> NDArray[Any]:
    """``numbers`` where there was anything to fold, turned back into strings or bytes where they are ranks."""
    some = column.count[picked] > 0
    if column.names is None:
        return np.where(some, numbers, np.nan)
    named = np.full(numbers.shape, None, dtype=object)
    named[some] = column.names[numbers[some].astype(np.int64)]
    return named


def _var(column: _Column, picked: list[int]) -> Floats:
    """Sample variance; see :func:`asof.windows.ranges.moments` for the formula."""
    count = column.count[picked]
    return np.where(count > 1, column.moments(picked)[1] / (count - 1), np.nan)


def _std(column: _Column, picked: list[int]) -> Floats:
    return np.sqrt(_var(column, picked))


def _count_distinct(column: _Column, picked: list[int]) -> Floats:
    plan, there = column.plan, np.flatnonzero(~np.isnan(column.values))
    value = np.unique(column.values[there], return_inverse=True)[1]
    kind = plan.key[there] * (len(there) + 1) + value
    rows = [covered(kind, plan.seen(there, window), column.count.shape[1]) for window in picked]
    return np.array(rows, dtype=np.float64)


_FUNCTIONS: dict[str, Callable[[_Column, list[int]], NDArray[Any]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "std": _std,
    "var": _var,
    "last": _last,
    "count_distinct": _count_distinct,
}
