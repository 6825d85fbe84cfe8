"""Codes of (key, moment) that fit one int64, and stable sorting of them at the speed of numpy's vectorised ``sort``."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from asof.windows.events import Events, Questions

Ints = NDArray[np.int64]
Clock = Callable[[Ints], Ints]

_FITS = 1 << 62
"""Codes must stay below this."""
_UNITS = (1, 1_000, 1_000_000)
"""Clock ticks to try, in microseconds."""
FEW = 4096
"""Up to this many values numpy's own argsort is as fast."""
_BLOCK = 1 << 15
_LONG = 1 << 22
"""From this many bytes on, numpy asks Linux for huge pages."""


def clock(events: Events, bucket: Ints | None, questions: Questions) -> tuple[Clock, int]:
    """A monotone code of moments in [0, span): exact for events; moments before every event share 0.

    A tick is a unit that all event moments are multiples of; rounding a question's moment down to it changes no comparison
    with an event's.

    Args:
        events: The events.
        bucket: Start of each event's bucket; None where it is the event time.
        questions: The questions.
    """
    times = [events.ts, *([events.arrival] if events.late else []), *([] if bucket is None else [bucket])]
    high = max(int(events.arrival.max()), int(questions.t.max()))
    low = min(int((events.ts if bucket is None else bucket).min()) - _UNITS[-1], int(questions.t.min()))
    keys = max(int(events.key.max()), int(questions.key.max())) + 2
    for unit in _UNITS:
        ticks = high // unit - low // unit + 1
        if keys * ticks < _FITS and (unit == 1 or not any((t % unit).any() for t in times)):
            return partial(_ticks, low=low, unit=unit), ticks
    # Moments far apart (a year 9999 among them) and many keys: number the moments instead of measuring them.
    numbered = np.unique(np.concatenate([*times, questions.t]))
    return partial(_numbers, numbered=numbered), len(numbered) + 1


def _ticks(moments: Ints, *, low: int, unit: int) -> Ints:
    ticks = np.maximum(moments, low)
    return ticks - low if unit == 1 else ticks // unit - low // unit


def _numbers(moments: Ints, *, numbered: Ints) -> Ints:
    return numbered.searchsorted(moments, "right").astype(np.int64, copy=False)


def stable_order(codes: Ints) -> Ints | None:
    """The stable ascending order of ``codes`` (int64, any values); None where they are in order already.

    Large inputs are sorted by digits, the lowest first, each packed with the row's position into one int64: a few runs of
    ``numpy.sort``, which uses vector instructions, beat one ``argsort``, which mostly does not.
    """
    if not (codes[1:] < codes[:-1]).any():
        return None
    if len(codes) <= FEW:
        return np.argsort(codes, kind="stable")
    low = int(codes.min())
    todo, digit_bits = (int(codes.max()) - low).bit_length(), 62 - len(codes).bit_length()
    order = None
    for shift in range(0, todo, digit_bits):
        digit = codes - low if low else codes
        if todo > digit_bits:
            digit = digit >> shift & (1 << digit_bits) - 1
        step = _packed_order(digit if order is None else digit[order])
        order = step if order is None else order[step]
    return order


def roughly_sorted(values: Ints) -> Ints | None:
    """An order in which ``values`` nearly ascend, so that searching for them walks through memory; None for few or sorted ones."""
    if len(values) <= FEW or not (values[1:] < values[:-1]).any():
        return None
    low = int(values.min())
    excess = (int(values.max()) - low).bit_length() + len(values).bit_length() - 62
    digit = values - low
    return _packed_order(digit >> excess if excess > 0 else digit)


def _packed_order(digit: Ints) -> Ints:
    """The stable order of small numbers (bits of the greatest and of the count within 62)."""
    bits = len(digit).bit_length()
    packed = numbered(digit, bits)
    packed.sort()
    packed &= (1 << bits) - 1
    return packed


def numbered(values: Ints, shift: int) -> Ints:
    """``values << shift | position``; block by block, which stays in the cache."""
    if len(values) <= _BLOCK:
        return values << shift | np.arange(len(values))
    packed, numbers = empty_array(len(values)), np.arange(_BLOCK)
    for start in range(0, len(values), _BLOCK):
        block = packed[start : start + _BLOCK]
        np.left_shift(values[start : start + _BLOCK], shift, out=block)
        block |= numbers[: len(block)]
        numbers += _BLOCK
    return packed


def empty_array(length: int, kind: DTypeLike = np.int64) -> NDArray[Any]:
    """An uninitialized array, as ``numpy.empty`` returns; a long one is in pages of ordinary size.

    Without this, the benchmark of windows takes a quarter more processor time, which Linux spends on making huge pages.
    """
    size = length * np.dtype(kind).itemsize
    if size < _LONG or np.dtype(kind).hasobject:
        return np.empty(length, kind)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), kind)


def event_order(codes: Ints, kt: Ints | None) -> Ints | None:
    """The order of events by (code, kt, position), None where they came in it; ``codes`` encode (key, ts), no ``kt`` means kt = ts."""
    order = stable_order(codes)
    if kt is None:
        return order
    ordered = codes if order is None else codes[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(tied):
        return order
    known = kt if order is None else kt[order]
    if not (known[tied + 1] < known[tied]).any():
        return order
    return np.lexsort((kt, codes))
