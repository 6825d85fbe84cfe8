"""Bootstrap intervals of a metric over rows that resemble each other.

Intervals are 95 % percentile intervals of a bootstrap that draws whole units (all rows of one entity) with replacement, because
rows of one entity resemble each other (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7
(1979) 1-26). A draw is a vector of row weights, so no row is copied and several draws are computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

DRAWS = 200
"""Bootstrap draws."""

WEIGHTS = 2_000_000
"""Weights in memory at a time: it decides how many draws are computed at once."""

Floats = npt.NDArray[np.float64]


def drawn_weights(units: npt.NDArray[np.int64], seed: int = 0) -> Iterator[Floats]:
    """Weights of n rows in :data:`DRAWS` draws: float64[draws, n] arrays, a few draws each.

    Args:
        units: int64[n], dense codes of the unit that each row belongs to; at least one row.
        seed: Seed of the draws.
    """
    random = np.random.default_rng(seed)
    count = int(units.max()) + 1
    step = max(1, WEIGHTS // len(units))
    for start in range(0, DRAWS, step):
        drawn = [
            np.bincount(random.integers(count, size=count), minlength=count) for _ in range(min(step, DRAWS - start))
        ]
        yield np.stack(drawn)[:, units].astype(np.float64)


def interval(value: float, drawn: Floats) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of a metric.

    Args:
        value: The metric on all rows; both ends where no draw gives a finite value.
        drawn: The metric in each draw; draws in which it is not finite (a single kind of label) are left out.
    """
    usable = drawn[np.isfinite(drawn)]
    low, high = np.percentile(usable, (2.5, 97.5)) if len(usable) else (value, value)
    return float(low), float(high)
