"""Events, questions, and the functions over windows. See the package's docstring for the law and the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asof.windows import out_of_order, ranges
from asof.windows.distinct import covered
from asof.windows.visibility import Plan

if TYPE_CHECKING:
    from asof.contract import Aggregation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

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


def sorted_answers(
    events: Events, questions: Questions, aggregations: Sequence[Aggregation], hop: int
) -> tuple[Ints | None, dict[str, NDArray[Any]]]:
    """Positions of the q questions in order of key and time (None where they came in it), and the answers in that order.

    For the answers see :func:`asof.windows.aggregate`; q must not be 0.
    """
    if not len(events.ts):
        return None, {a.name: empty(events, a, len(questions.t)) for a in aggregations}
    wanted = _wanted(tuple(aggregations))
    plan = Plan.of(events, questions, wanted.windows, hop)
    columns = {c: _Column(plan, events.columns[c] if c else None, spread) for c, spread in wanted.spread.items()}
    answers: dict[str, NDArray[Any]] = {}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for (column, function), picked, names in wanted.tables:
            answers.update(zip(names, _FUNCTIONS[function](columns[column], picked), strict=True))
    return plan.asked, answers


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Aggregations by what is computed together.

    Attributes:
        windows: Their windows, ascending.
        spread: Column -> numbers of the windows whose standard deviation or variance is asked for.
        tables: (column, function), the numbers of its windows, and the name of each.
    """

    windows: list[int]
    spread: dict[str, set[int]]
    tables: list[tuple[tuple[str, str], list[int], list[str]]]


@lru_cache
def _wanted(aggregations: tuple[Aggregation, ...]) -> _Wanted:
    windows = sorted({a.window for a in aggregations})
    spread: dict[str, set[int]] = {a.column: set() for a in aggregations}
    tables: dict[tuple[str, str], tuple[list[int], list[str]]] = {}
    for a in aggregations:
        picked, names = tables.setdefault((a.column, a.function), ([], []))
        picked.append(windows.index(a.window))
        names.append(a.name)
        if a.function in _SPREAD:
            spread[a.column].add(picked[-1])
    return _Wanted(windows, spread, [(which, *table) for which, table in tables.items()])


def empty(events: Events, aggregation: Aggregation, rows: int) -> NDArray[Any]:
    """What ``rows`` empty windows have."""
    if aggregation.function in ZERO_WHEN_EMPTY:
        return np.zeros(rows, float if aggregation.function == "sum" else np.int64)
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
        nodes: Per window, what stragglers are folded into on their way to the questions; nothing where there are none.
        spread: Windows whose standard deviation or variance is asked for; their mean comes with it.
    """

    def __init__(self, plan: Plan, values: NDArray[Any] | None, spread: set[int]) -> None:
        self.spread = spread
        self._ranges: dict[tuple[int, ...], tuple[NDArray[np.bool_] | None, ranges.Ranges | None]] = {}
        self._moments: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
        self.plan, self.at, self.late = plan, plan.prompt, plan.late
        self.first, self.end = plan.first, np.broadcast_to(plan.end, plan.first.shape)
        self.values: Floats = np.zeros(len(plan.key))
        self.names: NDArray[Any] | None = None
        if values is not None:
            self.values, self.names = _numbers(plan.in_event_order(values))
            self._leave_out(np.isnan(self.values))
        self.count = self.end - self.first
        windows, questions = self.first.shape
        seen = [plan.seen(self.late, window) for window in range(windows)] if len(self.late) else []
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
        """The values of the prompt events that have one."""
        return self.values if self.at is None else self.values[self.at]

    def ranges(self, picked: list[int]) -> tuple[NDArray[np.bool_] | None, ranges.Ranges | None]:
        """Which (window, question) pairs see prompt events, None for all; and the ranges of ``prompt`` that those see, if any."""
        asked = tuple(picked)
        if asked not in self._ranges:
            first, end = self.first[picked].ravel(), self.end[picked].ravel()
            some = end > first
            whole = bool(some.all())
            if not whole:
                first, end = first[some], end[some]
            found = ranges.Ranges(first, end, len(self.prompt)) if len(first) else None
            self._ranges[asked] = (None if whole else some, found)
        return self._ranges[asked]

    def table(self, picked: list[int], folded: Floats | None, nothing: float) -> Floats:
        """Results of folding ``ranges(picked)``, as [len(picked), q]; ``nothing`` for pairs that see no prompt events."""
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
        folded = (None, None) if chosen is None else ranges.moments(self.prompt, chosen)
        mean, spread = (self.table(picked, f, 0.0) for f in folded)
        for row, window in enumerate(picked if self.nodes else ()):
            prompt = (self.end[window] - self.first[window], mean[row], spread[row])
            late = out_of_order.moments(self.values[self.late], self.nodes[window])
            _, mean[row], spread[row] = ranges.merge(prompt, late)
        return mean, spread


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
    chosen = column.ranges(picked)[1]
    table = column.table(picked, None if chosen is None else ranges.fold(operation, column.prompt, chosen), empty)
    for row, window in enumerate(picked if column.nodes else ()):
        late = out_of_order.fold(operation, column.values[column.late], column.nodes[window], empty)
        table[row] = operation(table[row], late)
    return table


def _count(column: _Column, picked: list[int]) -> Ints:
    return column.count[picked]


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
    for row, window in enumerate(picked if column.nodes else ()):
        late = out_of_order.fold(np.maximum, column.late, column.nodes[window], -1)
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


def _count_distinct(column: _Column, picked: list[int]) -> Ints:
    plan, there = column.plan, np.flatnonzero(~np.isnan(column.values))
    value = np.unique(column.values[there], return_inverse=True)[1]
    kind = plan.key[there] * (len(there) + 1) + value
    rows = [covered(kind, plan.seen(there, window), column.count.shape[1]) for window in picked]
    return np.array(rows)


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
