"""The window kernel: computes the value of every feature from events and moments, for the past (offline) and for now (online).

An event of key k is in the window w at t if it is known, ``max(ts, kt) <= t``, and ``bucket(ts) > bucket(t - w)`` with
``bucket(x) = floor(x / hop)``. Offline and online both call :func:`aggregate` and :func:`newest`, so they agree by
construction. The kernel needs numpy only, and does no input or output.

A key's events sorted by (ts, kt, source order) nearly always become known in that order too. Then the events in a window
are one contiguous range, and :mod:`asof.windows.range_folds` folds ranges without subtraction (so nothing cancels) at a cost near
n log n, however long the windows are. The few *out-of-order events*, which become known after a later event, are each seen by one
contiguous range of the sorted questions; :mod:`asof.windows.out_of_order` folds them into these questions. The two results
are merged. Both are exact.
"""

from asof.windows.events import Events, Questions
from asof.windows.kernel import aggregate
from asof.windows.latest import newest

__all__ = ["Events", "Questions", "aggregate", "newest"]
