"""Baselines: what they give, and that a model is said to be no better where it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asof.task import BINARY, Multiclass, Quantiles, Ranking, Regression
from asof.training import baselines, metrics
from asof.training.metrics import Scored
from asof.training.model import Metric


def rows(n=4_000, seed=0):
    """Features of which the first makes the label, with gaps, and a category in the last column that shifts it."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(n, 3))
    matrix[:, 2] = random.integers(0, 5, n)
    signal = matrix[:, 0] + (matrix[:, 2] == 3) * 2
    matrix[random.random(n) < 0.1, 1] = np.nan
    return matrix, signal, random


def test_a_constant_is_what_the_labels_are_on_average():
    """The same outputs for every row: share, class shares, mean, median, quantiles."""
    label = np.array([0.0, 0.0, 1.0, 2.0, 7.0])

    assert baselines.constant(BINARY, np.array([0.0, 1.0, 1.0, 1.0]), 2).tolist() == [[0.75], [0.75]]
    assert baselines.constant(Multiclass(("a", "b", "c")), label[:4], 1).tolist() == [[0.5, 0.25, 0.25]]
    assert baselines.constant(Regression(), label, 1).tolist() == [[2.0]]
    assert baselines.constant(Regression("absolute"), label, 1).tolist() == [[1.0]]
    assert baselines.constant(Quantiles((0.25, 0.75)), label, 1).tolist() == [[0.0, 2.0]]
    assert baselines.constant(Ranking("search"), label, 2).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("task", "label", "metric", "least"),
    [
        (BINARY, lambda s, r: (s + r.logistic(size=len(s)) > 0).astype(float), "auc", 0.7),
        (Multiclass(("a", "b", "c", "never")), lambda s, _: np.clip(np.round(s) + 1, 0, 2), "accuracy", 0.7),
        (Regression(), lambda s, r: s + r.normal(size=len(s)), "r2", 0.5),
        (Regression("poisson"), lambda s, r: r.poisson(np.exp(s / 2)).astype(float), "r2", 0.2),
        (Regression("tweedie"), lambda s, r: r.gamma(2, np.exp(s / 2)) * (r.random(len(s)) < 0.7), "r2", 0.1),
        (Quantiles((0.1, 0.9)), lambda s, r: s + r.normal(size=len(s)), "coverage", 0.75),
    ],
)
def test_a_linear_model_learns_what_is_linear(task, label, metric, least):
    """With gaps and a category, the linear baseline finds the signal on other rows."""
    (train, signal, random), (test, other, _) = rows(), rows(seed=1)
    outputs = baselines.linear(task, train, label(signal, random), test, [2])
    found = Scored(task, label(other, random), outputs, np.zeros(len(test), np.int64), {})

    assert outputs.shape == (len(test), len(task.outputs))
    assert metrics.point(Metric(metric), found) > least
    assert np.isfinite(outputs).all()


def test_extreme_rows_do_not_break_a_linear_model():
    """A column of one value, a column of gaps and values of 1e300 and infinity leave finite outputs."""
    matrix, signal, _ = rows(500)
    matrix = np.column_stack([matrix, np.ones(500), np.full(500, np.nan)])
    matrix[0, 0], matrix[1, 0] = 1e300, -np.inf

    assert np.isfinite(baselines.linear(Regression(), matrix, signal, matrix, [2])).all()
    assert np.isfinite(baselines.linear(BINARY, matrix, (signal > 0).astype(float), matrix, [2])).all()


def judged(better: float, seed: int):
    """A model whose scores have ``better`` more of the signal than the baseline's, beside that baseline."""
    random = np.random.default_rng(seed)
    label = (random.random(600) < 0.3).astype(float)
    noise = random.normal(size=(2, 600))
    model, other = (1 / (1 + np.exp(-(share * label + own))) for share, own in ((1 + better, noise[0]), (1, noise[1])))
    scored = Scored(BINARY, label, model[:, None], np.zeros(600, np.int64), {})
    return metrics.evaluate_beside(
        (Metric("auc"), Metric("log_loss")), scored, {"other": other[:, None]}, {}, seed=seed
    )


def test_better_beyond_chance_is_rarely_said_of_equals_and_found_where_it_is():
    """Of 200 pairs of equally good scores at most 5 % are called better; of clearly better ones nearly all are, also by a loss."""
    equal = [judged(0.0, seed)[1]["other"]["auc"].beaten for seed in range(200)]
    better = [judged(1.5, seed)[1]["other"] for seed in range(40)]

    assert np.mean(equal) <= 0.05
    assert np.mean([found["auc"].beaten for found in better]) > 0.9
    assert np.mean([found["log_loss"].beaten for found in better]) > 0.9


def test_a_difference_is_the_models_minus_the_baselines():
    """The interval encloses the difference of the two values, turned for a loss so that more is better."""
    figures, beside = judged(1.0, 3)

    for name, sign in (("auc", 1), ("log_loss", -1)):
        one = beside["other"][name]
        assert one.low < sign * (figures[name].value - one.value) < one.high
    assert figures == metrics.evaluate((Metric("auc"), Metric("log_loss")), replace_scored(3), {}, seed=3)


def replace_scored(seed):
    """The rows that :func:`judged` scored."""
    random = np.random.default_rng(seed)
    label = (random.random(600) < 0.3).astype(float)
    noise = random.normal(size=(2, 600))
    scored = Scored(BINARY, label, noise[:1].T, np.zeros(600, np.int64), {})
    return replace(scored, outputs=(1 / (1 + np.exp(-(2 * label + noise[0]))))[:, None])
