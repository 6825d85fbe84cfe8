"""Metrics of a model's outputs against labels, for many weightings of the rows at once.

Training evaluates test rows with them, monitoring served rows. A weighting is a bootstrap draw (:mod:`asof.statistics.intervals`);
equal weights give the metric itself. The definitions are scikit-learn's, under the names that its users know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from asof.statistics.ranking import Ranking, log_loss
from asof.task import COUNTS, Quantiles, Regression, Task

Floats = npt.NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""From weights float64[draws, n] to values float64[draws]."""

METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "average_precision", "log_loss"),
    "multiclass": ("log_loss", "accuracy", "f1_macro"),
    "regression": ("rmse", "mae", "r2", "poisson_deviance"),
    "quantiles": ("pinball_loss", "coverage", "width"),
}
"""Kind of task -> its metrics."""

FOR_COUNTS = frozenset({"poisson_deviance"})
"""Metrics of labels that are never negative."""

SMALLER_IS_BETTER = frozenset({"log_loss", "rmse", "mae", "poisson_deviance", "pinball_loss", "width"})


def default_metrics(task: Task) -> tuple[str, ...]:
    """The metrics of a task that fit its labels."""
    counts = isinstance(task, Regression) and task.loss in COUNTS
    return tuple(name for name in METRICS[task.kind] if counts or name not in FOR_COUNTS)


def prepare(metric: str, task: Task, label: Floats, outputs: Floats) -> Weighted:
    """The function that computes ``metric`` for weightings of the rows.

    Args:
        metric: A metric of the task's kind, see :data:`METRICS`.
        task: The task.
        label: float64[n]; for classes their numbers.
        outputs: float64[n, K], what the model gave.
    """
    if task.kind == "binary":
        if metric == "log_loss":
            return partial(log_loss, label, outputs[:, 0])
        ranking = Ranking(label, outputs[:, 0])
        return ranking.auc if metric == "auc" else ranking.average_precision
    if task.kind == "multiclass":
        return _of_classes(metric, label.astype(np.int64), outputs)
    if isinstance(task, Quantiles):
        return _of_quantiles(metric, task, label, outputs)
    return _of_values(metric, label, outputs[:, 0])


def value(metric: str, task: Task, label: Floats, outputs: Floats) -> float:
    """``metric`` on all rows."""
    return float(prepare(metric, task, label, outputs)(np.ones((1, len(label))))[0])


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
    mean, mean_square = _mean(label), _mean(label**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return lambda weights: 1 - squared(weights) / (mean_square(weights) - mean(weights) ** 2)


def _of_quantiles(metric: str, task: Quantiles, label: Floats, outputs: Floats) -> Weighted:
    if metric == "coverage":
        return _mean(((outputs[:, 0] <= label) & (label <= outputs[:, -1])).astype(np.float64))
    if metric == "width":
        return _mean(outputs[:, -1] - outputs[:, 0])
    over = label[:, None] - outputs
    levels = np.asarray(task.levels)
    return _mean(np.maximum(levels * over, (levels - 1) * over).mean(axis=1))
