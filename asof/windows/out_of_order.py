"""Folds over out-of-order events: each event is seen by one contiguous range of the sorted questions.

This is the transpose of :mod:`asof.windows.range_folds`, where each question sees one contiguous range of events. A range of questions is a union of O(log q) nodes of a binary tree over the questions. Each event is folded into its
nodes, level by level, and then every node is folded into its two children, from the top down to the questions. There is
no subtraction. Ranges may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.windows.range_folds import Moments, merge

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Seen = tuple[Ints, Ints]
"""Per event, the first question that sees it and the end of those that do."""


def counts(seen: Seen, questions: int) -> Ints:
    """How many events each of the ``questions`` sees."""
    steps = np.bincount(seen[0], minlength=questions + 1) - np.bincount(seen[1], minlength=questions + 1)
    return np.cumsum(steps[:questions])


class Nodes:
    """The nodes that events are folded into.

    Args:
        seen: The questions that see each event.
        questions: How many there are.
    """

    def __init__(self, seen: Seen, questions: int) -> None:
        self.questions = questions
        self._seen = seen

    @cached_property
    def levels(self) -> list[tuple[Ints, Ints, int]]:
        """From the questions themselves up: nodes, the events that they take, and how many nodes there are."""
        size = 1 << max(self.questions - 1, 0).bit_length()
        return [(node, event, size >> depth) for depth, (node, event) in enumerate(_nodes(self._seen))]


def fold(operation: np.ufunc, values: NDArray[Any], nodes: Nodes, empty: float) -> NDArray[Any]:
    """``operation`` (add, minimum or maximum) over the values that each question sees; ``empty``, its identity, if none."""

    def gather(node: Ints, event: Ints, size: int) -> NDArray[Any]:
        found = np.full(size, empty, dtype=values.dtype)
        operation.at(found, node, values[event])
        return found

    levels = [gather(*level) for level in nodes.levels]
    found = levels.pop()
    while levels:
        found = operation(_halve(found), levels.pop())
    return found[: nodes.questions]


def moments(values: Floats, nodes: Nodes) -> Moments:
    """Count, mean and sum of squared deviations of the values that each question sees; zeros where it sees none."""
    levels = [_node_moments(node, values[event], size) for node, event, size in nodes.levels]
    count, mean, spread = levels.pop()
    while levels:
        count, mean, spread = merge((_halve(count), _halve(mean), _halve(spread)), levels.pop())
    return count[: nodes.questions], mean[: nodes.questions], spread[: nodes.questions]


def _node_moments(node: Ints, values: Floats, size: int) -> Moments:
    """Counted from one value of each node, so that equal values have a spread of exactly 0."""
    count = np.bincount(node, minlength=size)
    origin = np.zeros(size)
    origin[node] = values
    shifted = values - origin[node]
    mean = np.bincount(node, shifted, size) / np.maximum(count, 1)
    apart = shifted - mean[node]
    spread = np.bincount(node, apart * apart, size).astype(np.float64, copy=False)
    return count, origin + mean, spread


def _nodes(seen: Seen) -> Iterator[tuple[Ints, Ints]]:
    """Per level: nodes and the events that they take."""
    event = np.flatnonzero(seen[0] < seen[1])
    left, right = seen[0][event], seen[1][event]
    while True:
        takes_left, takes_right = (left & 1).astype(bool), (right & 1).astype(bool)
        node = np.concatenate([left[takes_left], right[takes_right] - 1])
        yield node, np.concatenate([event[takes_left], event[takes_right]])
        left, right = (left + 1) >> 1, right >> 1
        wide = left < right
        if not wide.any():
            return
        event, left, right = event[wide], left[wide], right[wide]


def _halve(level: NDArray[Any]) -> NDArray[Any]:
    """Every node's value for both of its children."""
    return np.repeat(level, 2)
