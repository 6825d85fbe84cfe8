"""Figures against slow, obvious oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from asof.errors import UsageError
from asof.instants import DAY
from asof.task import BINARY
from asof.training import metrics
from asof.training.metrics import Scored
from asof.training.model import Metric

AT_3 = Metric("precision_at", k=3, key="who")
ROW = st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 4), st.integers(0, 5))


def scored(rows: list[tuple[int, int, int, int]]) -> Scored:
    """Rows of (label, score in sixths, day, entity)."""
    label, score, day, who = (np.array(column) for column in zip(*rows, strict=True))
    return Scored(
        BINARY, label.astype(float), score[:, None] / 6, day * DAY + 5, {"who": np.unique(who, return_inverse=True)[1]}
    )


def both_kinds(rows: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The rows with one of each label added."""
    return [*rows, (1, 3, 0, 0), (0, 2, 1, 1)]


def precision_by_hand(rows: Scored, k: int) -> float:
    """The definition, step by step."""
    caught: set[int] = set()
    shares = []
    for day in sorted(set((rows.time // DAY).tolist())):
        todays = [i for i in range(len(rows.label)) if rows.time[i] // DAY == day]
        best = {
            e: max(rows.score[i] for i in todays if rows.entities["who"][i] == e)
            for e in {rows.entities["who"][i] for i in todays}
        }
        ranked = sorted((e for e in best if e not in caught), key=lambda e: (-best[e], e))[:k]
        hits = [e for e in ranked if any(rows.label[i] == 1 and rows.entities["who"][i] == e for i in todays)]
        if ranked:
            shares.append(len(hits) / len(ranked))
        caught |= set(hits)
    return sum(shares) / len(shares)


def replicated(rows: Scored, drawn: list[int]) -> Scored:
    """Entity e as often as ``drawn`` says, each copy an entity of its own that follows the original in rank."""
    picked = [(i, copy) for i in range(len(rows.label)) for copy in range(drawn[rows.entities["who"][i]])]
    index = np.array([i for i, _ in picked], int)
    who = np.array([rows.entities["who"][i] * 100 + copy for i, copy in picked], int)
    return Scored(
        BINARY,
        rows.label[index],
        rows.outputs[index],
        rows.time[index],
        {"who": np.unique(who, return_inverse=True)[1]},
    )


BY_SCIKIT_LEARN = {
    "auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "log_loss": lambda label, score: reference.log_loss(label, score, labels=[0, 1]),
}


@given(st.lists(ROW, min_size=1, max_size=40))
def test_precision_at_k_is_its_definition(rows):
    """Precision at k entities a day equals the definition followed step by step, ties and days without rows included."""
    given_rows = scored(rows)

    assert metrics.point(AT_3, given_rows) == pytest.approx(precision_by_hand(given_rows, 3), nan_ok=True)


@given(st.lists(ROW, min_size=1, max_size=30), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_weights_are_copies(rows, drawn):
    """Every metric with whole weights per entity equals the same metric on rows that are copied so often."""
    given_rows = scored(both_kinds(rows))
    drawn = [max(1, d) if e in set(given_rows.entities["who"][-2:].tolist()) else d for e, d in enumerate(drawn)]
    copies = replicated(given_rows, drawn)
    weights = np.array(drawn, float)[given_rows.entities["who"]][None, :]
    for metric in (Metric("auc"), Metric("average_precision"), Metric("log_loss"), AT_3):
        expected = (
            precision_by_hand(copies, 3) if metric is AT_3 else BY_SCIKIT_LEARN[metric.name](copies.label, copies.score)
        )

        assert metrics._prepare(metric, given_rows)(weights)[0] == pytest.approx(expected)


@given(st.lists(ROW, min_size=1, max_size=40))
def test_own_auc_is_the_share_of_ordered_pairs(rows):
    """AUC equals the share of pairs of a positive and a negative that are in order, ties counting half."""
    given_rows = scored(both_kinds(rows))
    positive, negative = given_rows.score[given_rows.label == 1], given_rows.score[given_rows.label == 0]
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]

    assert metrics.auc(given_rows.label, given_rows.score) == pytest.approx(np.mean(pairs))
    assert metrics.point(Metric("auc"), given_rows) == pytest.approx(np.mean(pairs))


def random_rows(rows: int = 3_000, seed: int = 0) -> Scored:
    """Scores that say something about labels, entities of several rows."""
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.1).astype(float)
    score = 1 / (1 + np.exp(-(2 * label + random.normal(size=rows) - 2)))
    who = np.unique(random.integers(0, 400, rows), return_inverse=True)[1]
    return Scored(BINARY, label, score[:, None], random.integers(0, 7, rows) * DAY, {"who": who})


def test_draws_of_single_rows_equal_scikit_learn_with_weights():
    """Bootstrap values of AUC and average precision are scikit-learn's own with the drawn weights."""
    rows = random_rows()
    weights = np.random.default_rng(1).integers(0, 3, (3, 3_000)).astype(float)
    for position, weight in enumerate(weights):
        expected = reference.roc_auc_score(rows.label, rows.score, sample_weight=weight)
        precision = reference.average_precision_score(rows.label, rows.score, sample_weight=weight)

        assert metrics._prepare(Metric("auc"), rows)(weights)[position] == pytest.approx(expected)
        assert metrics._prepare(Metric("average_precision"), rows)(weights)[position] == pytest.approx(precision)


def test_intervals_hold_the_value_and_are_the_same_every_time():
    """An interval encloses its value, has a width, and depends on nothing but the rows and the seed."""
    kinds = (Metric("auc"), Metric("average_precision"), Metric("log_loss"), Metric("precision_at", k=100, key="who"))
    figures = metrics.evaluate(kinds, random_rows(), {"auc": 0.5}, "who")

    assert all(f.low < f.value < f.high for f in figures.values())
    assert figures == metrics.evaluate(kinds, random_rows(), {"auc": 0.5}, "who")
    assert figures != metrics.evaluate(kinds, random_rows(), {"auc": 0.5}, "who", seed=1)


def test_interval_of_the_auc_is_as_wide_as_theory_says():
    """The bootstrap interval of an AUC is as wide as DeLong's variance (Biometrics 44 (1988) 837-845) says."""
    rows = random_rows()
    figure = metrics.evaluate((Metric("auc"),), rows, {})["auc"]
    positive, negative = rows.score[rows.label == 1], rows.score[rows.label == 0]
    above = positive[:, None] > negative[None, :]
    variance = above.mean(axis=1).var(ddof=1) / len(positive) + above.mean(axis=0).var(ddof=1) / len(negative)

    assert figure.high - figure.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.2)


def test_thresholds_are_lower_limits_and_upper_limits_for_losses():
    """A threshold is reached from it upwards, and for a loss from it downwards."""
    rows = random_rows(500)
    area, loss = metrics.point(Metric("auc"), rows), metrics.point(Metric("log_loss"), rows)
    kinds = (Metric("auc"), Metric("log_loss"))
    exact = metrics.evaluate(kinds, rows, {"auc": area, "log_loss": loss})
    strict = metrics.evaluate(kinds, rows, {"auc": area + 1e-9, "log_loss": loss - 1e-9})

    assert [f.reached for f in exact.values()] == [True, True]
    assert [f.reached for f in strict.values()] == [False, False]


def test_rows_of_one_label_cannot_judge():
    """A test span without positives is refused in one line that says so."""
    rows = Scored(BINARY, np.zeros(5), np.linspace(0, 1, 5)[:, None], np.zeros(5, np.int64), {})
    with pytest.raises(UsageError, match="0 positives in 5 rows"):
        metrics.evaluate((Metric("auc"),), rows, {})
