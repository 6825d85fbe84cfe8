"""The window kernel against a brute force that a reader can believe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof.contract import WINDOW_FUNCTIONS, Aggregation, WindowFunction
from asof.windows import Events, Questions, aggregate, latest, newest, parallel, range_folds, sorting

TEXT_FUNCTIONS: tuple[WindowFunction, ...] = ("count", "min", "max", "last", "count_distinct")


def one_value(function: str, rows: list[tuple[tuple[int, int, int], Any]]) -> Any:
    """The function over ((ts, kt, position), value) rows, in the words of the definition."""
    values = [value for _, value in rows]
    if function == "sum":
        return math.fsum(values)
    if function in ("count", "count_distinct"):
        return len(values if function == "count" else set(values))
    if not values or (function in ("std", "var") and len(values) < 2):
        return None
    if function in ("min", "max", "last"):
        return {"min": min(values), "max": max(values), "last": max(rows, key=lambda r: r[0])[1]}[function]
    mean = math.fsum(values) / len(values)
    if function == "mean":
        return mean
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return variance if function == "var" else math.sqrt(variance)


def brute_force(events: Events, questions: Questions, aggregation: Aggregation, hop: int) -> list[Any]:
    """Every question against every event."""
    answers = []
    for key, t in zip(questions.key.tolist(), questions.t.tolist(), strict=True):
        rows = [
            ((int(events.ts[i]), int(events.kt[i]), i), events.columns[aggregation.column][i])
            for i in range(len(events.ts))
            if events.key[i] == key and events.arrival[i] <= t and events.ts[i] // hop > (t - aggregation.window) // hop
        ]
        answers.append(one_value(aggregation.function, [r for r in rows if r[1] is not None and r[1] == r[1]]))
    return answers


def same(got: Any, expected: Any) -> bool:
    """Equal, both missing, or floats within 1e-9."""
    if expected is None:
        return got is None or math.isnan(got)
    return got == expected or (isinstance(expected, float) and math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Events, Questions, int]:
    """Few keys, close moments (so that ties abound), late events, missing values, sometimes a moment in the far future."""
    moment = st.integers(-12, 40)
    delay = st.one_of(st.just(0), st.integers(-3, 25), st.just(2**60))
    value = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 0.1, 1.5, 1e6]))
    text = st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"]))
    stride = draw(st.sampled_from([1, 1, 100_000]))
    rows = draw(st.lists(st.tuples(st.integers(0, 2), moment, delay, value, text), max_size=30))
    asked = draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(-15, 90)), max_size=20))
    key, ts, late = (np.array([r[i] for r in rows], dtype=np.int64) for i in range(3))
    columns = {
        "x": np.array([math.nan if r[3] is None else r[3] for r in rows]),
        "s": np.empty(len(rows), dtype=object),
    }
    columns["s"][:] = [r[4] for r in rows]
    q_key, t = (np.array([q[i] for q in asked], dtype=np.int64) for i in range(2))
    events = Events(key * stride, ts, np.maximum(ts, ts + late), ts + late, columns)
    return events, Questions(np.where(q_key > 0, q_key * stride, q_key), t), draw(st.sampled_from([1, 1, 3, 7]))


@pytest.mark.parametrize(("direct", "piece"), [(0, 9**9), (8, 9**9), (0, 10)], ids=["blocks", "one_by_one", "pieces"])
@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_function_equals_brute_force(direct: int, piece: int, case: tuple[Events, Questions, int]) -> None:
    """Every function, hop or no hop, late events included, equals the definition, by either way of folding ranges, in one piece or many."""
    events, questions, hop = case
    asked = [*(("x", f) for f in WINDOW_FUNCTIONS), *(("s", f) for f in TEXT_FUNCTIONS)]
    aggregations = [Aggregation(f"{c}_{f}_{w}", c, f, w) for c, f in asked for w in (3, 17, 1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_folds, "DIRECT", direct)
        patch.setattr(parallel, "RANGE_SIZE", piece)
        got = aggregate(events, questions, aggregations, hop)
    for aggregation in aggregations:
        expected = brute_force(events, questions, aggregation, hop)
        pairs = list(zip(got[aggregation.name].tolist(), expected, strict=True))
        assert all(same(g, e) for g, e in pairs), (aggregation, pairs)


@pytest.mark.parametrize("large", [False, True], ids=["alone", "together"])
@settings(max_examples=60, deadline=None)
@given(cases())
def test_newest_is_the_known_event_with_the_greatest_time(large: bool, case: tuple[Events, Questions, int]) -> None:
    """Ties of event time go to the greatest knowledge time, then to the last in source order; by one thread or several."""
    events, questions, _ = case
    with pytest.MonkeyPatch.context() as patch:
        if large:
            small = {
                (latest, "_ALONE"): 0,
                (latest, "_WORKERS"): 3,
                (latest, "_PIECE"): 7,
                (sorting, "FEW"): 0,
                (latest, "FEW"): 0,
                (sorting, "_BLOCK"): 4,
            }
            for (module, name), value in small.items():
                patch.setattr(module, name, value)
        answers = newest(events, questions).tolist()
    for found, key, t in zip(answers, questions.key.tolist(), questions.t.tolist(), strict=True):
        known = [i for i in range(len(events.ts)) if events.key[i] == key and events.arrival[i] <= t]
        assert found == max(known, key=lambda i: (events.ts[i], events.kt[i], i), default=-1)


def test_equal_values_have_no_spread() -> None:
    """The standard deviation of equal values is exactly 0, however many they are and whatever came before them."""
    ts = np.arange(4000, dtype=np.int64)
    values = np.where(ts < 1500, 1e9, 0.1)
    events = Events(np.zeros_like(ts), ts, ts, ts, {"x": values})
    late = Events(np.zeros_like(ts), ts, np.where(ts % 3, ts, ts + 50), ts, {"x": values})
    questions = Questions(np.zeros(1000, dtype=np.int64), np.arange(3000, 4000, dtype=np.int64))
    aggregations = [Aggregation("std", "x", "std", 1400)]
    assert not aggregate(events, questions, aggregations)["std"].any()
    assert not aggregate(late, questions, aggregations)["std"].any()


def test_a_large_value_that_left_the_window_leaves_no_trace() -> None:
    """Sums are not differences of running sums: 1e300 and infinity in the past do not disturb the windows after them."""
    ts = np.arange(1000, dtype=np.int64)
    values = np.where(ts < 10, 1e300, 0.1)
    values[0] = np.inf
    events = Events(np.zeros_like(ts), ts, ts, ts, {"x": values})
    questions = Questions(np.zeros(900, dtype=np.int64), np.arange(100, 1000, dtype=np.int64))
    got = aggregate(events, questions, [Aggregation("sum", "x", "sum", 50), Aggregation("var", "x", "var", 50)])
    assert np.allclose(got["sum"], 5.0, rtol=1e-12)
    assert not got["var"].any()


def test_no_events_and_no_questions() -> None:
    """Without events counts and sums are 0 and the rest is missing; without questions there is nothing to answer."""
    none = np.empty(0, dtype=np.int64)
    events = Events(none, none, none, none, {"x": np.empty(0), "s": np.empty(0, dtype=object)})
    asked = Questions(np.array([0, 1]), np.array([5, 6]))
    aggregations = [Aggregation(f, "x", f, 10) for f in WINDOW_FUNCTIONS] + [Aggregation("text", "s", "last", 10)]
    got = aggregate(events, asked, aggregations)
    assert {name for name, values in got.items() if not np.asarray(values == 0).all()} == {*WINDOW_FUNCTIONS, "text"} - {
        "count", "sum", "count_distinct",
    }  # fmt: skip
    assert got["text"].tolist() == [None, None]
    assert all(len(v) == 0 for v in aggregate(events, Questions(none, none), aggregations).values())


@pytest.mark.parametrize("function", ["count", "sum", "last", "min"])
def test_copies_and_promises_change_no_value(function: str) -> None:
    """Whether times are one array, copies of it, or promised to be equal changes no value."""
    rng = np.random.default_rng(4)
    ts, key = rng.integers(0, 50, 300), rng.integers(0, 9, 300)
    values = {"x": rng.normal(size=300)}
    questions = Questions(rng.integers(-1, 10, 200), rng.integers(0, 60, 200))
    asked = [Aggregation("f", "x", function, 20)]
    same = Events(key, ts, ts, ts, values)
    copies = Events(key, ts, ts.copy(), ts.copy(), values)
    promised = Events(key, ts, ts.copy(), ts.copy(), values, late=False, kt_differs=False)
    expected = aggregate(same, questions, asked)["f"]
    for events in (copies, promised):
        np.testing.assert_array_equal(aggregate(events, questions, asked)["f"], expected)
        np.testing.assert_array_equal(newest(events, questions), newest(same, questions))
