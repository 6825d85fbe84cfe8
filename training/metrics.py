"""Metrics of a model on its test rows, each with a 95 % interval and the threshold that it has to reach.

The metrics are those of :mod:`asof.statistics.metrics` and ``precision_at``, intervals come from :mod:`asof.statistics.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from asof.errors import UsageError
from asof.instants import DAY
from asof.quantities import counted
from asof.statistics.intervals import drawn_weights, interval
from asof.statistics.metrics import prepare
from asof.statistics.ranking import ScoreOrder
from asof.task import Binary, Task
from asof.training.model import PRECISION_AT, Metric

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


MODEL = ""
"""Stands for the model among the baselines."""

PAIRED = 50_000
"""Rows whose pairs are looked at."""


@dataclass(frozen=True)
class Scored:
    """n rows with what the model gave for them.

    Attributes:
        task: The task, with its classes.
        label: float64[n]; for classes their numbers.
        outputs: float64[n, K].
        time: int64[n], event times in microseconds, UTC.
        groups: int64[n], the group of each row, of a ranking.
        entities: Key column -> int64[n], dense codes.
    """

    task: Task
    label: Floats
    outputs: Floats
    time: Codes
    entities: Mapping[str, Codes]
    groups: Codes | None = None

    @property
    def score(self) -> Floats:
        """The one number that stands for each row's outputs: float64[n]."""
        return self.task.score(self.outputs)


@dataclass(frozen=True, slots=True)
class MetricResult:
    """The value of a metric, its 95 % interval and its threshold."""

    value: float
    low: float
    high: float
    threshold: float | None = None
    reached: bool = True


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """A metric of a baseline, and how much better the model is: the 95 % interval of the difference, over the same draws of rows.

    The difference is positive where the model is better.
    """

    value: float
    low: float
    high: float

    @property
    def beaten(self) -> bool:
        """Whether the model is better beyond chance."""
        return self.low > 0


def evaluate(
    metrics: tuple[Metric, ...], scored: Scored, thresholds: Mapping[str, float], unit: str | None = None, seed: int = 0
) -> dict[str, MetricResult]:
    """Metric name -> result; see :func:`evaluate_beside`."""
    return evaluate_beside(metrics, scored, {}, thresholds, unit, seed)[0]


def evaluate_beside(
    metrics: tuple[Metric, ...],
    scored: Scored,
    baselines: Mapping[str, Floats],
    thresholds: Mapping[str, float],
    unit: str | None = None,
    seed: int = 0,
) -> tuple[dict[str, MetricResult], dict[str, dict[str, BaselineResult]]]:
    """The results of a model by metric, and those of baselines by baseline and metric.

    Args:
        metrics: The metrics to compute.
        scored: The rows.
        baselines: Baseline -> its outputs float64[n, K] for the same rows.
        thresholds: Metric name -> threshold.
        unit: Key whose rows are drawn together; each row on its own by default.
        seed: Seed of the draws.

    Raises:
        UsageError: All rows have the same label.
    """
    if len(np.unique(scored.label)) < 2:
        binary = isinstance(scored.task, Binary)
        found = counted(int(scored.label.sum()), "positive") if binary else "one label"
        raise UsageError(
            f"the test span has {found} in {counted(len(scored.label), 'row')}, expected some of each kind; choose a longer test span"
        )
    every = {MODEL: scored, **{name: replace(scored, outputs=outputs) for name, outputs in baselines.items()}}
    prepared = {(who, m.name): _prepare(m, rows) for who, rows in every.items() for m in metrics}
    draws: dict[tuple[str, str], list[Floats]] = {one: [] for one in prepared}
    alone = np.arange(len(scored.label)) if scored.groups is None else scored.groups
    units = scored.entities[unit] if unit else alone
    for weights in drawn_weights(units, seed):
        for one, compute in prepared.items():
            draws[one].append(compute(weights))
    drawn = {one: np.concatenate(found) for one, found in draws.items()}
    figures = {m.name: _figure(m, point(m, scored), drawn[MODEL, m.name], thresholds.get(m.name)) for m in metrics}
    return figures, {
        who: {
            m.name: _beside(m, figures[m.name].value, point(m, every[who]), drawn[MODEL, m.name] - drawn[who, m.name])
            for m in metrics
        }
        for who in baselines
    }


def point(metric: Metric, scored: Scored) -> float:
    """The value of ``metric`` on all rows."""
    return float(_prepare(metric, scored)(np.ones((1, len(scored.label))))[0])


def auc(label: Floats, values: Floats) -> float:
    """Area under the ROC curve of ``values`` (any scale, ties count half); 0.5 where all labels are the same."""
    if not 0 < label.sum() < len(label):
        return 0.5
    return float(ScoreOrder(label, values).auc(np.ones((1, len(label))))[0])


def concordance(label: Floats, values: Floats) -> float:
    """The share of pairs of rows that ``values`` puts in the order of their labels, ties counting half: AUC for any numbers as labels.

    It is (1 + tau) / 2 with Kendall's tau-b (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945)
    239-251), on at most :data:`PAIRED` rows.
    """
    from scipy.stats import kendalltau

    step = -(-len(label) // PAIRED)
    tau = float(kendalltau(label[::step], values[::step]).statistic)
    return 0.5 if np.isnan(tau) else (1 + tau) / 2


def _beside(metric: Metric, model: float, baseline: float, differences: Floats) -> BaselineResult:
    sign = -1 if metric.smaller_is_better else 1
    low, high = interval(sign * (model - baseline), sign * differences)
    return BaselineResult(baseline, low, high)


def _figure(metric: Metric, value: float, drawn: Floats, threshold: float | None) -> MetricResult:
    low, high = interval(value, drawn)
    better = threshold is None or (value <= threshold if metric.smaller_is_better else value >= threshold)
    return MetricResult(value, low, high, threshold, bool(better))


def _prepare(metric: Metric, scored: Scored) -> Callable[[Floats], Floats]:
    """The function from weights float64[draws, n] to values float64[draws]."""
    if metric.kind == PRECISION_AT:
        return _precision_at(metric, scored)
    return prepare(metric.kind, scored.task, scored.label, scored.outputs, scored.groups)


def _precision_at(metric: Metric, scored: Scored) -> Callable[[Floats], Floats]:
    """Precision among the first k entities of each day, without those found on an earlier day.

    Of entities with equal scores the one with the smaller code comes first. An entity drawn twice counts as two entities. A day
    with fewer than k entities counts all of them.
    """
    codes = scored.entities[metric.key]
    entities = int(codes.max()) + 1
    days = [_ranked_day(codes[rows], scored.score[rows], scored.label[rows], rows) for rows in _by_day(scored.time)]

    def compute(weights: Floats) -> Floats:
        caught = np.zeros((len(weights), entities))
        precision = np.full((len(weights), len(days)), np.nan)
        for position, (entity, positive, row) in enumerate(days):
            weight = weights[:, row] - caught[:, entity]
            taken = np.clip(metric.k - (np.cumsum(weight, axis=1) - weight), 0, weight)
            with np.errstate(invalid="ignore"):
                precision[:, position] = (taken @ positive) / taken.sum(axis=1)
            caught[:, entity] += taken * positive
        return _mean_over_days(precision)

    return compute


def _mean_over_days(precision: Floats) -> Floats:
    present = np.isfinite(precision)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, precision, 0.0).sum(axis=1) / present.sum(axis=1))


def _by_day(time: Codes) -> Iterator[Codes]:
    """Row numbers of each day (UTC) that has rows, in order."""
    day = time // DAY
    order = np.argsort(day, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(day[order])) + 1)


def _ranked_day(codes: Codes, score: Floats, label: Floats, rows: Codes) -> tuple[Codes, Floats, Codes]:
    """Entities of one day by falling highest score; whether each has a positive that day; one row of each (for its weight)."""
    entity, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    highest, positive = np.full(len(entity), -np.inf), np.zeros(len(entity))
    np.maximum.at(highest, inverse, score)
    np.maximum.at(positive, inverse, label)
    order = np.argsort(-highest, kind="stable")
    return entity[order], positive[order], rows[first[order]]
