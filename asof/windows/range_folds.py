"""Folds many contiguous ranges ``values[first:end]`` at once, without subtraction, so that no precision is lost by cancellation.

Short ranges are folded one by one. For long ones, each range straddles exactly one boundary between two neighbouring
blocks of some power-of-two width; it is the end of the left block and the start of the right one. Running folds inside
blocks, forwards and backwards, double their width in one pass, and there are log2(longest range) widths: a disjoint sparse
table of which only one level exists at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Moments = tuple[NDArray[np.number], Floats, Floats]
"""Count, mean, sum of squared deviations from the mean."""

DIRECT = 8
"""Ranges are folded one by one while their total length is at most this many times the number of values and ranges."""
_NARROW = 8
"""Blocks up to this wide are walked place by place, wider ones block by block: numpy is slow where its inner loop is short."""


class Ranges:
    """m ranges of n values, each of at least one.

    Args:
        first: Start of each range.
        end: End of each range, exclusive.
        values: n.
    """

    def __init__(self, first: Ints, end: Ints, values: int) -> None:
        self.first, self.end = first, end
        self.length = end - first
        self.long = int(self.length.sum()) > DIRECT * (values + len(first))

    @cached_property
    def levels(self) -> list[tuple[Ints, Ints, Ints]]:
        """Per width 0 (one value), 1, 2, 4, ...: which ranges straddle two blocks of it, their first and their last value."""
        last = self.end - 1
        widest = int(self.length.max() - 1).bit_length()
        exponent = np.minimum(bit_length(self.first ^ last), widest + 1)
        order = np.argsort(exponent, kind="stable")
        first, last = self.first[order], last[order]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(exponent, minlength=1))])
        return [(order[a:b], first[a:b], last[a:b]) for a, b in itertools.pairwise(bounds)]


def fold(operation: np.ufunc, values: NDArray[Any], ranges: Ranges) -> NDArray[Any]:
    """``operation`` (add, minimum or maximum) over each range: m values of the type of ``values``."""
    if not ranges.long:
        return _one_by_one(operation, values, ranges.first, ranges.end)
    answer = values[ranges.first]
    ahead = _padded(values, len(ranges.levels))
    back = ahead.copy()
    for width, (chosen, first, last) in _widths(ranges):
        if len(chosen):
            answer[chosen] = operation(back[first], ahead[last])
        left, right = _halves(ahead, width)
        for near, far in _pairs(left[:, -1:], right):
            operation(near, far, out=far)
        left, right = _halves(back, width)
        for near, far in _pairs(right[:, :1], left):
            operation(far, near, out=far)
    return answer


def moments(values: Floats, ranges: Ranges) -> tuple[Floats, Floats]:
    """Mean and sum of squared deviations from it, of each range; the latter is exactly 0 where all values are equal.

    Partial results are merged as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983),
    equation 2.1.
    """
    if not ranges.long:
        return _moments_one_by_one(values, ranges)
    mean, spread = values[ranges.first], np.zeros(len(ranges.first))
    ahead = _padded(values, len(ranges.levels))
    back, ahead_spread, back_spread = ahead.copy(), np.zeros_like(ahead), np.zeros_like(ahead)
    for width, (chosen, first, last) in _widths(ranges):
        if len(chosen):
            left = (width - (first & (width - 1)), back[first], back_spread[first])
            right = ((last & (width - 1)) + 1, ahead[last], ahead_spread[last])
            mean[chosen], spread[chosen] = _merge_some(left, right)
        share = np.arange(1, width + 1) / np.arange(width + 1, 2 * width + 1)
        _widen(ahead, ahead_spread, width, share, forward=True)
        _widen(back, back_spread, width, share[::-1], forward=False)
    return mean, spread


def merge(left: Moments, right: Moments) -> Moments:
    """The moments of two sets of values together; a side that counts 0, and has zeros, adds nothing. Formula: see :func:`moments`."""
    (n, mean, spread), (m, other, other_spread) = left, right
    total = n + m
    share: Floats = np.asarray(m / np.maximum(total, 1), dtype=np.float64)
    apart = other - mean
    np.copyto(apart, 0.0, where=m == 0)
    merged = apart * share
    merged += mean
    # In this order nothing overflows where n is 0.
    share *= n.astype(np.float64)
    share *= apart
    share *= apart
    share += spread
    share += other_spread
    return total, merged, share


def _merge_some(left: Moments, right: Moments) -> tuple[Floats, Floats]:
    """Mean and spread of two sets, neither of them empty."""
    count, share = left[0].astype(np.float64), right[0].astype(np.float64)
    share /= count + share
    apart = right[1] - left[1]
    mean = apart * share
    mean += left[1]
    apart *= apart
    apart *= share
    apart *= count
    apart += left[2]
    apart += right[2]
    return mean, apart


def _widen(mean: Floats, spread: Floats, width: int, share: Floats, *, forward: bool) -> None:
    """Double the blocks of running moments: the far half of each new block takes in all of the near half.

    ``share`` is the part that a running set of the far half has in the merged one, by its place in the half.
    """
    means, spreads = _halves(mean, width), _halves(spread, width)
    near, far = (0, 1) if forward else (1, 0)
    edge = slice(-1, None) if forward else slice(0, 1)
    for place in [slice(i, i + 1) for i in range(width)] if width <= _NARROW else [slice(None)]:
        apart = means[far][:, place] - means[near][:, edge]
        means[far][:, place] = means[near][:, edge] + apart * share[place]
        apart *= apart
        apart *= share[place] * width
        apart += spreads[near][:, edge]
        spreads[far][:, place] += apart


def bit_length(numbers: Ints) -> NDArray[np.int8]:
    """Bits of whole numbers below 2**52; overwrites ``numbers``. Read off floats: twice a number and one is never 0."""
    numbers <<= 1
    numbers |= 1
    bits = numbers.astype(np.float64).view(np.int64)
    bits >>= 52
    bits -= 1023
    return bits.astype(np.int8)


def _widths(ranges: Ranges) -> Iterator[tuple[int, tuple[Ints, Ints, Ints]]]:
    return ((1 << exponent, level) for exponent, level in enumerate(ranges.levels[1:]))


def _halves(running: NDArray[Any], width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Left and right halves of the blocks of twice ``width``, a row each."""
    blocks = running.reshape(-1, 2, width)
    return blocks[:, 0], blocks[:, 1]


def _pairs(edge: NDArray[Any], half: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    if half.shape[1] > _NARROW:
        yield edge, half
        return
    yield from ((edge[:, 0], half[:, place]) for place in range(half.shape[1]))


def _padded(values: NDArray[Any], levels: int) -> NDArray[Any]:
    """A copy of ``values``, filled up to whole blocks of the greatest width; no range reaches into the filling."""
    missing = -len(values) % (1 << levels)
    return np.concatenate([values, np.zeros(missing, dtype=values.dtype)])


def _one_by_one(operation: np.ufunc, values: NDArray[Any], first: Ints, end: Ints) -> NDArray[Any]:
    bounds = np.empty(2 * len(first), dtype=np.int64)
    bounds[::2], bounds[1::2] = first, end
    # A range that ends with the values has no end to name: leave the last such end out, name the last value for others.
    closed = bounds[:-1] if bounds[-1] == len(values) else bounds
    if (end[:-1] == len(values)).any():
        values, closed = np.append(values, values[-1:]), bounds
    return operation.reduceat(values, closed)[::2]


def _moments_one_by_one(values: Floats, ranges: Ranges) -> tuple[Floats, Floats]:
    """Values are counted from the first of their range, so that equal ones have no spread."""
    stop = np.cumsum(ranges.length)
    start = stop - ranges.length
    member = np.arange(stop[-1]) + np.repeat(ranges.first - start, ranges.length)
    shifted = values[member] - np.repeat(values[ranges.first], ranges.length)
    mean = np.add.reduceat(shifted, start) / ranges.length
    apart = shifted - np.repeat(mean, ranges.length)
    return values[ranges.first] + mean, np.add.reduceat(apart * apart, start)


SEAMS = {
    "bit_length": "the blocks that a range lies in",
    "merge": "the moments of two sets together",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
