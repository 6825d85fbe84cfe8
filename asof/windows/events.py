"""What the kernel works on: events with two times each, and questions about a key at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Events:
    """n events in source order, the order that decides between equal (ts, kt).

    Attributes:
        key: Dense codes, int64[n] >= 0, shared with the questions.
        ts: Event time, int64[n], microseconds UTC.
        arrival: First moment at which the event is known, int64[n]: max(ts, kt), or ts with knowledge time off.
        kt: Knowledge time, int64[n]; equal to ``ts`` where the source has none.
        columns: Column -> n values: numbers or booleans (NaN is missing), or an object array of str or bytes (None is missing).
        late: Whether an event may become known after its event time. False promises that ``arrival`` equals ``ts``, which saves
            sorting by arrival.
        kt_differs: Whether ``kt`` may differ from ``ts``. False promises that they are equal, so no tie is decided by ``kt``.
    """

    key: Ints
    ts: Ints
    arrival: Ints
    kt: Ints
    columns: Mapping[str, NDArray[Any]]
    late: bool = True
    kt_differs: bool = True


@dataclass(frozen=True, slots=True)
class Questions:
    """q questions, in any order: ``key`` int64[q] (-1 matches nothing), ``t`` int64[q] in microseconds UTC."""

    key: Ints
    t: Ints
