"""Metrics of a model's outputs against labels, for many weightings of the rows at once.

Training evaluates test rows with them, monitoring served rows. A weighting is a bootstrap draw (:mod:`asof.statistics.intervals`);
equal weights give the metric itself. The definitions are scikit-learn's, under the names that its users know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from asof.statistics.ranking import ScoreOrder, log_loss
from asof.task import COUNTS, Quantiles, Ranking, Regression, Task

Floats = npt.NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""From weights float64[draws, n] to values float64[draws]."""

METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "average_precision", "log_loss"),
    "multiclass": ("log_loss", "accuracy", "f1_macro"),
    "regression": ("rmse", "mae", "r2", "poisson_deviance"),
    "quantiles": ("pinball_loss", "coverage", "width"),
    "ranking": ("ndcg", "mrr"),
}
"""Kind of task -> its metrics."""

FOR_COUNTS = frozenset({"poisson_deviance"})
"""Metrics of labels that are never negative."""

SMALLER_IS_BETTER = frozenset({"log_loss", "rmse", "mae", "poisson_deviance", "pinball_loss", "width"})


def default_metrics(task: Task) -> tuple[str, ...]:
    """The metrics of a task that fit its labels."""
    counts = isinstance(task, Regression) and task.loss in COUNTS
    return tuple(name for name in METRICS[task.kind] if counts or name not in FOR_COUNTS)


def prepare(
    metric: str, task: Task, label: Floats, outputs: Floats, groups: npt.NDArray[np.int64] | None = None
) -> Weighted:
    """The function that computes ``metric`` for weightings of the rows.

    Args:
        metric: A metric of the task's kind, see :data:`METRICS`.
        task: The task.
        label: float64[n]; for classes their numbers.
        outputs: float64[n, K], what the model gave.
        groups: int64[n], the group of each row, for a ranking; a weighting gives the rows of a group equal weights.
    """
    if isinstance(task, Ranking):
        return _of_groups(
            metric, task.k, label, outputs[:, 0], np.zeros(len(label), np.int64) if groups is None else groups
        )
    if task.kind == "binary":
        if metric == "log_loss":
            return partial(log_loss, label, outputs[:, 0])
        ranking = ScoreOrder(label, outputs[:, 0])
        return ranking.auc if metric == "auc" else ranking.average_precision
    if task.kind == "multiclass":
        return _of_classes(metric, label.astype(np.int64), outputs)
    if isinstance(task, Quantiles):
        return _of_quantiles(metric, task, label, outputs)
    return _of_values(metric, label, outputs[:, 0])


def value(
    metric: str, task: Task, label: Floats, outputs: Floats, groups: npt.NDArray[np.int64] | None = None
) -> float:
    """``metric`` on all rows."""
    return float(prepare(metric, task, label, outputs, groups)(np.ones((1, len(label))))[0])


def _of_groups(metric: str, k: int, label: Floats, score: Floats, groups: npt.NDArray[np.int64]) -> Weighted:
    """The weighted mean over groups that have two rows or more and a relevant one.

    ``ndcg`` is the discounted cumulative gain of the first ``k`` rows beside that of the best order, with labels as gains and equal
    scores sharing their gains (K. Jarvelin and J. Kekalainen, "Cumulated gain-based evaluation of IR techniques", ACM Transactions
    on Information Systems 20 (2002) 422-446, as scikit-learn has it); ``mrr`` is one over the place of the first relevant row, 0 if
    it is beyond ``k``.
    """
    order = np.lexsort((-score, groups))
    first = np.flatnonzero(np.diff(groups[order], prepend=groups[order][0] - 1))
    place = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    counts = (place < k) / np.log2(place + 2)
    relevant = np.maximum.reduceat(label[order], first) > 0
    usable = relevant & (np.diff(first, append=len(order)) > 1)
    if metric == "ndcg":
        best = np.lexsort((-label, groups))
        shared = _tied_means(label[order], groups[order], score[order])
        gained, possible = (np.add.reduceat(gain * counts, first) for gain in (shared, label[best]))
        value = gained[usable] / possible[usable]
    else:
        found = np.where((label[order] > 0) & (place < k), 1 / (place + 1), 0.0)
        value = np.maximum.reduceat(found, first)[usable]
    row = order[first[usable]]
    return lambda weights: np.asarray(weights[:, row] @ value / weights[:, row].sum(axis=1))


def _tied_means(gain: Floats, groups: npt.NDArray[np.int64], score: Floats) -> Floats:
    """Each gain replaced by the mean gain of the rows with the same group and score; equal ones stand together."""
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(groups) != 0) | (np.diff(score) != 0)]))
    sizes = np.diff(starts, append=len(gain))
    return np.repeat(np.add.reduceat(gain, starts) / sizes, sizes)


def _mean(rows: Floats) -> Weighted:
    """The weighted mean of one number for each row."""
    return lambda weights: np.asarray(weights @ rows / weights.sum(axis=1))


def _of_classes(metric: str, label: npt.NDArray[np.int64], outputs: Floats) -> Weighted:
    if metric == "log_loss":
        chosen = np.clip(outputs[np.arange(len(label)), label], np.finfo(np.float64).eps, 1)
        return _mean(-np.log(chosen))
    answered = outputs.argmax(axis=1)
    return (
        _mean((answered == label).astype(np.float64)) if metric == "accuracy" else partial(_f1_macro, label, answered)
    )


def _f1_macro(label: npt.NDArray[np.int64], answered: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """The mean over classes of F1; a class that is neither labelled nor answered in a draw does not count."""
    found = []
    for one in np.unique(np.concatenate([label, answered])):
        is_label, is_answer = label == one, answered == one
        both = weights @ (is_label & is_answer).astype(np.float64)
        with np.errstate(invalid="ignore"):
            found.append(2 * both / (weights @ is_label.astype(np.float64) + weights @ is_answer.astype(np.float64)))
    return np.asarray(np.nanmean(np.stack(found), axis=0))


def _of_values(metric: str, label: Floats, predicted: Floats) -> Weighted:
    if metric == "mae":
        return _mean(np.abs(label - predicted))
    if metric == "poisson_deviance":
        rate = np.maximum(predicted, np.finfo(np.float64).tiny)
        logs = np.where(label > 0, label * np.log(np.maximum(label, np.finfo(np.float64).tiny) / rate), 0.0)
        return _mean(2 * (logs - label + rate))
    squared = _mean((label - predicted) ** 2)
    if metric == "rmse":
        return lambda weights: np.sqrt(squared(weights))
    return partial(_explained, squared, label)


def _explained(squared: Weighted, label: Floats, weights: Floats) -> Floats:
    """The share of the labels' variance that is explained; not finite where a draw has labels of one value."""
    mean, mean_square = _mean(label), _mean(label**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - squared(weights) / (mean_square(weights) - mean(weights) ** 2))


def _of_quantiles(metric: str, task: Quantiles, label: Floats, outputs: Floats) -> Weighted:
    if metric == "coverage":
        return _mean(((outputs[:, 0] <= label) & (label <= outputs[:, -1])).astype(np.float64))
    if metric == "width":
        return _mean(outputs[:, -1] - outputs[:, 0])
    over = label[:, None] - outputs
    levels = np.asarray(task.levels)
    return _mean(np.maximum(levels * over, (levels - 1) * over).mean(axis=1))
