"""Fitting: equal rows give equal bytes, and the decision follows its rule."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.errors import SettingsError, UsageError
from asof.instants import DAY
from asof.statistics.metrics import value
from asof.task import BINARY, Multiclass, Quantiles, Ranking, Regression
from asof.training import lightgbm_parameters
from asof.training.fit import decide, fit
from asof.training.model import Decision, Fit, Model
from tests.training.machines import MODEL

NAMES = ("load", "age", "spins")
PARAMETERS = {
    "num_leaves": 7,
    "min_data_in_leaf": 5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "feature_fraction": 0.6,
}
OTHER_PROCESS = """
import hashlib
from tests.training.test_fit import learned
print(hashlib.sha256(learned().texts[0].encode()).hexdigest())
"""


def rows(size: int = 2_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, labels and times of ten days; some values are missing."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(size, 3))
    label = (matrix[:, 0] + random.normal(size=size) > 1.5).astype(float)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return matrix, label, np.sort(random.integers(0, 10 * DAY, size))


def learned(**options):
    """A model fitted on these rows."""
    matrix, label, time = rows()
    declared = replace(
        MODEL, fit=Fit(**{"parameters": PARAMETERS, "rounds": 60, "patience": 10, "hold_out": "2 days", **options})
    )
    return fit(declared, BINARY, NAMES, matrix, label, time)


def test_equal_rows_give_equal_bytes_in_another_process(root):
    """Two processes that fit the same rows write boosters that are equal byte for byte."""
    other = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS], cwd=root, capture_output=True, text=True, timeout=240, check=True
    ).stdout.strip()

    assert other == hashlib.sha256(learned().texts[0].encode()).hexdigest()


def test_another_seed_gives_another_booster():
    """The bytes depend on the seed: what is repeatable is not merely constant."""
    assert learned().texts != learned(parameters={**PARAMETERS, "seed": 8}).texts


def test_the_most_recent_part_decides_when_to_stop():
    """The held-out rows are the last two days of the training span, and the final booster has as many trees as they wanted."""
    _, _, time = rows()
    found = learned()

    assert found.held_out.tolist() == (time > time.max() - 2 * DAY).tolist()
    assert 1 <= found.trees < 60
    assert len(found.held_out_outputs) == found.held_out.sum()
    assert sum(found.importance.values()) == pytest.approx(1)
    assert next(iter(found.importance)) == "load"


def test_without_a_held_out_span_a_fifth_of_the_time_is_held_out():
    """A declaration that names no held-out span holds out the last fifth of the training span."""
    _, _, time = rows()

    assert learned(hold_out=None).held_out.sum() == pytest.approx(len(time) / 5, rel=0.15)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_f1_rule_finds_the_best_threshold(pairs):
    """No threshold has a better F1 on the held-out rows than the one that the rule finds."""
    label = np.array([1.0, *(p[0] for p in pairs)])
    score = np.array([0.5, *(p[1] / 10 for p in pairs)])

    def f1(threshold: float) -> float:
        return 2 * label[score >= threshold].sum() / ((score >= threshold).sum() + label.sum())

    assert f1(decide(Decision("f1"), label, score, score)) == pytest.approx(max(f1(s) for s in score))


def test_the_share_rule_lets_so_many_rows_through():
    """The share rule puts the threshold where that share of unseen rows scores as high, the fixed rule where it says."""
    unseen = np.random.default_rng(0).random(10_000)
    threshold = decide(Decision("share", 0.03), np.empty(0), np.empty(0), unseen)

    assert np.mean(unseen >= threshold) == pytest.approx(0.03, abs=1e-3)
    assert decide(Decision("fixed", 0.25), np.empty(0), np.empty(0), unseen) == 0.25


def test_parts_with_one_label_are_refused():
    """A part of the training span with one kind of label is one line."""
    matrix, label, time = rows(200)
    label[time > time.max() - 2 * DAY] = 0
    with pytest.raises(UsageError, match="held-out part of the training span has 0 positives"):
        fit(replace(MODEL, fit=Fit(hold_out="2 days")), BINARY, NAMES, matrix, label, time)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"num_leafs": 31}, "LightGBM has no parameter 'num_leafs'; did you mean 'num_leaves'?"),
        ({"zzzzzz": 1}, "LightGBM has no parameter 'zzzzzz'; its documentation lists"),
        ({"objective": "regression"}, "got objective among the parameters, expected it as Model(task=...)"),
        ({"n_estimators": 9}, "got n_estimators, another name of num_iterations, among the parameters, expected it as Fit(rounds=...)"),
        ({"early_stopping_round": 9}, "expected it as Fit(patience=...)"),
        ({"seed": 1, "random_state": 2}, "the parameters 'seed' and 'random_state' are the same"),
        ({"num_leaves": 1}, "got num_leaves = 1, expected num_leaves > 1"),
        ({"num_leaves": "many"}, "got num_leaves = 'many', expected a whole number"),
        ({"eta": -1}, "got eta = -1, expected learning_rate > 0.0"),
        ({"learning_rate": "fast"}, "got learning_rate = 'fast', expected a number"),
        ({"metric": "bogus"}, "got metric = 'bogus', but LightGBM has no metric 'bogus'; its documentation lists"),
        ({"metrics": ["auc", "binary_loglos"]}, "LightGBM has no metric 'binary_loglos'; did you mean 'binary_logloss'?"),
        ({"metric": "auc,ndcg@3"}, "LightGBM has no metric 'ndcg@3'"),
        ({"metric": 3}, "got metric = 3, but LightGBM has no metric 3"),
        ({"boosting": "foo"}, "got boosting = 'foo', expected a value that LightGBM accepts; it says 'Unknown boosting type foo'"),
        ({"num_leaves": {"a": 1}}, "got num_leaves = {'a': 1}, expected a value that LightGBM accepts"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named_with_what_is_expected(parameters, problem):
    """A parameter that does not exist, is declared elsewhere or has a broken value is one line about that parameter."""
    with pytest.raises(SettingsError, match=re.escape(problem)):
        learned(parameters=parameters)


@pytest.mark.parametrize("metric", sorted(lightgbm_parameters.METRICS - {"None", "na", "null", "custom"}))
def test_every_listed_metric_is_one_of_lightgbm(metric):
    """LightGBM computes each metric that is accepted; it ignores one that it does not know."""
    several = {
        "auc_mu",
        "multi_logloss",
        "multiclass",
        "softmax",
        "multiclassova",
        "multiclass_ova",
        "ova",
        "ovr",
        "multi_error",
    }
    objective = {"objective": "multiclass", "num_class": 3} if metric in several else {"objective": "cross_entropy"}
    if metric in {"ndcg", "map", "mean_average_precision", "lambdarank"} or "ndcg" in metric:
        objective = {"objective": "lambdarank"}
    label = np.arange(60) % (3 if metric in several else 2)
    if metric in {"gamma", "gamma_deviance"}:
        objective, label = {"objective": "gamma"}, label + 1
    data = lightgbm.Dataset(
        np.arange(60.0)[:, None], label, group=[30, 30] if objective["objective"] == "lambdarank" else None
    )
    booster = lightgbm.Booster({**objective, "metric": metric, "verbosity": -1}, data)
    assert booster.eval_train()


def test_other_names_of_parameters_count():
    """LightGBM's other names set the same parameter: ``random_state`` is the seed, although the seed has a default."""
    assert learned(parameters={"random_state": 8}).parameters["seed"] == 8
    assert learned(parameters={"shrinkage_rate": 0.3}).texts == learned(parameters={"learning_rate": 0.3}).texts


def test_features_of_every_spelling_can_be_learned_from():
    """Names with spaces, colons or brackets, which LightGBM refuses, change nothing but the names in the booster's text."""
    matrix, label, time = rows()
    names = ("load [kg]", "age:days", 'the "spins"')
    found = fit(replace(MODEL, fit=Fit(parameters=PARAMETERS, rounds=20)), BINARY, names, matrix, label, time)
    plain = fit(replace(MODEL, fit=Fit(parameters=PARAMETERS, rounds=20)), BINARY, NAMES, matrix, label, time)

    assert set(found.importance) == set(names)
    assert np.array_equal(found.predict(matrix), plain.predict(matrix))


def test_a_ranking_puts_the_rows_of_a_group_in_order():
    """Rows of mixed groups are learned group by group: the feature that makes the label puts them in order, in any order of the rows."""
    random = np.random.default_rng(0)
    x, groups = random.normal(size=3_000), random.integers(0, 200, 3_000)
    matrix = np.column_stack([x, random.normal(size=3_000)])
    label = np.clip(np.round(x + random.normal(0, 0.3, 3_000)) + 1, 0, 3)
    model = Model(
        name="any", service="any_v1", rows=MODEL.rows, task=Ranking("search"), fit=Fit(parameters=PARAMETERS, rounds=60)
    )
    found = fit(model, model.task, ("x", "noise"), matrix, label, np.arange(3_000) * DAY, groups)
    order = random.permutation(3_000)

    assert value("ndcg", model.task, label, found.predict(matrix), groups) > 0.95
    assert np.array_equal(found.predict(matrix)[order], found.predict(matrix[order]))
    assert found.held_out_outputs.shape == (found.held_out.sum(), 1)


@pytest.mark.parametrize(
    ("task", "label"),
    [
        (Regression(), lambda x, _: x),
        (Regression("absolute"), lambda x, _: x),
        (Regression("poisson"), lambda x, random: random.poisson(np.exp(x / 2))),
        (
            Regression("tweedie", power=1.3),
            lambda x, random: np.where(random.random(len(x)) < 0.4, 0, random.gamma(2, np.exp(x / 2))),
        ),
        (Quantiles((0.2, 0.8)), lambda x, random: x + random.normal(size=len(x))),
        (Multiclass(("a", "b", "c")), lambda x, _: np.clip(np.round(x) + 1, 0, 2)),
    ],
)
def test_every_task_learns_its_label(task, label):
    """Outputs have the task's width, follow the feature that makes the label, and are equal for equal rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=3_000)
    matrix = np.column_stack([x, random.normal(size=3_000)])
    given = (task, ("x", "noise"), matrix, np.asarray(label(x, random), float), np.arange(3_000) * DAY)
    model = Model(name="any", service="any_v1", rows=MODEL.rows, task=task, fit=Fit(parameters=PARAMETERS, rounds=60))
    found = fit(model, *given)
    outputs = found.predict(matrix)

    assert outputs.shape == (3_000, len(task.outputs))
    assert next(iter(found.importance)) == "x"
    assert found.texts == fit(model, *given).texts
    if isinstance(task, Quantiles):
        inside = (outputs[:, 0] <= given[3]) & (given[3] <= outputs[:, 1])
        assert 0.5 < inside.mean() < 0.75
    elif isinstance(task, Multiclass):
        assert (outputs.argmax(axis=1) == given[3]).mean() > 0.9
    else:
        assert np.corrcoef(outputs[:, 0], x)[0, 1] > 0.7
