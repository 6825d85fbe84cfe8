"""Baselines: what a constant and a linear model reach on the same rows, so that a model can be judged beside them.

Both are fitted on the training rows and evaluated on the test rows with the model's own metrics and the same bootstrap draws, so that the
difference has an interval of its own (paired draws).

- ``constant``: the share of positives or of each class, the mean (for the absolute loss the median), the quantiles of the labels, or no
  order at all.
- ``linear``: logistic regression for labels of a kind, Poisson or Tweedie regression for counts and amounts, else ridge regression; for
  quantiles its residuals' quantiles around it. Missing values are the median and have an indicator, categories have a column for each of
  their most frequent values. At most :data:`ROWS` training rows, evenly taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asof.task import COUNTS, Binary, Multiclass, Quantiles, Ranking, Regression, Task

Floats = npt.NDArray[np.float64]

ROWS = 50_000
"""Most training rows of the linear model."""

VALUES = 20
"""Most values of a category that have a column of their own."""

FAR = 10.0
"""Interquartile ranges from the median beyond which a value counts as this far: a single extreme row shall not decide."""

LARGEST = 1e30
"""Numbers beyond this, infinity among them, count as this large."""


def constant(task: Task, label: Floats, rows: int) -> Floats:
    """Outputs float64[rows, K] that are the same for every row, from training labels float64[n]."""
    if isinstance(task, Multiclass):
        given = np.bincount(label.astype(np.int64), minlength=len(task.classes)) / len(label)
    elif isinstance(task, Quantiles):
        given = np.quantile(label, task.levels)
    elif isinstance(task, Ranking):
        given = np.zeros(1)
    else:
        given = np.array(
            [np.median(label) if isinstance(task, Regression) and task.loss == "absolute" else label.mean()]
        )
    return np.tile(given, (rows, 1))


def linear(task: Task, train: Floats, label: Floats, test: Floats, categories: Sequence[int]) -> Floats:
    """Outputs float64[m, K] of a linear model for test rows float64[m, F], fitted on training rows float64[n, F].

    Args:
        task: The task.
        train: Training rows; NaN is missing.
        label: Their labels float64[n].
        test: Test rows.
        categories: Places of the categorical features, whose values are codes.
    """
    step = -(-len(label) // ROWS)
    known, labels = _finite(train[::step]), label[::step]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline that has not converged is still one
        model = _model(task, train.shape[1], categories).fit(known, labels)
        if isinstance(task, Binary | Multiclass):
            return _probabilities(task, model, _finite(test))
        predicted = np.asarray(model.predict(_finite(test)), np.float64)[:, None]
        if isinstance(task, Quantiles):
            predicted = predicted + np.quantile(labels - model.predict(known), task.levels)
    return predicted


def _finite(rows: Floats) -> Floats:
    return np.clip(rows, -LARGEST, LARGEST)


def _clipped(columns: Floats) -> Floats:
    return np.clip(columns, -FAR, FAR)


def _model(task: Task, features: int, categories: Sequence[int]) -> Any:
    """A scikit-learn pipeline: numbers filled and scaled, categories as columns, then a linear model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, RobustScaler

    numbers = [i for i in range(features) if i not in set(categories)]
    filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    scaled = make_pipeline(filled, RobustScaler(), FunctionTransformer(_clipped))
    coded = OneHotEncoder(max_categories=VALUES, handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = ColumnTransformer([("numbers", scaled, numbers), ("categories", coded, list(categories))])
    return make_pipeline(columns, _learner(task))


def _learner(task: Task) -> Any:
    from sklearn import linear_model

    if isinstance(task, Binary | Multiclass):
        return linear_model.LogisticRegression(max_iter=200)
    if isinstance(task, Regression) and task.loss in COUNTS:
        power = task.power if task.loss == "tweedie" else 1.0
        return linear_model.TweedieRegressor(power=power, alpha=1e-3, link="log", max_iter=200)
    return linear_model.Ridge()


def _probabilities(task: Task, model: Any, rows: Floats) -> Floats:
    given = model.predict_proba(rows)
    if isinstance(task, Binary):
        return np.asarray(given[:, [1]], np.float64)
    outputs = np.zeros((len(rows), len(task.outputs)))
    outputs[:, model.classes_.astype(np.int64)] = given  # a class may be missing among the training rows
    return outputs
