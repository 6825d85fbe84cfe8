"""Folds over many contiguous ranges ``values[first:end]`` at once, without subtraction, so that nothing cancels.

Short ranges are folded one by one. For long ones, each range straddles exactly one boundary between two neighbouring
blocks of some power-of-two width; it is the end of the left block and the start of the right one. Running folds inside
blocks, forwards and backwards, are one pass per width, and there are log2(longest range) widths: a disjoint sparse table.
Every function here takes ranges of at least one value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DIRECT = 8
"""Ranges are folded one by one while their total length is at most this many times the number of values and ranges."""


def fold(operation: np.ufunc, values: NDArray[Any], first: Ints, end: Ints) -> NDArray[Any]:
    """``operation`` (add, minimum or maximum) over each range.

    Args:
        operation: An associative ufunc.
        values: n values.
        first: Start of each of m ranges.
        end: End of each range, exclusive, greater than its start.

    Returns:
        m values of the type of ``values``.
    """
    if not _long(len(values), first, end):
        return _one_by_one(operation, values, first, end)
    answer = values[first]
    for block in _blocks(first, end):
        rows = _rows(values, block.width)
        ahead = operation.accumulate(rows, axis=1).ravel()
        back = operation.accumulate(rows[:, ::-1], axis=1)[:, ::-1].ravel()
        answer[block.chosen] = operation(back[block.first], ahead[block.last])
    return answer


def moments(values: Floats, first: Ints, end: Ints) -> tuple[Floats, Floats]:
    """Mean and sum of squared deviations from it, of each range; the latter is exactly 0 where all values are equal.

    Values are counted from one value of their own range, and partial results merged as in Chan, Golub and LeVeque,
    "Algorithms for computing the sample variance" (1983), equation 2.1.
    """
    if not _long(len(values), first, end):
        return _moments_one_by_one(values, first, end)
    mean, spread = values[first], np.zeros(len(first))
    for block in _blocks(first, end):
        rows = _rows(values, block.width)
        ahead, ahead_spread = (x.ravel() for x in _running_moments(rows))
        back, back_spread = (x[:, ::-1].ravel() for x in _running_moments(rows[:, ::-1]))
        inside = block.width - 1
        left = (block.width - (block.first & inside), back[block.first], back_spread[block.first])
        right = ((block.last & inside) + 1, ahead[block.last], ahead_spread[block.last])
        mean[block.chosen], spread[block.chosen] = merge(left, right)[1:]
    return mean, spread


Moments = tuple[NDArray[np.number], Floats, Floats]
"""Count, mean, sum of squared deviations from the mean."""


def merge(left: Moments, right: Moments) -> Moments:
    """The moments of two sets of values together; a side that counts 0 adds nothing. Formula: see :func:`moments`."""
    (n, mean, spread), (m, other, other_spread) = left, right
    total = n + m
    share = m / np.maximum(total, 1)
    apart = np.where((n > 0) & (m > 0), other - mean, 0.0)
    merged = np.where(n > 0, mean + apart * share, other)
    return total, merged, spread + other_spread + apart * apart * n * share


@dataclass(frozen=True, slots=True)
class _Block:
    """The ranges ``chosen`` that straddle one boundary between blocks of ``width`` values: from ``first`` to ``last``, inclusive."""

    width: int
    chosen: Ints
    first: Ints
    last: Ints


def _blocks(first: Ints, end: Ints) -> Iterator[_Block]:
    last = end - 1
    widest = int((last - first).max()).bit_length()
    level = np.minimum(np.frexp((first ^ last).astype(np.float64))[1], widest + 1).astype(np.int8)
    by_level = np.argsort(level, kind="stable")
    bounds = np.cumsum(np.bincount(level, minlength=1))
    for exponent, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if start < stop:
            chosen = by_level[start:stop]
            yield _Block(1 << exponent, chosen, first[chosen], last[chosen])


def _rows(values: NDArray[Any], width: int) -> NDArray[Any]:
    """``values`` as rows of ``width``, padded; no range reaches into the padding."""
    missing = -len(values) % width
    padded = np.concatenate([values, np.zeros(missing, dtype=values.dtype)]) if missing else values
    return padded.reshape(-1, width)


def _running_moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and spread of each row's values up to and with each of them (Welford's recurrence, one running sum at a time)."""
    count = np.arange(1, rows.shape[1] + 1, dtype=np.float64)
    shifted = rows - rows[:, :1]
    mean = np.cumsum(shifted, axis=1) / count
    step = shifted[:, 1:] - mean[:, :-1]
    spread = np.zeros_like(mean)
    np.cumsum(step * step * (count[:-1] / count[1:]), axis=1, out=spread[:, 1:])
    return rows[:, :1] + mean, spread


def _long(values: int, first: Ints, end: Ints) -> bool:
    return int((end - first).sum()) > DIRECT * (values + len(first))


def _one_by_one(operation: np.ufunc, values: NDArray[Any], first: Ints, end: Ints) -> NDArray[Any]:
    bounds = np.empty(2 * len(first), dtype=np.int64)
    bounds[::2], bounds[1::2] = first, end
    # A range that ends with the values has no end to name: leave the last such end out, name the last value for others.
    closed = bounds[:-1] if bounds[-1] == len(values) else bounds
    if (end[:-1] == len(values)).any():
        values, closed = np.append(values, values[-1:]), bounds
    return operation.reduceat(values, closed)[::2]


def _moments_one_by_one(values: Floats, first: Ints, end: Ints) -> tuple[Floats, Floats]:
    length = end - first
    stop = np.cumsum(length)
    start = stop - length
    member = np.arange(stop[-1]) + np.repeat(first - start, length)
    shifted = values[member] - np.repeat(values[first], length)
    mean = np.add.reduceat(shifted, start) / length
    apart = shifted - np.repeat(mean, length)
    return values[first] + mean, np.add.reduceat(apart * apart, start)
