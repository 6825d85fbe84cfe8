"""How good scores are, and how sure one can be of it.

Point values of AUC, average precision and log loss come from scikit-learn. Intervals are 95 % percentile intervals of a bootstrap
(B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979) 1-26) that draws whole units (all
rows of one entity) with replacement, because rows of one entity resemble each other; a draw is a vector of weights, so
that nothing is copied and all draws are computed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asof.errors import UsageError
from asof.instants import DAY
from training.model import Metric

DRAWS = 200
"""Bootstrap draws."""

AT_ONCE = 2_000_000
"""Weights that are held at once: so many draws are computed side by side."""

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """n scored rows.

    Attributes:
        label: float64[n], 0 or 1.
        score: float64[n], between 0 and 1.
        time: int64[n], event times in microseconds, UTC.
        entities: Key column -> int64[n], dense codes.
    """

    label: Floats
    score: Floats
    time: Codes
    entities: Mapping[str, Codes]


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's value and its 95 % interval, and what it had to reach."""

    value: float
    low: float
    high: float
    threshold: float | None = None
    reached: bool = True


def evaluate(
    metrics: tuple[Metric, ...], scored: Scored, thresholds: Mapping[str, float], unit: str | None = None, seed: int = 0
) -> dict[str, Figure]:
    """Metric name -> figure.

    Args:
        metrics: What to compute.
        scored: The rows.
        thresholds: Metric name -> what it must reach.
        unit: Key whose rows are drawn together; each row on its own by default.
        seed: Seed of the draws.

    Raises:
        UsageError: All rows have the same label.
    """
    if not 0 < scored.label.sum() < len(scored.label):
        raise UsageError(
            f"the test span has {int(scored.label.sum())} positives in {len(scored.label)} rows, expected some of each kind; "
            "choose a longer test span"
        )
    draws: dict[str, list[Floats]] = {m.name: [] for m in metrics}
    prepared = {m.name: _prepare(m, scored) for m in metrics}
    for weights in _weights(scored, unit, seed):
        for name, compute in prepared.items():
            draws[name].append(compute(weights))
    return {
        m.name: _figure(m, point(m, scored), np.concatenate(draws[m.name]), thresholds.get(m.name)) for m in metrics
    }


def point(metric: Metric, scored: Scored) -> float:
    """The value of ``metric`` on all rows."""
    from sklearn import metrics as reference

    if metric.kind == "auc":
        return float(reference.roc_auc_score(scored.label, scored.score))
    if metric.kind == "average_precision":
        return float(reference.average_precision_score(scored.label, scored.score))
    if metric.kind == "log_loss":
        return float(reference.log_loss(scored.label, scored.score, labels=[0, 1]))
    return float(_precision_at(metric, scored)(np.ones((1, len(scored.label))))[0])


def auc(label: Floats, values: Floats) -> float:
    """Area under the ROC curve of ``values`` (any scale, ties count half); 0.5 where all labels are the same."""
    if not 0 < label.sum() < len(label):
        return 0.5
    return float(_Ranking(label, values).auc(np.ones((1, len(label))))[0])


def _figure(metric: Metric, value: float, drawn: Floats, threshold: float | None) -> Figure:
    usable = drawn[np.isfinite(drawn)]
    low, high = np.percentile(usable, (2.5, 97.5)) if len(usable) else (value, value)
    better = threshold is None or (value <= threshold if metric.smaller_is_better else value >= threshold)
    return Figure(value, float(low), float(high), threshold, bool(better))


def _weights(scored: Scored, unit: str | None, seed: int) -> Iterator[Floats]:
    """float64[draws, n] of weights, a few draws at a time: how often each row's unit was drawn."""
    random = np.random.default_rng(seed)
    rows = len(scored.label)
    codes = scored.entities[unit] if unit else np.arange(rows)
    units = int(codes.max()) + 1
    step = max(1, AT_ONCE // rows)
    for start in range(0, DRAWS, step):
        drawn = [
            np.bincount(random.integers(units, size=units), minlength=units) for _ in range(min(step, DRAWS - start))
        ]
        yield np.stack(drawn)[:, codes].astype(np.float64)


def _prepare(metric: Metric, scored: Scored) -> Callable[[Floats], Floats]:
    """The function from weights float64[draws, n] to values float64[draws]."""
    if metric.kind == "precision_at":
        return _precision_at(metric, scored)
    if metric.kind == "log_loss":
        chosen = np.clip(np.where(scored.label == 1, scored.score, 1 - scored.score), np.finfo(np.float64).eps, 1)
        losses = -np.log(chosen)
        return lambda weights: np.asarray(weights @ losses / weights.sum(axis=1))
    ranking = _Ranking(scored.label, scored.score)
    return ranking.auc if metric.kind == "auc" else ranking.average_precision


class _Ranking:
    """Rows ordered by falling score, equal scores in one group."""

    def __init__(self, label: Floats, score: Floats) -> None:
        self.order = np.argsort(-score, kind="stable")
        ordered = score[self.order]
        self.starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.positive = label[self.order] == 1

    def _grouped(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of positives and of negatives in each group: float64[draws, groups] each."""
        ordered = weights[:, self.order]
        positive = np.add.reduceat(ordered * self.positive, self.starts, axis=1)
        return positive, np.add.reduceat(ordered, self.starts, axis=1) - positive

    def auc(self, weights: Floats) -> Floats:
        """The share of pairs in which the positive scores higher, ties counting half."""
        positive, negative = self._grouped(weights)
        below = negative.sum(axis=1, keepdims=True) - np.cumsum(negative, axis=1) + negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((positive * below).sum(axis=1) / pairs)

    def average_precision(self, weights: Floats) -> Floats:
        """The precision at each positive, averaged (scikit-learn's definition: no interpolation)."""
        positive, negative = self._grouped(weights)
        found, taken = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(taken > 0, found / taken, 0.0)
            return np.asarray((positive * precision).sum(axis=1) / positive.sum(axis=1))


def _precision_at(metric: Metric, scored: Scored) -> Callable[[Floats], Floats]:
    """Precision among the first k entities of each day; those caught on an earlier day are left out.

    Of entities with equal scores the one with the smaller code comes first. An entity drawn twice counts as two entities. On a day
    with fewer than k entities, precision is among those there are.
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
