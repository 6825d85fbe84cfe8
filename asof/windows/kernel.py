"""The functions over windows: count, sum, mean and so on. The package docstring states the rule and the method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows import out_of_order, parallel, range_folds
from asof.windows.events import Events, Questions
from asof.windows.visibility import Visibility

if TYPE_CHECKING:
    from asof.contract import Aggregation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ZERO_WHEN_EMPTY = frozenset({"count", "sum", "count_distinct"})
_ORDERED = frozenset({"min", "max", "last"})
_SPREAD = frozenset({"std", "var"})


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
        Name -> q values in the order of the questions: float64 with NaN for missing, int64 for counts, or objects with None for missing where
        min, max or last is over strings or bytes. ``count``, ``sum`` and ``count_distinct`` of an empty window are 0.
    """
    rows = len(questions.t)
    if not len(events.ts) or not rows:
        return {a.name: empty(events, a, rows) for a in aggregations}
    if len(events.ts) + rows > parallel.RANGE_SIZE:
        dtypes = {a.name: empty(events, a, 0).dtype for a in aggregations}
        return parallel.by_key_ranges(
            events, questions, dtypes, lambda some, asked: sorted_answers(some, asked, aggregations, hop)
        )
    order, answers = sorted_answers(events, questions, aggregations, hop)
    return answers if order is None else {name: _in_question_order(values, order) for name, values in answers.items()}


def _in_question_order(values: NDArray[Any], order: Ints) -> NDArray[Any]:
    answers = np.empty_like(values)
    answers[order] = values
    return answers


def sorted_answers(
    events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int
) -> tuple[Ints | None, dict[str, NDArray[Any]]]:
    """The order of the q questions by key and time (None if they came in it), and the answers in that order.

    The answers are those of :func:`aggregate`; q must not be 0.
    """
    if not len(events.ts):
        return None, {a.name: empty(events, a, len(questions.t)) for a in aggregations}
    requested = _requested(tuple(aggregations))
    visible = Visibility.of(events, questions, requested.windows, hop)
    columns = {
        c: _ColumnEvents(visible, events.columns[c] if c else None, spread) for c, spread in requested.spread.items()
    }
    answers: dict[str, NDArray[Any]] = {}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for (column, function), picked, names in requested.tables:
            answers.update(zip(names, _FUNCTIONS[function](columns[column], picked), strict=True))
    return visible.question_order, answers


@dataclass(frozen=True, slots=True)
class _Requested:
    """Aggregations, grouped by what is computed together.

    Attributes:
        windows: Their windows, ascending.
        spread: Column -> positions in ``windows`` of those that need a standard deviation or variance.
        tables: (column, function), the positions of its windows, and the name of each aggregation.
    """

    windows: list[int]
    spread: dict[str, set[int]]
    tables: list[tuple[tuple[str, str], list[int], list[str]]]


@lru_cache
def _requested(aggregations: tuple[Aggregation, ...]) -> _Requested:
    windows = sorted({a.window for a in aggregations})
    spread: dict[str, set[int]] = {a.column: set() for a in aggregations}
    tables: dict[tuple[str, str], tuple[list[int], list[str]]] = {}
    for a in aggregations:
        picked, names = tables.setdefault((a.column, a.function), ([], []))
        picked.append(windows.index(a.window))
        names.append(a.name)
        if a.function in _SPREAD:
            spread[a.column].add(picked[-1])
    return _Requested(windows, spread, [(which, *table) for which, table in tables.items()])


def empty(events: Events, aggregation: Aggregation, rows: int) -> NDArray[Any]:
    """The values of ``rows`` empty windows."""
    if aggregation.function in ZERO_WHEN_EMPTY:
        return np.zeros(rows, float if aggregation.function == "sum" else np.int64)
    values = events.columns[aggregation.column]
    if values.dtype == object and aggregation.function in _ORDERED:
        return np.full(rows, None, dtype=object)
    return np.full(rows, np.nan)


class _ColumnEvents:
    """The events that have a value in one column, and the ranges of them that each question sees in each window.

    Attributes:
        values: float64[n] in event order: the values, or the ranks of strings or bytes; zeros for the empty column name, which counts events.
        names: The distinct strings or bytes in rank order; None for numbers.
        at: Positions of the in-order events that have a value; None for all events.
        late: Positions of the out-of-order events that have a value.
        first: int64[w, q]; with ``end`` (same shape) the range of ``at`` that each question sees.
        count: int64[w, q], how many events with a value each question sees, out-of-order events included.
        nodes: Per window, the tree nodes that out-of-order events are folded into; empty if there are no such events.
        spread: Windows that need a standard deviation or variance; their mean is computed with it.
    """

    def __init__(self, visible: Visibility, values: NDArray[Any] | None, spread: set[int]) -> None:
        self.spread = spread
        self._ranges: dict[tuple[int, ...], tuple[NDArray[np.bool_] | None, range_folds.Ranges | None]] = {}
        self._moments: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
        self.visible, self.at, self.late = visible, visible.prompt, visible.late
        self.first, self.end = visible.first, np.broadcast_to(visible.end, visible.first.shape)
        self.values: Floats = np.zeros(len(visible.key))
        self.names: NDArray[Any] | None = None
        if values is not None:
            self.values, self.names = _numbers(visible.in_event_order(values))
            self._leave_out(np.isnan(self.values))
        self.count = self.end - self.first
        windows, questions = self.first.shape
        seen = [visible.seen(self.late, window) for window in range(windows)] if len(self.late) else []
        for window, ranges_seen in enumerate(seen):
            self.count[window] += out_of_order.counts(ranges_seen, questions)
        self.nodes = [out_of_order.Nodes(ranges_seen, questions) for ranges_seen in seen]

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
        """The values of the in-order events that have one."""
        return self.values if self.at is None else self.values[self.at]

    def ranges(self, picked: list[int]) -> tuple[NDArray[np.bool_] | None, range_folds.Ranges | None]:
        """Which (window, question) pairs see in-order events, None for all; and the ranges of ``prompt`` that those see, if any."""
        asked = tuple(picked)
        if asked not in self._ranges:
            first, end = self.first[picked].ravel(), self.end[picked].ravel()
            some = end > first
            whole = bool(some.all())
            if not whole:
                first, end = first[some], end[some]
            found = range_folds.Ranges(first, end, len(self.prompt)) if len(first) else None
            self._ranges[asked] = (None if whole else some, found)
        return self._ranges[asked]

    def table(self, picked: list[int], folded: Floats | None, nothing: float) -> Floats:
        """Results of folding ``ranges(picked)``, as [len(picked), q]; ``nothing`` for pairs that see no in-order events."""
        some, _ = self._ranges[tuple(picked)]
        shape = len(picked), self.first.shape[1]
        if some is None and folded is not None:
            return folded.reshape(shape)
        table = np.full(shape, nothing)
        if folded is not None:
            table.ravel()[some] = folded
        return table

    def moments(self, picked: list[int]) -> tuple[Floats, Floats]:
        """Mean and sum of squared deviations of all events that have a value, [len(picked), q]; 0 where there are none."""
        asked = tuple(picked)
        if asked not in self._moments:
            self._moments[asked] = self._merged_moments(picked)
        return self._moments[asked]

    def _merged_moments(self, picked: list[int]) -> tuple[Floats, Floats]:
        chosen = self.ranges(picked)[1]
        folded = (None, None) if chosen is None else range_folds.moments(self.prompt, chosen)
        mean, spread = (self.table(picked, f, 0.0) for f in folded)
        for row, window in enumerate(picked if self.nodes else ()):
            prompt = (self.end[window] - self.first[window], mean[row], spread[row])
            late = out_of_order.moments(self.values[self.late], self.nodes[window])
            _, mean[row], spread[row] = range_folds.merge(prompt, late)
        return mean, spread


def _numbers(values: NDArray[Any]) -> tuple[Floats, NDArray[Any] | None]:
    if values.dtype != object:
        return values.astype(np.float64, copy=False), None
    there = np.array([v is not None and v == v for v in values], dtype=bool)
    names, ranks = np.unique(values[there], return_inverse=True)
    numbers = np.full(len(values), np.nan)
    numbers[there] = ranks
    return numbers, names


def _folded(column: _ColumnEvents, picked: list[int], operation: np.ufunc, empty: float) -> Floats:
    """``operation`` over in-order events and out-of-order events, [len(picked), q]; ``empty`` where there are none."""
    chosen = column.ranges(picked)[1]
    table = column.table(picked, None if chosen is None else range_folds.fold(operation, column.prompt, chosen), empty)
    for row, window in enumerate(picked if column.nodes else ()):
        late = out_of_order.fold(operation, column.values[column.late], column.nodes[window], empty)
        table[row] = operation(table[row], late)
    return table


def _count(column: _ColumnEvents, picked: list[int]) -> Ints:
    return column.count[picked]


def _sum(column: _ColumnEvents, picked: list[int]) -> Floats:
    return _folded(column, picked, np.add, 0.0)


def _mean(column: _ColumnEvents, picked: list[int]) -> Floats:
    if set(picked) <= column.spread:
        return np.where(column.count[picked] > 0, column.moments(picked)[0], np.nan)
    mean: Floats = _sum(column, picked) / column.count[picked]
    return mean


def _min(column: _ColumnEvents, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, _folded(column, picked, np.minimum, np.inf))


def _max(column: _ColumnEvents, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, _folded(column, picked, np.maximum, -np.inf))


def _last(column: _ColumnEvents, picked: list[int]) -> NDArray[Any]:
    return _named(column, picked, column.values[last_position(column, picked)])


def last_position(column: _ColumnEvents, picked: list[int]) -> Ints:
    """Position in event order of the last event that each question sees, [len(picked), q]; -1 where there is none."""
    first, end = column.first[picked], column.end[picked]
    position = np.where(end > first, end - 1, -1)
    if column.at is not None:
        position = np.append(column.at, -1)[position]
    for row, window in enumerate(picked if column.nodes else ()):
        late = out_of_order.fold(np.maximum, column.late, column.nodes[window], -1)
        np.maximum(position[row], late, out=position[row])
    return position


def _named(column: _ColumnEvents, picked: list[int], numbers: Floats) -> NDArray[Any]:
    """``numbers`` where there was anything to fold, turned back into strings or bytes where they are ranks."""
    some = column.count[picked] > 0
    if column.names is None:
        return np.where(some, numbers, np.nan)
    named = np.full(numbers.shape, None, dtype=object)
    named[some] = column.names[numbers[some].astype(np.int64)]
    return named


def _var(column: _ColumnEvents, picked: list[int]) -> Floats:
    """Sample variance; see :func:`asof.windows.range_folds.moments` for the formula."""
    count = column.count[picked]
    return np.where(count > 1, column.moments(picked)[1] / (count - 1), np.nan)


def _std(column: _ColumnEvents, picked: list[int]) -> Floats:
    return np.sqrt(_var(column, picked))


def _count_distinct(column: _ColumnEvents, picked: list[int]) -> Ints:
    visible, there = column.visible, np.flatnonzero(~np.isnan(column.values))
    value = np.unique(column.values[there], return_inverse=True)[1]
    kind = visible.key[there] * (len(there) + 1) + value
    rows = [distinct_seen(kind, visible.seen(there, window), column.count.shape[1]) for window in picked]
    return np.array(rows)


def distinct_seen(kind: Ints, seen: tuple[Ints, Ints], questions: int) -> Ints:
    """How many kinds of event each question sees, int64[questions].

    A kind is one value of one key. Each event is seen by a range of the sorted questions. The ranges of one kind are made
    disjoint: a range keeps the part after the furthest end of the ranges that start before it. Then starts and ends are counted.

    Args:
        kind: Kind of each event, int64[n], any codes.
        seen: First question that sees each event, and the end of those that do.
        questions: How many questions there are.
    """
    since, until = seen
    there = np.flatnonzero(since < until)
    if not len(there):
        return np.zeros(questions, dtype=np.int64)
    there = there[np.lexsort((since[there], kind[there]))]
    since, until, number = since[there], until[there], np.cumsum(np.diff(kind[there], prepend=kind[there[0]]) != 0)
    # One running maximum serves all kinds: each kind's ends are lifted above those of the kinds before it.
    lift = number * (questions + 1)
    furthest = np.maximum.accumulate(until + lift) - lift
    reached = np.concatenate([[0], np.where(np.diff(number) == 0, furthest[:-1], 0)])
    since = np.maximum(since, reached)
    new = since < until
    steps = np.bincount(since[new], minlength=questions + 1) - np.bincount(until[new], minlength=questions + 1)
    return np.cumsum(steps[:questions])


_FUNCTIONS: dict[str, Callable[[_ColumnEvents, list[int]], NDArray[Any]]] = {
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


SEAMS = {
    "last_position": "the last event in a window",
    "distinct_seen": "equal values count once",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
