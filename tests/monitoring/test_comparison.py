"""The statistics of a verdict: exact where they can be, and false alarms and power by simulation with fixed seeds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from asof.monitoring.comparison import Comparison, Rule, Verdict, compare, hellinger, holm, judge
from asof.statistics import design_effect, histograms

FAMILY = 40
"""Comparisons of a usual report: two for each of twenty features."""

KINDS = ("normal", "gamma", "counts", "zeros", "category")


def draw(kind: str, rows: int, per_key: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of keys whose own level stays with them: ``per_key`` rows of each."""
    keys = -(-rows // per_key)
    of = np.repeat(np.arange(keys), per_key)[:rows]
    if kind == "normal":
        return rng.normal(size=keys)[of] + rng.normal(size=rows) / 2
    if kind == "gamma":
        level = rng.uniform(5, 100, keys)[of]
        return np.abs(rng.normal(level, level / 2))
    if kind == "counts":
        return rng.poisson(rng.uniform(0, 28, keys)[of]).astype(float)
    if kind == "zeros":
        return np.where(rng.random(keys) < 0.9, 0.0, rng.beta(1, 9, keys))[of]
    return np.array(list("abcdefghij"))[np.minimum(rng.geometric(0.3, keys) - 1, 9)][of]


def untouched(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values


def verdict(kind: str, rows: int, per_key: int, seed: int, change=untouched) -> tuple[Verdict, Comparison]:
    """What a report of :data:`FAMILY` comparisons says about one column of ``rows`` rows against 20,000 training rows."""
    rng = np.random.default_rng(seed)
    trained, served = draw(kind, 20_000, per_key, rng), change(draw(kind, rows, per_key, rng), rng)
    frozen = histograms.build({"x": trained})
    cells = [histograms.codes(frozen, {"x": values})["x"].astype(np.int64) for values in (trained, served)]
    designs = [design_effect.design_effect(np.arange(len(c)) // per_key, c) for c in cells]
    size = len(histograms.cells(frozen["columns"]["x"]))
    found = compare(*(np.bincount(c, minlength=size)[:-1] for c in cells), *designs)
    return judge(found, min(1.0, found.p_value * FAMILY), FAMILY, Rule()), found


@pytest.mark.parametrize("per_key", [1, 14])
@pytest.mark.parametrize("rows", [1_000, 10_000, 100_000])
def test_the_same_process_gives_no_drift_whatever_the_size_and_the_clusters(rows: int, per_key: int) -> None:
    """Two samples of one process are never drift, also when all rows of a key resemble each other."""
    runs = 12 if rows < 100_000 else 2
    found = Counter(verdict(kind, rows, per_key, seed)[0] for kind in KINDS for seed in range(runs))
    assert found[Verdict.DRIFT] == 0
    assert found[Verdict.SLIGHT] <= 1
    if rows > 10_000 or per_key == 1:
        assert found[Verdict.TOO_FEW] == 0


def test_p_values_are_as_rare_as_they_say() -> None:
    """Over 200 pairs of the same process, clustered or not, p < 0.05 comes about one time in twenty and p < 0.001 hardly."""
    values = np.array(
        [
            verdict(kind, 1_000, per_key, seed)[1].p_value
            for kind in KINDS[:4]
            for per_key in (1, 5)
            for seed in range(25)
        ]
    )
    assert 0.01 <= (values < 0.05).mean() <= 0.10
    assert (values < 0.001).mean() <= 0.01


def third_times_five(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(values)) < 1 / 3, values * 5, values)


@pytest.mark.parametrize("kind", ["normal", "gamma", "counts"])
@pytest.mark.parametrize(("rows", "per_key"), [(1_000, 1), (1_000, 14), (10_000, 14)])
def test_real_shifts_are_found(kind: str, rows: int, per_key: int) -> None:
    """A third of the values times five is drift in every run, from a thousand rows on."""
    assert {verdict(kind, rows, per_key, seed, third_times_five)[0] for seed in range(8)} == {Verdict.DRIFT}


def test_a_shifted_category_is_found() -> None:
    """A fifth of the rows moving to another category is drift, clustered rows included."""

    def moved(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(len(values)) < 0.2, "j", values)

    assert {verdict("category", 3_000, 7, seed, moved)[0] for seed in range(8)} == {Verdict.DRIFT}


def test_rows_taken_for_independent_would_alarm() -> None:
    """Without the design effect, rows that stay with their key look like drift: the correction is what prevents it."""
    rng = np.random.default_rng(0)
    trained, served = draw("category", 20_000, 14, rng), draw("category", 10_000, 14, rng)
    frozen = histograms.build({"x": trained})
    counts = [histograms.cells(histograms.count(frozen, {"x": v})["columns"]["x"])[:-1] for v in (trained, served)]
    assert compare(*counts).p_value < 1e-6


def test_independent_counts_give_pearsons_chi_square() -> None:
    """With full cells and independent rows the statistic is scipy's test of homogeneity."""
    left, right = [500, 300, 200, 40], [260, 120, 130, 15]
    found = compare(left, right)
    theirs = chi2_contingency([left, right], correction=False)
    assert found.statistic == pytest.approx(theirs.statistic)
    assert found.freedom == theirs.dof
    assert found.p_value == pytest.approx(theirs.pvalue)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.lists(st.integers(0, 50), min_size=8, max_size=8))
def test_a_comparison_is_symmetric_and_finite(left: list[int], right: list[int]) -> None:
    """Effect, p-value and statistic are finite, within their ranges, and the same in both directions."""
    right = right[: len(left)]
    one, other = compare(left, right), compare(right, left)
    assert 0 <= one.effect <= 1
    assert 0 <= one.p_value <= 1
    assert np.isfinite(one.statistic)
    assert (one.effect, one.statistic) == pytest.approx((other.effect, other.statistic), abs=1e-9)


def test_the_effect_is_hellingers_distance_less_chance() -> None:
    """With many rows it is the distance itself, with equal shares it is zero, with nothing in common it is one."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    exact = np.sqrt(1 - np.sqrt(p * q).sum())
    assert hellinger(p * 1e9, q * 1e9) == pytest.approx(exact, rel=1e-6)
    assert hellinger(p * 1e3, p * 1e3) == 0
    assert hellinger(np.array([1e9, 0]), np.array([0, 1e9])) == pytest.approx(1)


def test_one_value_beyond_the_reference_is_no_miracle() -> None:
    """A cell that is empty at training by construction does not decide the test with one row in it."""
    reference, serving = [5_000] * 20 + [0], [50] * 20 + [1]
    assert compare(reference, serving).p_value > 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_method_is_the_step_down_of_bonferroni(values: list[float]) -> None:
    """Adjusted values are those of the published procedure, in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    expected, running = [0.0] * len(values), 0.0
    for step, position in enumerate(order):
        running = max(running, min(1.0, (len(values) - step) * values[position]))
        expected[position] = running
    assert holm(values) == pytest.approx(expected)


def test_a_verdict_needs_rows_significance_and_size() -> None:
    """Few rows, chance, a small effect and a large one lead to the four verdicts."""
    rule = Rule()
    few = Comparison(100.0, 19, 0.0, 0.5, 20_000, 12)
    assert judge(few, 0.0, FAMILY, rule) == Verdict.TOO_FEW
    large = Comparison(100.0, 19, 0.0, 0.5, 20_000, 500)
    assert judge(large, 0.0, FAMILY, rule) == Verdict.DRIFT
    assert judge(Comparison(100.0, 19, 0.0, 0.05, 20_000, 9_000), 0.0, FAMILY, rule) == Verdict.SLIGHT
    assert judge(Comparison(19.0, 19, 0.5, 0.0, 20_000, 9_000), 1.0, FAMILY, rule) == Verdict.STABLE
    assert judge(Comparison(19.0, 19, 0.5, 0.0, 20_000, 300), 1.0, FAMILY, rule) == Verdict.TOO_FEW


def test_the_power_that_no_drift_takes_is_the_power_there_is() -> None:
    """The share of simulated samples with a true effect in which the test speaks equals the computed power."""
    rng = np.random.default_rng(3)
    shares = np.full(20, 0.05)
    moved = shares * np.where(np.arange(20) % 2, 1.4, 0.6)
    distance = float(np.sqrt(1 - np.sqrt(shares * moved).sum()))
    found = [compare(rng.multinomial(20_000, shares), rng.multinomial(400, moved)) for _ in range(400)]
    spoke = np.mean([one.p_value < 0.001 for one in found])
    assert spoke == pytest.approx(found[0].power(distance, 0.001), abs=0.08)


@pytest.mark.parametrize("per_key", [1, 14])
def test_values_beyond_the_training_range_are_found(per_key: int) -> None:
    """Five rows in a hundred at values that training never saw are drift, although no cell expects any."""

    def beyond(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(len(values)) < 0.05, values + 1_000, values)

    assert {verdict("gamma", 3_000, per_key, seed, beyond)[0] for seed in range(6)} == {Verdict.DRIFT}
