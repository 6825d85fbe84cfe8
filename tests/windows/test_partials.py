"""Partial aggregates say what the events themselves say, however the events were merged before."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from asof.contract import WINDOW_FUNCTIONS, Aggregation
from asof.online.codec import buckets
from asof.online.codec.layouts import Layout
from asof.windows import Events, Questions, aggregate
from asof.windows.partial_aggregates import Groups, PartialColumn, Partials, combine

HOP, WINDOWS, KEYS = 10, (10, 25, 100), 5
TEXTS: tuple[Any, ...] = ("count", "min", "max", "last", "count_distinct")
ASKED = [Aggregation(f"{f}_{w}", "x", f, w) for f in WINDOW_FUNCTIONS for w in WINDOWS]
ASKED += [Aggregation(f"{c}_{f}_{w}", c, f, w) for c in ("s", "b") for f in TEXTS for w in WINDOWS]
ASKED += [Aggregation(f"events_{w}", "", "count", w) for w in WINDOWS]
LAYOUT = Layout("buckets", "v", (("x", "float64"), ("s", "string"), ("b", "bytes")), HOP, ("x", "s", "b"))


def made(rng: random.Random, count: int) -> Events:
    """Random events in order of arrival: ties, late ones, missing values, large and small numbers."""
    ts = np.array([rng.randrange(120) for _ in range(count)], np.int64)
    kt = ts + np.array([rng.choice([0, 0, 3, 40]) for _ in range(count)], np.int64)
    numbers = [rng.choice([float("nan"), -0.0, 1.5, rng.uniform(-9, 9), 1e9 + rng.random()]) for _ in range(count)]
    texts, raw = np.empty(count, object), np.empty(count, object)
    texts[:] = [rng.choice([None, "", "a", "ü", "\U0001f600", "zz"]) for _ in range(count)]
    raw[:] = [rng.choice([None, b"", b"\x00\xff", b"\x00"]) for _ in range(count)]
    key = np.array([rng.randrange(KEYS) for _ in range(count)], np.int64)
    # Ties of (event time, knowledge time) are decided by the order of arrival, in parts as in events.
    return Events(key, ts, np.maximum(ts, kt), kt, {"x": np.array(numbers), "s": texts, "b": raw})


@dataclass
class Folded:
    """Parts of events, some of them merged."""

    parts: Partials
    known: int


def folded(rng: random.Random, events: Events, steps: int) -> Folded:
    """Single events, of which in each step those known by a later moment became part of their buckets, through bytes and back."""
    safe, rest = 0, np.arange(len(events.ts))
    held = buckets.unpack(LAYOUT, [None] * KEYS)
    for _ in range(steps):
        safe += rng.randrange(60)
        chosen = rest[events.arrival[rest] <= safe]
        rest = rest[events.arrival[rest] > safe]
        owner = np.concatenate([held.owner, events.key[chosen]])
        start = np.concatenate([held.start, events.ts[chosen] // HOP * HOP])
        order = np.lexsort((start, owner))
        new = np.flatnonzero(np.r_[True, np.diff(owner[order]) != 0] | np.r_[True, np.diff(start[order]) != 0])
        groups = Groups(order, new if len(order) else order)
        columns = {
            name: PartialColumn.joined([held.columns[name], single(events, name, chosen)]).merged(groups)
            for name in ("", "x", "s", "b")
        }
        ids = np.arange(int(columns[""].count.sum()), dtype=np.uint64)
        mine = order[groups.starts]
        stored = buckets.StoredBuckets(owner[mine], start[mine], ids, held.newest, columns)
        held = buckets.unpack(LAYOUT, buckets.pack(LAYOUT, stored))
    columns = {n: PartialColumn.joined([held.columns[n], single(events, n, rest)]) for n in ("", "x", "s", "b")}
    early = np.full(len(held.owner), -(2**63))
    parts = Partials(
        np.concatenate([held.owner, events.key[rest]]),
        np.concatenate([held.start, events.ts[rest]]),
        np.concatenate([early, events.arrival[rest]]),
        columns,
    )
    return Folded(parts, safe)


def single(events: Events, name: str, chosen: Any) -> PartialColumn:
    """Some events as parts."""
    if not name:
        return PartialColumn.counting(np.ones(len(chosen), np.int64))
    return PartialColumn.of_events(events.columns[name][chosen], events.ts[chosen], events.kt[chosen])


def without_ties(events: Events) -> Events:
    """One event of each (key, event time, knowledge time)."""
    place = np.stack([events.key, events.ts, events.kt])
    _, first = np.unique(place, axis=1, return_index=True)
    first.sort()
    columns = {name: values[first] for name, values in events.columns.items()}
    return Events(events.key[first], events.ts[first], events.arrival[first], events.kt[first], columns)


@pytest.mark.parametrize("seed", range(60))
def test_parts_say_what_events_say(seed: int) -> None:
    """For every function, number, text and bytes, parts that went through bytes have the values that the kernel has."""
    rng = random.Random(seed)
    events = without_ties(made(rng, rng.choice([0, 1, 5, 60, 200])))
    found = folded(rng, events, rng.randrange(4))
    asked = [(rng.randrange(-1, KEYS), found.known + rng.randrange(120)) for _ in range(40)]
    asked += asked[:5]
    questions = Questions(np.array([k for k, _ in asked]), np.array([t for _, t in asked]))
    wanted = aggregate(events, questions, [a for a in ASKED if a.column], HOP)
    counted = aggregate(
        Events(events.key, events.ts, events.arrival, events.kt, {}), questions, [a for a in ASKED if not a.column], HOP
    )
    got = combine(found.parts, questions, ASKED, HOP)
    for name, values in {**wanted, **counted}.items():
        if values.dtype == object:
            assert got[name].tolist() == values.tolist(), name
        else:
            np.testing.assert_allclose(got[name], values, rtol=1e-9, atol=1e-6, err_msg=name)


def test_variance_does_not_cancel() -> None:
    """Numbers that differ little beside their size keep their variance through any number of merges."""
    values, rng = [1e9 + i % 7 for i in range(700)], np.random.default_rng(1)
    ts = np.sort(rng.integers(0, 70, 700))
    column = PartialColumn.of_events(np.array(values), ts, ts)
    tens = column.merged(Groups(np.arange(700), np.arange(0, 700, 10)))
    whole = tens.merged(Groups(np.arange(70), np.zeros(1, np.int64)))
    assert whole.spread[0] / 699 == pytest.approx(float(np.var(np.array(values) - 1e9, ddof=1)), rel=1e-9)


def test_distinct_values_that_were_not_kept_are_missing() -> None:
    """Where a part has not kept its distinct values, their number is missing, not wrong; the rest is known."""
    layout = Layout("buckets", "v", (("x", "float64"),), HOP)
    column = PartialColumn.of_events(np.array([1.0, 1.0]), np.array([3, 4]), np.array([3, 4])).merged(
        Groups(np.arange(2), np.zeros(1, int))
    )
    stored = buckets.StoredBuckets(np.zeros(1, int), np.zeros(1, int), np.arange(2, dtype=np.uint64), np.array([4]), {"": PartialColumn.counting(np.array([2])), "x": column})  # fmt: skip
    held = buckets.unpack(layout, buckets.pack(layout, stored))
    asked = [Aggregation("kinds", "x", "count_distinct", 20), Aggregation("n", "x", "count", 20)]
    got = combine(Partials(held.owner, held.start, held.start, held.columns), Questions(np.array([0]), np.array([9])), asked, HOP)  # fmt: skip
    assert np.isnan(got["kinds"][0])
    assert got["n"][0] == 2
