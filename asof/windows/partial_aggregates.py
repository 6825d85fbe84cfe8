"""Partial aggregates: summaries of events that can be merged, for views with a hop, in which only whole buckets enter a window.

A part summarizes one or more events of one key and one bucket. Every function of :mod:`asof.windows.kernel` has the same value
from parts as from the events. Parts are only added, never subtracted, so no precision is lost by cancellation; squared
deviations are merged about the common mean (Chan, Golub and LeVeque, 1983).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from asof.windows.kernel import ZERO_WHEN_EMPTY

if TYPE_CHECKING:
    from asof.contract import Aggregation
    from asof.windows.events import Questions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PartialColumn:
    """Summaries of one column's non-missing values, for p parts.

    Attributes:
        count: Number of values, int64[p].
        total: Their sum, float64[p]; 0 for text and bytes.
        above: Sum of (value - low), float64[p]; gives the mean without cancellation.
        spread: Sum of their squared deviations from their mean, float64[p].
        low: The minimum, float64[p], or objects for text and bytes. This and the following are arbitrary where ``count`` is 0.
        high: The maximum.
        last: The value with the greatest (event time, knowledge time).
        ts: Event time of ``last``, int64[p].
        kt: Knowledge time of ``last``, int64[p].
        owner: The part that each distinct value belongs to, int64[d], ascending.
        distinct: The distinct values of each part, [d].
        whole: Whether the distinct values of a part were kept, bool[p].
    """

    count: Ints
    total: Floats
    above: Floats
    spread: Floats
    low: NDArray[Any]
    high: NDArray[Any]
    last: NDArray[Any]
    ts: Ints
    kt: Ints
    owner: Ints
    distinct: NDArray[Any]
    whole: Flags

    @classmethod
    def of_events(cls, values: NDArray[Any], ts: Ints, kt: Ints) -> Self:
        """A part for each event: values as in :class:`asof.windows.Events`."""
        if values.dtype == object:
            there = np.array([v is not None and v == v for v in values], bool)
            total = np.zeros(len(values))
        else:
            values = values.astype(np.float64)
            there = ~np.isnan(values)
            total = np.where(there, values, 0.0)
        zeros, everywhere = np.zeros(len(values)), np.ones(len(values), bool)
        owner = np.flatnonzero(there)
        count = there.astype(np.int64)
        return cls(count, total, zeros, zeros, values, values, values, ts, kt, owner, values[owner], everywhere)

    @classmethod
    def counting(cls, count: Ints) -> Self:
        """Parts with only a number of events."""
        made = cls.absent(len(count), np.dtype(np.float64))
        return replace(made, count=count)

    @classmethod
    def absent(cls, parts: int, kind: np.dtype[Any]) -> Self:
        """Parts without values."""
        values = np.full(parts, None if kind.hasobject else np.nan, kind)
        return cls.of_events(values, np.zeros(parts, np.int64), np.zeros(parts, np.int64))

    @classmethod
    def joined(cls, columns: Sequence[PartialColumn], kind: np.dtype[Any] | None = None) -> Self:
        """The parts of all columns in sequence. Parts with another kind of value than ``kind`` (by default the first column's) become empty."""
        kind = kind or columns[0].low.dtype
        columns = [c if c.low.dtype == kind else cls.absent(len(c.count), kind) for c in columns]
        offsets = np.cumsum([0, *(len(c.count) for c in columns[:-1])])
        owner = np.concatenate([c.owner + at for c, at in zip(columns, offsets, strict=True)])
        names = ("count", "total", "above", "spread", "low", "high", "last", "ts", "kt")
        joined = {name: np.concatenate([getattr(c, name) for c in columns]) for name in names}
        distinct, whole = np.concatenate([c.distinct for c in columns]), np.concatenate([c.whole for c in columns])
        return cls(**joined, owner=owner, distinct=distinct, whole=whole)

    def taken(self, parts: Ints) -> PartialColumn:
        """The chosen parts, in the given order."""
        return self.merged(Groups(parts, np.arange(len(parts))))

    def merged(self, groups: Groups) -> PartialColumn:
        """One merged part for each group."""
        there = groups.sums(self.count) > 0
        winner = _winner(self, groups)
        above, spread = _moments(self, groups)
        owner, distinct = _different(self, groups)
        return PartialColumn(
            count=groups.sums(self.count),
            total=groups.sums(self.total),
            above=above,
            spread=spread,
            low=_extreme(np.minimum, self.low, self, groups, there),
            high=_extreme(np.maximum, self.high, self, groups, there),
            last=self.last[winner],
            ts=self.ts[winner],
            kt=self.kt[winner],
            owner=owner,
            distinct=distinct,
            whole=groups.all(self.whole),
        )


@dataclass(frozen=True)
class Groups:
    """Parts that belong together: ``take`` int64[m] names parts, group i has take[starts[i]:starts[i + 1]], never none."""

    take: Ints
    starts: Ints

    @cached_property
    def lengths(self) -> Ints:
        """How many parts each group has."""
        return np.diff(np.append(self.starts, len(self.take)))

    @cached_property
    def number(self) -> Ints:
        """The group of each of ``take``."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum over each group of what each part has."""
        return self.reduced(np.add, values)

    def all(self, flags: Flags) -> Flags:
        """Whether all parts of each group are flagged."""
        return self.reduced(np.logical_and, flags)

    def reduced(self, operation: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        """``operation`` over each group of what each part has."""
        found: NDArray[Any] = operation.reduceat(values[self.take], self.starts) if len(self.starts) else values[:0]
        return found

    def added(self, values: Floats) -> Floats:
        """The sum over each group of what each of ``take`` has."""
        found: Floats = np.add.reduceat(values, self.starts) if len(self.starts) else values[:0]
        return found


@dataclass(frozen=True, slots=True)
class Partials:
    """p parts of several keys.

    Attributes:
        key: Dense codes, int64[p] >= 0, shared with the questions.
        ts: A moment in the part's bucket, int64[p], microseconds UTC.
        arrival: First moment at which all of it is known, int64[p].
        columns: Column -> what the parts know of it; the column of no name counts events.
    """

    key: Ints
    ts: Ints
    arrival: Ints
    columns: Mapping[str, PartialColumn]


def combine(
    parts: Partials, questions: Questions, aggregations: Sequence[Aggregation], hop: int
) -> dict[str, NDArray[Any]]:
    """The value of every aggregation at every question, as :func:`asof.windows.aggregate` has it from single events.

    Args:
        parts: The parts; no part may have events of two buckets.
        questions: The keys and moments.
        aggregations: What to compute.
        hop: Bucket width in microseconds.
    """
    asked, back = _distinct_questions(questions.key, questions.t)
    key, t = questions.key[asked], questions.t[asked]
    buckets, place = np.unique(parts.ts // hop, return_inverse=True)
    code = parts.key * (len(buckets) + 1) + place
    order = np.argsort(code, kind="stable")
    code = code[order]
    end = np.where(key < 0, 0, np.searchsorted(code, (key + 1) * (len(buckets) + 1)))
    seen: dict[tuple[int, ...], tuple[Ints, Groups]] = {}
    found: dict[str, NDArray[Any]] = {}
    for name, function in dict.fromkeys((a.column, a.function) for a in aggregations):
        wanted = [a for a in aggregations if (a.column, a.function) == (name, function)]
        windows = tuple(a.window for a in wanted)
        if windows not in seen:
            since = [np.searchsorted(buckets, (t - w) // hop, "right") for w in windows]
            first = np.searchsorted(code, np.concatenate([key * (len(buckets) + 1) + s for s in since]))
            seen[windows] = _known(parts, order, first, np.tile(end, len(windows)), np.tile(t, len(windows)))
        filled, groups = seen[windows]
        answers = _empty(function, parts.columns[name], len(windows) * len(t))
        answers[filled] = _FUNCTIONS[function](parts.columns[name], groups)
        found.update((a.name, answers[i * len(t) : (i + 1) * len(t)][back]) for i, a in enumerate(wanted))
    return {a.name: found[a.name] for a in aggregations}


def _distinct_questions(key: Ints, t: Ints) -> tuple[Ints, Ints]:
    """Positions of the distinct (key, t), and which of them each question is."""
    moments, place = np.unique(t, return_inverse=True)
    _, asked, back = np.unique((key + 1) * len(moments) + place, return_index=True, return_inverse=True)
    return asked, back


def _known(parts: Partials, order: Ints, first: Ints, end: Ints, t: Ints) -> tuple[Ints, Groups]:
    """The questions that see any part, and what each of them sees of order[first:end]."""
    lengths = np.maximum(end - first, 0)
    take, asked = order[runs(first, lengths)], np.repeat(np.arange(len(t)), lengths)
    seen = parts.arrival[take] <= t[asked]
    if not seen.all():
        take, asked = take[seen], asked[seen]
    starts = np.flatnonzero(np.diff(asked, prepend=-1))
    return asked[starts], Groups(take, starts)


def runs(first: Ints, lengths: Ints) -> Ints:
    """first[0], first[0] + 1, ... lengths[0] of them, then those of the next."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(first - before, lengths) + np.arange(int(lengths.sum()))


def _empty(function: str, column: PartialColumn, rows: int) -> NDArray[Any]:
    if function in ZERO_WHEN_EMPTY:
        return np.zeros(rows)
    if column.low.dtype == object and function in ("min", "max", "last"):
        return np.full(rows, None, object)
    return np.full(rows, np.nan)


def _lifted(column: PartialColumn, groups: Groups) -> Floats:
    """By how much the least of each of ``groups.take`` is above the least of its group; 0 where it has none."""
    if column.low.dtype == object:
        return np.zeros(len(groups.take))
    least = groups.reduced(np.minimum, np.where(column.count > 0, column.low, np.inf))
    return np.where(column.count[groups.take] > 0, column.low[groups.take] - least[groups.number], 0.0)


def _moments(column: PartialColumn, groups: Groups) -> tuple[Floats, Floats]:
    """What :class:`PartialColumn` calls ``above`` and ``spread``, of each group."""
    count, above = column.count[groups.take], column.above[groups.take]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lifted = _lifted(column, groups)
        raised = groups.added(above + count * lifted)
        mean = raised / groups.sums(column.count)
        off = np.where(count > 0, lifted + above / count - mean[groups.number], 0.0)
        return raised, groups.added(column.spread[groups.take] + count * off * off)


def _extreme(
    operation: np.ufunc, values: NDArray[Any], column: PartialColumn, groups: Groups, there: Flags
) -> NDArray[Any]:
    """The least or the greatest value of each group; missing where ``there`` is false."""
    own = column.count > 0
    worst = np.inf if operation is np.minimum else -np.inf
    if values.dtype != object:
        return np.where(there, groups.reduced(operation, np.where(own, values, worst)), np.nan)
    ranks, found = np.full(len(values), worst), np.full(len(there), None, object)
    names, ranks[own] = np.unique(values[own], return_inverse=True)
    found[there] = names[groups.reduced(operation, ranks)[there].astype(np.int64)]
    return found


def _winner(column: PartialColumn, groups: Groups) -> Ints:
    """The part of each group that has the last value; any where there is none."""
    order = np.lexsort((column.kt, column.ts))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    best = groups.reduced(np.maximum, np.where(column.count > 0, rank, -1))
    winner: Ints = order[best]
    return winner


def _different(column: PartialColumn, groups: Groups) -> tuple[Ints, NDArray[Any]]:
    """The distinct values of each group: the group of each, ascending, and the values."""
    held = np.bincount(column.owner, minlength=len(column.count))
    first = np.cumsum(held) - held
    lengths = held[groups.take]
    number = np.repeat(groups.number, lengths)
    names, codes = np.unique(column.distinct, return_inverse=True)
    kinds = np.unique(number * max(len(names), 1) + codes[runs(first[groups.take], lengths)])
    return kinds // max(len(names), 1), names[kinds % max(len(names), 1)]


def _count_distinct(column: PartialColumn, groups: Groups) -> Floats:
    """How many; missing where a part has not kept its distinct values."""
    owner, _ = _different(column, groups)
    counts = np.bincount(owner, minlength=len(groups.starts)).astype(np.float64)
    return np.where(groups.all(column.whole | (column.count == 0)), counts, np.nan)


def _mean(column: PartialColumn, groups: Groups) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = groups.sums(column.total) / groups.sums(column.count)
    return mean


def _var(column: PartialColumn, groups: Groups) -> Floats:
    """Sample variance."""
    count = groups.sums(column.count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 1, _moments(column, groups)[1] / (count - 1), np.nan)


def _min(column: PartialColumn, groups: Groups) -> NDArray[Any]:
    return _extreme(np.minimum, column.low, column, groups, groups.sums(column.count) > 0)


def _max(column: PartialColumn, groups: Groups) -> NDArray[Any]:
    return _extreme(np.maximum, column.high, column, groups, groups.sums(column.count) > 0)


def _last(column: PartialColumn, groups: Groups) -> NDArray[Any]:
    found = column.last[_winner(column, groups)]
    found[groups.sums(column.count) == 0] = None if found.dtype == object else np.nan
    return found


_FUNCTIONS: dict[str, Callable[[PartialColumn, Groups], NDArray[Any]]] = {
    "count": lambda column, groups: groups.sums(column.count).astype(np.float64),
    "sum": lambda column, groups: groups.sums(column.total),
    "mean": _mean,
    "min": _min,
    "max": _max,
    "std": lambda column, groups: np.sqrt(_var(column, groups)),
    "var": _var,
    "last": _last,
    "count_distinct": _count_distinct,
}
