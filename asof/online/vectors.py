"""The result of a read: values, statuses and event times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Status(IntEnum):
    """Why a value is present or missing."""

    PRESENT = 0
    """There is a value."""
    NULL = 1
    """The key has a row (or an event), but the value is missing."""
    OUTSIDE_MAX_AGE = 2
    """The newest row (or event) is older than the view's ttl: the value is withheld."""
    NOT_FOUND = 3
    """The key has no row (or event) that was known."""
    NOT_KEPT = 4
    """The moment is before the one that the view was materialized for; what was known then is not stored, and nothing is returned."""


PRESENT, NULL, OUTSIDE_MAX_AGE, NOT_FOUND, NOT_KEPT = (int(s) for s in Status)


@dataclass(slots=True)
class Vectors:
    """The values of n rows, S stored features and V views.

    Attributes:
        columns: (view alias, feature) of each of the S columns: views in order, features in the order of their view.
        values: float64[n, S]; NaN is missing, and so is every value of a feature that is not numeric.
        objects: (view alias, feature) -> n Python values, for the features that are not numeric; None is missing.
        statuses: uint8[n, S], see :class:`Status`.
        views: Alias of each of the V views.
        event_times: int64[n, V]: event time of the newest row or event that was known, microseconds UTC; -1 for none.
        as_of: int64[n]: the moment that the values belong to: the requested one, or an earlier one while events are being
            written.
    """

    columns: tuple[tuple[str, str], ...]
    values: NDArray[np.float64]
    objects: Mapping[tuple[str, str], list[Any]]
    statuses: NDArray[np.uint8]
    views: tuple[str, ...]
    event_times: NDArray[np.int64]
    as_of: NDArray[np.int64]

    def column(self, alias: str, feature: str) -> NDArray[np.float64] | list[Any]:
        """The n values of one feature: float64 with NaN, or Python values with None."""
        if (alias, feature) in self.objects:
            return self.objects[alias, feature]
        return self.values[:, self.columns.index((alias, feature))]


def statuses(found: NDArray[np.bool_], stale: NDArray[np.bool_], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8[n, f] from found[n], stale[n] (both by row) and missing[n, f] (by value)."""
    result: NDArray[Any] = missing.astype(np.uint8)
    result[stale] = OUTSIDE_MAX_AGE
    result[~found] = NOT_FOUND
    return result
