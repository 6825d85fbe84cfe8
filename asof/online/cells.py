"""An answer as memory: where only a few numbers go, slices of bytes cost a fraction of numpy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from asof.online.plan import Vectors

WIDTH = 8
"""Bytes of a value of the answer."""


class Cells:
    """The cells of an answer.

    Attributes:
        numbers: Its values.
        values: Their bytes, row by row.
        statuses: Its statuses, a byte each, row by row.
        times: Its event times.
        width: Statuses in a row.
        stride: Bytes of a row of values.
    """

    __slots__ = ("numbers", "statuses", "stride", "times", "values", "width")

    def __init__(self, answer: Vectors) -> None:
        self.numbers: NDArray[np.float64] = answer.values
        self.values, self.statuses = answer.values.data.cast("B"), answer.statuses.data.cast("B")
        self.times, self.width = answer.event_times, len(answer.columns)
        self.stride = self.width * WIDTH
