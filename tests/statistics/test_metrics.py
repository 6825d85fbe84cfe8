"""Metrics of every task equal scikit-learn's, with any weights of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as reference

from asof.statistics.metrics import METRICS, default_metrics, prepare, value
from asof.task import BINARY, Multiclass, Quantiles, Ranking, Regression, Task, combined, from_dict, to_dict

TASKS: dict[str, Task] = {
    "binary": BINARY, "multiclass": Multiclass(("a", "b", "c")), "regression": Regression("poisson"), "quantiles": Quantiles((0.1, 0.9)),
}  # fmt: skip
FINITE = st.floats(-1e3, 1e3)


def expected(name: str, task: Task, label: Any, outputs: Any, weight: Any) -> float:
    """The metric by scikit-learn, or by its definition where scikit-learn has none."""
    given_weight = {"sample_weight": weight}
    first, last = outputs[:, 0], outputs[:, -1]
    if task.kind == "multiclass":
        answered = outputs.argmax(axis=1)
        present = weight > 0
        classes = np.union1d(label[present], answered[present])
        by_name = {
            "log_loss": lambda: reference.log_loss(label, outputs, labels=[0, 1, 2], **given_weight),
            "accuracy": lambda: reference.accuracy_score(label, answered, **given_weight),
            "f1_macro": lambda: reference.f1_score(label, answered, labels=classes, average="macro", **given_weight),
        }
        return float(by_name[name]())
    single = {
        "auc": lambda: reference.roc_auc_score(label, first, **given_weight),
        "average_precision": lambda: reference.average_precision_score(label, first, **given_weight),
        "log_loss": lambda: reference.log_loss(label, first, labels=[0, 1], **given_weight),
        "rmse": lambda: reference.root_mean_squared_error(label, first, **given_weight),
        "mae": lambda: reference.mean_absolute_error(label, first, **given_weight),
        "r2": lambda: reference.r2_score(label, first, **given_weight),
        "poisson_deviance": lambda: reference.mean_poisson_deviance(label, first, **given_weight),
        "pinball_loss": lambda: np.mean([
            reference.mean_pinball_loss(label, outputs[:, i], alpha=level, **given_weight) for i, level in enumerate((0.1, 0.9))
        ]),
        "coverage": lambda: np.average((first <= label) & (label <= last), weights=weight),
        "width": lambda: np.average(last - first, weights=weight),
    }  # fmt: skip
    return float(single[name]())


def rows(kind: str, seed: int, size: int) -> tuple[Any, Any]:
    """Labels and outputs with something in common."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=size)
    if kind == "binary":
        label = (signal + random.normal(size=size) > 0).astype(float)
        label[:2] = 0, 1
        return label, np.round(1 / (1 + np.exp(-signal)), 1)[:, None]
    if kind == "multiclass":
        raw = random.random((size, 3)) + 0.01
        return random.integers(0, 3, size).astype(float), raw / raw.sum(axis=1, keepdims=True)
    count = random.poisson(np.exp(signal / 2)).astype(float)
    count[:2] = 0, 1
    if kind == "regression":
        return count, np.exp(signal / 2)[:, None]
    return count, np.sort(random.random((size, 2)) * 3, axis=1)


@pytest.mark.parametrize("kind", [kind for kind in METRICS if kind != "ranking"])
@given(seed=st.integers(0, 10**6), size=st.integers(4, 60))
def test_weighted_metrics_are_scikit_learns(kind: str, seed: int, size: int) -> None:
    """With whole weights of zero and more, each metric is what scikit-learn says with these sample weights."""
    task = TASKS[kind]
    label, outputs = rows(kind, seed, size)
    weights = np.random.default_rng(seed + 1).integers(0, 3, (2, size)).astype(float)
    weights[:, :2] = 1
    for name in METRICS[kind]:
        found = prepare(name, task, label, outputs)(weights)
        for drawn, weight in zip(found, weights, strict=True):
            assert drawn == pytest.approx(expected(name, task, label, outputs, weight), rel=1e-9), name
        assert value(name, task, label, outputs) == pytest.approx(
            expected(name, task, label, outputs, np.ones(size)), rel=1e-9
        )


@given(seed=st.integers(0, 10**6), size=st.integers(2, 60), k=st.integers(1, 6))
def test_rankings_are_scikit_learns_group_by_group(seed: int, size: int, k: int) -> None:
    """The gain of a ranking is the mean of scikit-learn's over groups with two rows and a relevant one, weighted by group; so is the reciprocal rank."""
    random = np.random.default_rng(seed)
    groups, label = random.integers(0, max(1, size // 5), size), random.integers(0, 4, size).astype(float)
    score = random.integers(0, 5, size).astype(float)
    weight = random.integers(0, 3, groups.max() + 1).astype(float)
    gains, places, weights = [], [], []
    for group in np.unique(groups):
        inside = groups == group
        if inside.sum() > 1 and label[inside].max() > 0:
            gains.append(reference.ndcg_score(label[inside][None], score[inside][None], k=k))
            order = np.argsort(-score[inside], kind="stable")
            place = int(np.flatnonzero(label[inside][order] > 0)[0])
            places.append(1 / (place + 1) if place < k else 0.0)
            weights.append(weight[group])
    assume(sum(weights) > 0)
    task, outputs = Ranking("search", k), score[:, None]

    for name, by_group in (("ndcg", gains), ("mrr", places)):
        found = prepare(name, task, label, outputs, groups)(weight[groups][None, :])[0]
        assert found == pytest.approx(np.average(by_group, weights=weights)), name


def test_a_deviance_of_counts_is_no_default_for_numbers() -> None:
    """Labels that may be negative have no Poisson deviance."""
    assert "poisson_deviance" not in default_metrics(Regression())
    assert "poisson_deviance" in default_metrics(Regression("tweedie"))


@pytest.mark.parametrize("task", [*TASKS.values(), Regression("tweedie", power=1.2), Ranking("search", 5)])
def test_a_task_survives_json(task: Task) -> None:
    """What a bundle keeps of a task is the task."""
    assert from_dict(to_dict(task)) == task


@given(st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1))
def test_quantiles_never_cross(given_rows: list[tuple[float, float, float]]) -> None:
    """Outputs of quantiles rise with their levels, and are the same numbers."""
    columns = [np.array(column) for column in zip(*given_rows, strict=True)]
    outputs = combined(Quantiles(), columns)

    assert (np.diff(outputs, axis=1) >= 0).all()
    assert np.array_equal(np.sort(np.column_stack(columns), axis=1), outputs)
