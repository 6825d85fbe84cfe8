"""An answer as memory: where only a few numbers go, slices of bytes cost a fraction of numpy's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from asof.online.read_plan import Vectors

WIDTH = 8
"""Bytes of a value of the answer."""


class Cells:
    """The cells of an answer.

    Attributes:
        answer: The answer.
        numbers: Its values.
        values: Their bytes, row by row.
        statuses: Its statuses, a byte each, row by row.
        times: Its event times.
        width: Statuses in a row.
        stride: Bytes of a row of values.
    """

    __slots__ = ("answer", "numbers", "statuses", "stride", "times", "values", "width")

    def __init__(self, answer: Vectors) -> None:
        self.answer, self.numbers, self.times = answer, answer.values, answer.event_times
        self.values, self.statuses = _bytes(answer.values), _bytes(answer.statuses)
        self.width = len(answer.columns)
        self.stride = self.width * WIDTH


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.data.cast("B") if array.size else memoryview(b"")
