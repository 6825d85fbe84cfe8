"""Reading rows quickly gives what reading them thoroughly gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.contract import View
from asof.online import MemoryStore, Vectors, Writer
from asof.online.read_plan import ReadPlan, ViewFeatures
from asof.online.reader import read
from asof.online.redis.resp_decoding import HashReplies, UniformReplies
from asof.online.row_decoder import RowDecoder
from asof.online.store_protocol import Fetched
from asof.online.vectors import Status
from tests.online.tables import SECOND, T, plain, rows
from tests.online.test_replies import encoded

TYPES = {"float64": pa.float64(), "int64": pa.int64(), "float32": pa.float32(), "int32": pa.int32(), "bool": pa.bool_()}
NUMBERS = {"float64": 0.1, "int64": 2**60 + 1, "float32": 0.5, "int32": -3, "bool": True}


@st.composite
def questions(
    draw: st.DrawFn,
) -> tuple[View, list[str], dict[int, tuple[int, list[bool]]], list[Any], list[int]]:
    """A view, features of it in any order, keys with their event time and nulls, the keys asked for and their moments."""
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=5))
    view = plain(*((f"f{i}", kind) for i, kind in enumerate(kinds)), ttl=draw(st.sampled_from([0, 5 * SECOND])))
    names = draw(st.permutations([f.name for f in view.features]))[: draw(st.integers(1, len(kinds)))]
    some = draw(st.integers(1, 60))
    nulls = st.lists(st.booleans() if draw(st.booleans()) else st.just(False), min_size=len(kinds), max_size=len(kinds))
    ages = st.integers(0, 9) if draw(st.booleans()) else st.just(1)
    stored = {key: (T - draw(ages) * SECOND, draw(nulls)) for key in range(some)}
    known = st.integers(0, some - 1) if draw(st.booleans()) else st.integers(0, some + 1) | st.none()
    asked = draw(st.lists(known, min_size=1, max_size=70)) if draw(st.booleans()) else list(range(some))
    moments = [T - (draw(st.integers(0, 9)) * SECOND if draw(st.integers(0, 9)) == 0 else 0) for _ in asked]
    return view, list(names), stored, asked, moments


def stored(view: View, given: dict[int, tuple[int, list[bool]]]) -> MemoryStore:
    """A store with these rows; each value depends on its key."""
    store, columns = MemoryStore(), {"key": list(given)}
    for place, field in enumerate(view.features):
        number = NUMBERS[field.dtype]
        values = [None if n[place] else number if field.dtype == "bool" else number + k for k, (_, n) in given.items()]
        columns[field.name] = pa.array(values, TYPES[field.dtype])
    Writer("tests", store).write(view, rows(columns, [ts for ts, _ in given.values()]), now=T + SECOND)
    return store


def alike(one: Vectors, other: Vectors) -> bool:
    arrays = ((one.values, other.values), (one.statuses, other.statuses), (one.event_times, other.event_times))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in arrays) and one.objects == other.objects


@given(questions(), st.booleans())
def test_quick_and_thorough(question: Any, exact: bool) -> None:
    """Any keys, features and moments: single values, values one after another and thorough reading give the same."""
    view, names, kept, asked, moments = question
    store, at = stored(view, kept), np.array(moments)
    plan = ReadPlan("tests", [ViewFeatures(view, tuple(names))], store.layouts("tests"), 1, exact=exact)
    keys = plan.lookups({"key": asked}, len(asked))
    fetched = store.fetch("tests", plan.requests(keys))
    quick = plan.vectors(keys, fetched, at)
    assert alike(quick, plan.vectors(keys, Fetched(1, arrived(fetched.values)), at))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RowDecoder, "_decode_fast", lambda *_: False)
        assert alike(quick, plan.vectors(keys, fetched, at))


@given(questions(), st.booleans())
def test_single_rows(question: Any, exact: bool) -> None:
    """A row asked for alone, of two views on one key, is what thorough reading gives."""
    view, names, kept, asked, moments = question
    store, twin = stored(view, kept), replace(view, alias="twin")
    wanted = [ViewFeatures(view, tuple(names)), ViewFeatures(twin, tuple(reversed(names)))]
    plan = ReadPlan("tests", wanted, store.layouts("tests"), 1, exact=exact)
    for key, moment in zip(asked[:5], moments, strict=False):
        keys, at = plan.lookups({"key": [key]}, 1), np.array([moment])
        fetched = store.fetch("tests", plan.requests(keys))
        single = plan.vectors(keys, fetched, at)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RowDecoder, "_decode_fast", lambda *_: False)
            assert alike(single, plan.vectors(keys, fetched, at))


def test_single_rows_take_the_quick_way() -> None:
    """Also where a key or its row is missing, and where the row is too old."""
    view = plain(("a", "float64"), ("b", "int64"), ttl=SECOND)
    store = stored(view, {1: (T, [False, False]), 2: (T - 2 * SECOND, [False, False])})
    plan = ReadPlan("tests", [ViewFeatures(view, ("b", "a"))], store.layouts("tests"), 1)
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("asof.online.row_decoder.StoredRows", None)
        patched.setattr("asof.online.row_decoder._candidates", None)
        for key in (1, 2, 3, None):
            keys = plan.lookups({"key": [key]}, 1)
            found[key] = plan.vectors(keys, store.fetch("tests", plan.requests(keys)), np.array([T]))
    assert found[1].values.tolist() == [[float(2**60 + 2), 1.1]]
    assert {key: set(v.statuses[0].tolist()) for key, v in found.items()} == {
        1: {Status.PRESENT}, 2: {Status.OUTSIDE_MAX_AGE}, 3: {Status.NOT_FOUND}, None: {Status.NOT_FOUND}
    }  # fmt: skip


def test_no_features() -> None:
    """A view of which nothing is read, alone or not, and no view at all."""
    view = plain(("a", "float64"))
    store = stored(view, {1: (T, [False])})
    for wanted in ([ViewFeatures(view, ())], []):
        for asked in ([1], [1, 1, 2]):
            found, _ = read(ReadPlan("tests", wanted), store, {"key": asked}, np.full(len(asked), T))
            assert found.values.shape == found.statuses.shape == (len(asked), 0)
            assert found.event_times.shape == (len(asked), len(wanted))


def arrived(groups: Sequence[Sequence[Sequence[bytes | None]]]) -> list[Sequence[Sequence[bytes | None]]]:
    """What was fetched, as it would come from Redis."""
    replies = HashReplies([len(g) for g in groups])
    replies.feed(encoded(groups))
    return replies.groups()


def test_replies_of_one_size_are_read_where_they_arrived() -> None:
    """The usual case takes the quick way: many keys, all known, none null."""
    view = plain(("a", "float64"), ("b", "int64"))
    store = stored(view, {key: (T, [False, False]) for key in range(50)})
    plan = ReadPlan("tests", [ViewFeatures(view, ("a", "b"))], store.layouts("tests"), 1)
    keys = plan.lookups({"key": list(range(50))}, 50)
    groups = arrived(store.fetch("tests", plan.requests(keys)).values)
    assert isinstance(groups[1], UniformReplies)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("asof.online.row_decoder.StoredRows", None)
        found = plan.vectors(keys, Fetched(1, groups), np.full(50, T))
    assert found.values[:, 0].tolist() == [0.1 + key for key in range(50)]
