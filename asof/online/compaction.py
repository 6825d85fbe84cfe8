"""Compaction: merges old events of views with a hop into buckets, when no exact read can tell them apart.

An event may be compacted when it was known at the moment from which on reads are exact
(:attr:`asof.online.codec.events.Pruning.slack`): each such read counts either its whole bucket or nothing of it. Younger events stay
single, and so do events that take less space than their bucket would. Events and buckets of a key are replaced in one atomic
step, only if neither has changed since they were read, so an event is always in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from asof.online.codec import buckets, events
from asof.online.codec.events import HEAD, Pruning
from asof.online.codec.layouts import Layout, field_of
from asof.online.store_protocol import Replacement, WritableStore, WriteTarget, fingerprint
from asof.windows.partial_aggregates import Groups, PartialColumn, runs

Ints = NDArray[np.int64]

AT_ONCE = 256
"""Keys that are compacted together."""
TRIES = 3
"""Attempts per key while others write to it; if all fail, a later write compacts the key."""


def compact(
    store: WritableStore, target: WriteTarget, layout: Layout, pruning: Pruning, keys: Sequence[bytes], now: int
) -> None:
    """Compact the events of some keys.

    Args:
        store: The store.
        target: Project and layout of the events.
        layout: The layout of the buckets.
        pruning: Which events are dropped, and which reads are exact.
        keys: The keys.
        now: The writer's clock, microseconds UTC.

    Raises:
        StaleLayoutsError: The layouts changed; a later write compacts the keys.
    """
    fields = (field_of(target.layout), field_of(layout))
    for _ in range(TRIES):
        again: list[bytes] = []
        for at in range(0, len(keys), AT_ONCE):
            some = keys[at : at + AT_ONCE]
            found = store.fetch(target.project, [(some, fields)]).values[0]
            new = replacements(target.layout, layout, pruning, found, now)
            changed = [k for k, r in zip(some, new, strict=True) if r]
            done = store.replace(target, layout, changed, [r for r in new if r])
            again += [k for k, d in zip(changed, done, strict=True) if not d]
        keys = again


def replacements(
    layout: Layout, into: Layout, pruning: Pruning, found: Sequence[Sequence[bytes | None]], now: int
) -> list[Replacement | None]:
    """The compacted events and buckets of n keys; None for a key that does not change."""
    single, old = events.StoredEvents.of(layout, [f[0] for f in found]), buckets.unpack(into, [f[1] for f in found])
    latest = np.array([int.from_bytes((f[0] or bytes(HEAD))[:HEAD], "little", signed=True) for f in found], np.int64)
    safe = np.minimum(latest, now) - pruning.slack
    outside = safe - (pruning.horizon - into.hop)
    alive = np.flatnonzero(old.start > outside[old.owner])
    dead = np.bincount(np.delete(old.owner, alive), minlength=len(found)) > 0
    start = single.ts // into.hop * into.hop
    chosen = (np.maximum(single.ts, single.kt) <= safe[single.owner]) & (start > outside[single.owner])
    chosen = _worthwhile(chosen, single.owner, start, (old.owner[alive], old.start[alive]), _min_events(layout, into))
    new = _merged(into, old, alive, single, start, np.flatnonzero(chosen))
    packed, result = buckets.pack(into, new), []
    for key, (stored, value) in enumerate(zip(found, packed, strict=True)):
        mine = slice(*np.searchsorted(single.owner, [key, key + 1]))
        replacement = None
        if stored[0] is not None and (chosen[mine].any() or dead[key]):
            kept = compress(events.split(layout, stored[0][HEAD:]), ~chosen[mine])
            rest = stored[0][:HEAD] + b"".join(kept)
            replacement = Replacement(fingerprint(stored[0]), fingerprint(stored[1]), rest, value)
        result.append(replacement)
    return result


def _min_events(layout: Layout, into: Layout) -> int:
    """The least number of events that takes more space than their bucket."""
    return max(2, -(-buckets.record(into).itemsize // (layout.fixed.itemsize - 8)))


def _worthwhile(
    chosen: NDArray[np.bool_], owner: Ints, start: Ints, held: tuple[Ints, Ints], least: int
) -> NDArray[np.bool_]:
    """The chosen events whose bucket exists already, or that take more space than a new bucket would."""
    starts, place = np.unique(np.concatenate([start, held[1]]), return_inverse=True)
    _, bucket = np.unique(np.concatenate([owner, held[0]]) * len(starts) + place, return_inverse=True)
    mine, there = bucket[: len(owner)], bucket[len(owner) :]
    weight = np.bincount(mine[chosen], minlength=len(bucket) + 1)
    weight[there] = least
    result: NDArray[np.bool_] = chosen & (weight[mine] >= least)
    return result


def _merged(
    layout: Layout, old: buckets.StoredBuckets, alive: Ints, single: events.StoredEvents, start: Ints, chosen: Ints
) -> buckets.StoredBuckets:
    """The live buckets with the chosen events merged into them."""
    owner = np.concatenate([old.owner[alive], single.owner[chosen]])
    starts = np.concatenate([old.start[alive], start[chosen]])
    order = np.lexsort((starts, owner))
    owner, starts = owner[order], starts[order]
    new = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(starts, prepend=0) != 0))
    groups = Groups(order, new)
    counts = old.columns[""].count
    ids = np.concatenate([old.ids, single.ids[chosen]])
    first = np.concatenate([(np.cumsum(counts) - counts)[alive], len(old.ids) + np.arange(len(chosen))])
    lengths = np.concatenate([counts[alive], np.ones(len(chosen), np.int64)])
    columns = {
        name: PartialColumn.joined([old.columns[name].taken(alive), _column(single, name, chosen)]).merged(groups)
        for name in ("", *layout.dtypes)
    }
    newest = old.newest.copy()
    np.maximum.at(newest, single.owner[chosen], single.ts[chosen])
    return buckets.StoredBuckets(owner[new], starts[new], ids[runs(first[order], lengths[order])], newest, columns)


def _column(single: events.StoredEvents, name: str, chosen: Ints) -> PartialColumn:
    if not name:
        return PartialColumn.counting(np.ones(len(chosen), np.int64))
    return PartialColumn.of_events(single.columns[name][chosen], single.ts[chosen], single.kt[chosen])
