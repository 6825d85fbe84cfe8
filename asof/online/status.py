"""What a reader says about each value beside the value itself."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Status(IntEnum):
    """Why a value is there, or is not."""

    PRESENT = 0
    """There is a value."""
    NULL = 1
    """The key has a row (or an event), but the value is missing."""
    OUTSIDE_MAX_AGE = 2
    """The newest row (or event) is older than the view's ttl: the value is withheld."""
    NOT_FOUND = 3
    """The key has no row (or event) that was known."""


PRESENT, NULL, OUTSIDE_MAX_AGE, NOT_FOUND = (int(s) for s in Status)


def statuses(found: NDArray[np.bool_], stale: NDArray[np.bool_], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8[n, f] from found[n], stale[n] (both by row) and missing[n, f] (by value)."""
    result: NDArray[Any] = missing.astype(np.uint8)
    result[stale] = OUTSIDE_MAX_AGE
    result[~found] = NOT_FOUND
    return result
