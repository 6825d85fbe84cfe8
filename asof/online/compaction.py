"""Folding: events of a view with a hop become part of their buckets once no read can tell them apart any more.

An event is folded when it was known at the moment from which on reads are exact (:attr:`asof.online.codec.events.Pruning.slack`): every such
read counts either all of its bucket or nothing. Younger events stay single, and so do those of a bucket that is smaller as
single events. A fold replaces both values of a key in one step, and only if neither changed since they were read, so that an
event is in one of them, never in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asof.online.codec import buckets, events
from asof.online.codec.events import HEAD, Pruning
from asof.online.codec.layouts import Layout, field_of
from asof.windows.partial_aggregates import Groups, PartialColumn, runs

if TYPE_CHECKING:
    from asof.online.store_protocol import Target, WritableStore

Ints = NDArray[np.int64]

AT_ONCE = 256
"""Keys that are folded together."""
TRIES = 3
"""How often a fold is tried while others write the same key; later writes try again."""

_NONE = b"-" * 40


@dataclass(frozen=True, slots=True)
class Exchange:
    """New events and buckets of a key in place of old ones, which are known by their SHA-1 (``-`` where there is none)."""

    old_events: bytes
    old_buckets: bytes
    events: bytes
    buckets: bytes

    def packed(self) -> bytes:
        """The exchange as one argument of a script."""
        return self.old_events + self.old_buckets + len(self.events).to_bytes(4, "little") + self.events + self.buckets


def fingerprint(value: bytes | None) -> bytes:
    """What an :class:`Exchange` knows an old value by."""
    return _NONE if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest().encode()


def fold(
    store: WritableStore, target: Target, layout: Layout, pruning: Pruning, keys: Sequence[bytes], now: int
) -> None:
    """Fold what can be folded of some keys.

    Args:
        store: The store.
        target: Where the events belong.
        layout: The layout of the buckets.
        pruning: What may be forgotten, and which reads are exact.
        keys: The keys.
        now: The writer's clock, microseconds UTC.

    Raises:
        StaleLayoutsError: The layouts changed; a later write folds.
    """
    fields = (field_of(target.layout), field_of(layout))
    for _ in range(TRIES):
        again: list[bytes] = []
        for at in range(0, len(keys), AT_ONCE):
            some = keys[at : at + AT_ONCE]
            found = store.fetch(target.project, [(some, fields)]).values[0]
            exchanges = folded(target.layout, layout, pruning, found, now)
            changed = [k for k, e in zip(some, exchanges, strict=True) if e]
            done = store.exchange(target, layout, changed, [e for e in exchanges if e])
            again += [k for k, d in zip(changed, done, strict=True) if not d]
        keys = again


def folded(
    layout: Layout, into: Layout, pruning: Pruning, found: Sequence[Sequence[bytes | None]], now: int
) -> list[Exchange | None]:
    """What to put in place of the events and buckets of n keys; None where nothing is to be folded."""
    single, old = events.Stored.of(layout, [f[0] for f in found]), buckets.unpack(into, [f[1] for f in found])
    latest = np.array([int.from_bytes((f[0] or bytes(HEAD))[:HEAD], "little", signed=True) for f in found], np.int64)
    safe = np.minimum(latest, now) - pruning.slack
    outside = safe - (pruning.horizon - into.hop)
    alive = np.flatnonzero(old.start > outside[old.owner])
    dead = np.bincount(np.delete(old.owner, alive), minlength=len(found)) > 0
    start = single.ts // into.hop * into.hop
    chosen = (np.maximum(single.ts, single.kt) <= safe[single.owner]) & (start > outside[single.owner])
    chosen = _worthwhile(chosen, single.owner, start, (old.owner[alive], old.start[alive]), _least(layout, into))
    new = _merged(into, old, alive, single, start, np.flatnonzero(chosen))
    packed, exchanges = buckets.pack(into, new), []
    for key, (stored, value) in enumerate(zip(found, packed, strict=True)):
        mine = slice(*np.searchsorted(single.owner, [key, key + 1]))
        exchange = None
        if stored[0] is not None and (chosen[mine].any() or dead[key]):
            kept = compress(events.split(layout, stored[0][HEAD:]), ~chosen[mine])
            rest = stored[0][:HEAD] + b"".join(kept)
            exchange = Exchange(fingerprint(stored[0]), fingerprint(stored[1]), rest, value)
        exchanges.append(exchange)
    return exchanges


def _least(layout: Layout, into: Layout) -> int:
    """From how many events on a bucket is smaller than they are."""
    return max(2, -(-buckets.record(into).itemsize // (layout.fixed.itemsize - 8)))


def _worthwhile(
    chosen: NDArray[np.bool_], owner: Ints, start: Ints, held: tuple[Ints, Ints], least: int
) -> NDArray[np.bool_]:
    """Of the chosen events those whose bucket there is already, or that are enough for one."""
    starts, place = np.unique(np.concatenate([start, held[1]]), return_inverse=True)
    _, bucket = np.unique(np.concatenate([owner, held[0]]) * len(starts) + place, return_inverse=True)
    mine, there = bucket[: len(owner)], bucket[len(owner) :]
    weight = np.bincount(mine[chosen], minlength=len(bucket) + 1)
    weight[there] = least
    result: NDArray[np.bool_] = chosen & (weight[mine] >= least)
    return result


def _merged(
    layout: Layout, old: buckets.Stored, alive: Ints, single: events.Stored, start: Ints, chosen: Ints
) -> buckets.Stored:
    """The buckets after the chosen events came to those that are alive."""
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
    return buckets.Stored(owner[new], starts[new], ids[runs(first[order], lengths[order])], newest, columns)


def _column(single: events.Stored, name: str, chosen: Ints) -> PartialColumn:
    if not name:
        return PartialColumn.counting(np.ones(len(chosen), np.int64))
    return PartialColumn.of_events(single.columns[name][chosen], single.ts[chosen], single.kt[chosen])
