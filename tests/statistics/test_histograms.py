"""Frozen-edge histograms: exact counts, exact merging, honest ties."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof.contract import Contract, Feature
from asof.errors import BundleError, SchemaError
from asof.statistics import histograms
from asof.statistics.reference import reference

NUMBERS = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)), max_size=60)
TEXTS = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "<c>", "d"])), max_size=60)


def numeric(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def brute_force(column: dict[str, object], values: np.ndarray) -> list[int]:
    """Cell by cell with plain comparisons."""
    edges = column["edges"]
    inside = [sum(1 for v in values if low <= v < high) for low, high in itertools.pairwise(edges)]
    below = sum(1 for v in values if not edges or v < edges[0]) - (sum(np.isnan(values)) if not edges else 0)
    above = sum(1 for v in values if edges and v >= edges[-1])
    return [*inside, below, above, int(np.isnan(values).sum())]


@settings(max_examples=60, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(2, 12))
def test_numeric_counts_equal_plain_comparisons(
    training: list[float | None], serving: list[float | None], bins: int
) -> None:
    """Every value is counted once, in the cell whose bounds hold it."""
    frozen = histograms.build({"x": numeric(training)}, bins=bins)
    counted = histograms.count(frozen, {"x": numeric(serving)})
    assert histograms.cells(frozen["columns"]["x"]).tolist() == brute_force(frozen["columns"]["x"], numeric(training))
    assert histograms.cells(counted["columns"]["x"]).tolist() == brute_force(frozen["columns"]["x"], numeric(serving))
    assert counted["rows"] == len(serving)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.lists(st.tuples(NUMBERS, TEXTS), max_size=5))
def test_counts_of_pieces_merge_to_the_count_of_the_whole(
    training: list[float | None], pieces: list[tuple[list, list]]
) -> None:
    """Merging is exact, whatever the pieces and whatever their order."""
    frozen = histograms.build(
        {"x": numeric(training), "s": pa.array(["a", "b", None], pa.string()).take(_cycle(len(training)))}
    )
    parts = [_both(numbers, texts) for numbers, texts in pieces]
    whole = {
        "x": np.concatenate([np.empty(0), *(p["x"] for p in parts)]),
        "s": pa.chunked_array([p["s"] for p in parts], type=pa.string()),
    }
    counted = [histograms.count(frozen, part) for part in parts]
    start = histograms.empty(frozen)
    assert histograms.merge([start, *counted]) == histograms.count(frozen, whole)
    assert histograms.merge([*reversed(counted), start]) == histograms.count(frozen, whole)
    assert histograms.merge([start, *counted]) == json.loads(json.dumps(histograms.merge([start, *counted])))


def _cycle(size: int) -> pa.Array:
    return pa.array(np.arange(size) % 3)


def _both(numbers: list[float | None], texts: list[str | None]) -> dict[str, object]:
    size = min(len(numbers), len(texts))
    return {"x": numeric(numbers[:size]), "s": pa.array(texts[:size], pa.string())}


def test_few_distinct_values_get_a_cell_each_and_the_gaps_stay_visible() -> None:
    """A column of small whole numbers has one cell for each, and a value in between is seen as new."""
    frozen = histograms.build({"n": np.repeat([0, 1, 2], [50, 30, 20])})
    column = frozen["columns"]["n"]
    assert column["points"] == [0.0, None, 1.0, None, 2.0]
    assert column["counts"] == [50, 0, 30, 0, 20]
    assert histograms.labels(column) == ["0", "0 to 1", "1", "1 to 2", "2", "< 0", ">= 2", "(missing)"]
    assert histograms.count(frozen, {"n": [0.5, 1.5, 1.5]})["columns"]["n"]["counts"] == [0, 1, 0, 2, 0]


def test_a_heavy_tie_gets_its_own_cell_beside_equal_shares() -> None:
    """Zeros that make up half of a continuous column sit in one cell; the rest is cut into equal shares."""
    rng = np.random.default_rng(5)
    values = np.concatenate([np.zeros(5_000), rng.gamma(2.0, 20.0, 5_000)])
    column = histograms.build({"x": values})["columns"]["x"]
    assert column["counts"][column["points"].index(0.0)] == 5_000
    shares = np.array([c for c, p in zip(column["counts"], column["points"], strict=True) if p is None])
    assert len(shares) == 10
    assert set(shares.tolist()) <= {499, 500, 501}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_rounding_moves_no_value_across_an_edge_around_a_point(values: list[float], seed: int) -> None:
    """Values recomputed within the parity tolerance land in the same cell where values repeat."""
    repeated = np.repeat(values, 3)
    frozen = histograms.build({"x": repeated}, bins=64)
    jitter = 1 + np.random.default_rng(seed).uniform(-0.9e-9, 0.9e-9, len(repeated))
    assert histograms.count(frozen, {"x": repeated * jitter}) == frozen


def test_infinite_values_lie_outside_and_missing_ones_are_counted_apart() -> None:
    """Infinity is a value out of range, NaN and None are missing."""
    frozen = histograms.build({"x": np.array([1.0, 2.0, np.inf, np.nan])})
    column = histograms.count(frozen, {"x": [float("-inf"), float("inf"), None, 1.0]})["columns"]["x"]
    assert (frozen["columns"]["x"]["above"], frozen["columns"]["x"]["missing"]) == (1, 1)
    assert (column["below"], column["above"], column["missing"]) == (1, 1, 1)


def test_rare_categories_are_counted_as_other() -> None:
    """The most frequent values get cells; new values and rare ones share one."""
    frozen = histograms.build({"s": ["a"] * 5 + ["b"] * 4 + ["c"] + [None]}, categories=2)
    assert frozen["columns"]["s"] == {
        "kind": "categorical",
        "categories": ["a", "b"],
        "counts": [5, 4],
        "other": 1,
        "missing": 1,
    }
    counted = histograms.count(frozen, {"s": ["b", "new", "newer"]})["columns"]["s"]
    assert (counted["counts"], counted["other"], counted["missing"]) == ([0, 1], 2, 0)


def test_every_kind_of_column_can_be_counted() -> None:
    """Booleans, moments, lists, bytes, categories and empty columns have histograms."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    columns = {
        "bool": [True, False, None],
        "moment": [moment, moment, None],
        "list": [[1.0], [1.0, 2.0], None],
        "bytes": [b"a", b"bc", None],
        "dictionary": pa.array(["x", "y", None]).dictionary_encode(),
        "struct": pa.array([{"a": 1}, {"a": 2}, None]),
        "none": [None, None, None],
        "big": pa.array([2**60, 2**60 + 1, None], pa.int64()),
    }
    counted = histograms.build(columns)["columns"]
    assert {name: int(histograms.cells(column).sum()) for name, column in counted.items()} == dict.fromkeys(columns, 3)
    assert {name: column["missing"] for name, column in counted.items() if name != "none"} == dict.fromkeys(
        set(columns) - {"none"}, 1
    )
    assert counted["list"]["points"] == [1.0, None, 2.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [1.0]}, "no column 'x'"),
        ({"x": ["a"]}, "holds string, expected numbers"),
        ({"x": [1.0, "a"]}, "mixes types"),
    ],
)
def test_values_that_do_not_fit_the_reference_are_named(columns: dict[str, list], message: str) -> None:
    """A missing or mistyped column is one line that names it."""
    frozen = histograms.build({"x": [1.0, 2.0]})
    with pytest.raises(SchemaError, match=message):
        histograms.count(frozen, columns)


def test_histograms_with_other_cells_do_not_merge() -> None:
    """Counts under different references are refused, and so is another layout."""
    one, other = histograms.build({"x": [1.0, 2.0]}), histograms.build({"x": [1.0, 3.0]})
    with pytest.raises(BundleError, match="different cells"):
        histograms.merge([one, other])
    with pytest.raises(BundleError, match="layout 9"):
        histograms.count({**one, "format": 9}, {"x": [1.0]})
    with pytest.raises(SchemaError, match="no histogram"):
        histograms.merge([])
    with pytest.raises(SchemaError, match="same number"):
        histograms.build({"x": [1.0], "y": [1.0, 2.0]})


def test_moments_and_booleans_are_labelled_as_such() -> None:
    """The cells of a moment are labelled with moments, those of a boolean with true and false; others with numbers."""
    fields = (
        Feature("at", "v", "at", "unixtimestamp"),
        Feature("ok", "v", "ok", "bool"),
        Feature("n", "v", "n", "int64"),
    )
    contract = Contract("p", "s", fields, ())
    start = datetime(2024, 1, 1, tzinfo=UTC)
    columns = {"at": [start, start + timedelta(days=1)], "ok": [True, False], "n": [1, 2]}
    frozen = reference(contract, columns, {"score": [0.5]})["features"]["columns"]

    assert {"2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"} <= set(histograms.labels(frozen["at"]))
    assert {"false", "true"} <= set(histograms.labels(frozen["ok"]))
    assert {"1", "2"} <= set(histograms.labels(frozen["n"]))
