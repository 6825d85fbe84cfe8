"""How many different values each question sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def covered(kind: Ints, seen: tuple[Ints, Ints], questions: int) -> Ints:
    """Per question, how many kinds have an event that it sees.

    The events of a kind (a value of one key) are each seen by a range of the sorted questions. Ranges of one kind are made
    disjoint: each keeps what lies after the furthest end of those that start before it. Then starts and ends are counted.

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
