"""Folds over events that are each seen by a contiguous range of the sorted questions: the other way round than ranges.

A range of questions is a union of O(log q) nodes of a binary tree over the questions. Each event is folded into its
nodes, level by level, and then every node is folded into its two children, from the top down to the questions. There is
no subtraction. Ranges may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from asof.windows.ranges import Moments, merge

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Node = TypeVar("Node", NDArray[Any], Moments)


def counts(since: Ints, until: Ints, questions: int) -> Ints:
    """How many events each of the ``questions`` sees."""
    steps = np.bincount(since, minlength=questions + 1) - np.bincount(until, minlength=questions + 1)
    return np.cumsum(steps[:questions])


def fold(operation: np.ufunc, values: NDArray[Any], since: Ints, until: Ints, empty: float, questions: int) -> NDArray[Any]:
    """``operation`` (add, minimum or maximum) over the values that each question sees; ``empty``, its identity, if none."""

    def gather(node: Ints, event: Ints, size: int) -> NDArray[Any]:
        found = np.full(size, empty, dtype=values.dtype)
        operation.at(found, node, values[event])
        return found

    return _descend(gather, operation, since, until, questions)


def moments(values: Floats, since: Ints, until: Ints, questions: int) -> Moments:
    """Count, mean and sum of squared deviations of the values that each question sees; zeros where it sees none."""

    def gather(node: Ints, event: Ints, size: int) -> Moments:
        return _node_moments(node, values[event], size)

    return _descend(gather, merge, since, until, questions)


def _node_moments(node: Ints, values: Floats, size: int) -> Moments:
    """Counted from one value of each node, so that equal values have a spread of exactly 0."""
    count = np.bincount(node, minlength=size)
    origin = np.zeros(size)
    origin[node] = values
    shifted = values - origin[node]
    mean = np.bincount(node, shifted, size) / np.maximum(count, 1)
    apart = shifted - mean[node]
    return count, origin + mean, np.bincount(node, apart * apart, size)


def _descend(
    gather: Callable[[Ints, Ints, int], Node], combine: Callable[[Node, Node], Node], since: Ints, until: Ints, questions: int
) -> Node:
    """Fold events into nodes, nodes into their children, down to the questions; ``gather`` makes one level of nodes."""
    size = 1 << max(questions - 1, 0).bit_length()
    levels = [gather(node, event, size >> depth) for depth, (node, event) in enumerate(_nodes(since, until))]
    found = levels.pop()
    while levels:
        found = combine(_each(found, lambda level: np.repeat(level, 2)), levels.pop())
    return _each(found, lambda level: level[:questions])


def _nodes(since: Ints, until: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Per level, from the leaves up: nodes and the events that they take."""
    event = np.flatnonzero(since < until)
    left, right = since[event], until[event]
    while True:
        takes_left, takes_right = (left & 1).astype(bool), (right & 1).astype(bool)
        yield np.concatenate([left[takes_left], right[takes_right] - 1]), np.concatenate([event[takes_left], event[takes_right]])
        left, right = (left + 1) >> 1, right >> 1
        open_ = left < right
        if not open_.any():
            return
        event, left, right = event[open_], left[open_], right[open_]


def _each(node: Node, change: Callable[[Any], Any]) -> Node:
    changed: Node = tuple(change(part) for part in node) if isinstance(node, tuple) else change(node)
    return changed
