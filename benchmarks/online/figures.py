"""Figures and their spread: calls are made in turn, round by round, so that a busy machine is busy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, for whom, and how it came out: the median, and the least and the greatest of the rounds."""

    what: str
    case: str
    who: str
    figure: float
    low: float
    high: float

    @classmethod
    def of(cls, what: str, case: str, who: str, found: list[float]) -> Figure:
        """The figure of several rounds."""
        return cls(what, case, who, statistics.median(found), min(found), max(found))


def in_turn(what: str, case: str, calls: Mapping[str, Callable[[], Any]], seconds: float = 0.2) -> list[Figure]:
    """Milliseconds of each call: in each round the median over some ``seconds``."""
    found: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(ROUNDS):
        for who, call in calls.items():
            found[who].append(1e3 * _median(call, seconds))
    return [Figure.of(what, case, who, values) for who, values in found.items()]


def timed(what: str, case: str, who: str, call: Callable[[], Any]) -> Figure:
    """Milliseconds of one call."""
    return in_turn(what, case, {who: call})[0]


def _median(call: Callable[[], Any], seconds: float) -> float:
    """Seconds that a call takes, after a first one that is not counted; at least three are."""
    call()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 3 or (time.perf_counter() - began < seconds and len(taken) < 2000):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
