"""The window kernel: what every windowed feature is, computed once, for the past (offline) and for now (online).

An event of key k is in the window w at t when it is known, ``max(ts, kt) <= t``, and ``bucket(ts) > bucket(t - w)`` with
``bucket(x) = floor(x / hop)``. Both sides of the law call :func:`aggregate`, so they agree by construction. numpy only.

How it stays exact and fast whatever the shape of the data: a key's events sorted by (ts, kt, source order) nearly always
become known in that order too. Then the events in a window are one contiguous range, and :mod:`asof.windows.ranges` folds
ranges without subtraction (so nothing cancels) at a cost near n log n, however long the windows. The few events that are
overtaken by a later one are *stragglers*: each is seen by one contiguous range of the sorted questions, and
:mod:`asof.windows.out_of_order` hands them down to those questions. Both results are merged; neither is an approximation.
"""

from asof.windows.kernel import Events, Questions
from asof.windows.latest import newest
from asof.windows.parallel import aggregate

__all__ = ["Events", "Questions", "aggregate", "newest"]
