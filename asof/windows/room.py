"""Memory for long arrays."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LONG = 1 << 22
"""From this many bytes on numpy asks the kernel for huge pages, and may wait long for them to be put together."""


def room(length: int, kind: DTypeLike = np.int64) -> NDArray[Any]:
    """An array of any content, as ``numpy.empty``; a long one is made of pages of the usual size, which are there at once.

    They also go back to the system as soon as the array is gone; malloc keeps what is freed, and the peak of a large question rises by a tenth.
    """
    size = length * np.dtype(kind).itemsize
    if size < _LONG or np.dtype(kind).hasobject:
        return np.empty(length, kind)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), kind)
