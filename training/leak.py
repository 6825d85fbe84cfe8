"""Leak checks of a dataset and a model.

A leak is a value in a row that was not known at the row's moment. It makes a model look better than it will be in use. Four checks
look for leaks, none of which needs to know what the rows are about:

- **label delay**: a label that may be used, or that a window contains, sooner after its event than the model declares;
- **own label**: a window that contains the row's own label at the row's own moment;
- **law**: features that change when they are computed again with knowledge time on;
- **suspicion**: a test score, or a single feature, that separates the labels better than the declaration's limits.

Each finding is one line: what was found, what was expected, where to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asof.contract import Contract, View
from asof.instants import format_span
from asof.quantities import about_span, counted
from asof.training import metrics
from asof.training.dataset import Labelled, Tables
from asof.training.model import Model

TOLERANCE = 1e-9
"""Relative difference up to which two values are the same (the parity law's)."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A finding."""

    kind: Literal["label delay", "own label", "law", "suspicion"]
    line: str


def label_delay(tables: Tables, labelled: Labelled) -> Iterator[Leak]:
    """Labels that are known sooner than the model declares."""
    model, table = tables.model, tables.labels.source
    readers = readers_of_label(tables)
    found = [("may be used", labelled.usable - labelled.time, f"look at the label_time of model {model.name!r}")]
    if readers:
        names = ", ".join(sorted(v.name for v in readers))
        found.append((f"enter {names}", labelled.seen - labelled.time, f"look at the times of source {table!r}"))
    for what, delay, where in found:
        early = int((delay < model.delay).sum())
        if early:
            yield Leak(
                "label delay",
                f"{early:,} of {counted(len(delay), 'label')} of {table!r} {what} sooner than {format_span(model.delay)} after their event, "
                f"the soonest after {about_span(max(0, int(delay.min())))}; {where}",
            )
    own = int((labelled.seen <= labelled.time).sum()) if readers else 0
    if own:
        yield Leak(
            "own label",
            f"{own:,} of {counted(len(labelled), 'row')} find their own label in a window at their own moment; give it a later time",
        )


def readers_of_label(tables: Tables) -> list[View]:
    """The views of the contract that read the label's column from the label's table."""
    return [
        v for v in tables.contract.views if v.source.name == tables.labels.source and _reads(v, tables.model.rows.label)
    ]


def _reads(view: View, column: str) -> bool:
    used = view.event_columns if view.windowed else tuple(f.name for f in view.features)
    return column in {view.source.column(name) for name in used}


def law(tables: Tables, labelled: Labelled, features: pa.Table, sample: npt.NDArray[np.int64]) -> Iterator[Leak]:
    """Features that change when the rows of ``sample`` (row numbers) are computed again, alone, with knowledge time on."""
    again = tables.features(labelled.rows.take(pa.array(sample)))
    before = features.take(pa.array(sample))
    changed = {name: int(differs(before[name], again[name]).sum()) for name in features.column_names}
    worst = {name: count for name, count in sorted(changed.items(), key=lambda item: (-item[1], item[0])) if count}
    if worst:
        listed = ", ".join(f"{name} ({count:,})" for name, count in list(worst.items())[:3])
        yield Leak(
            "law",
            f"{len(worst)} of {counted(len(changed), 'feature')} change when {counted(len(sample), 'row')} are computed again with knowledge time on: {listed}; "
            "the dataset saw what was not known yet, make it with `asof dataset`",
        )


def differs(before: pa.ChunkedArray, again: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """bool[n]: whether the values differ by more than the tolerance; missing equals missing."""
    if not (pa.types.is_integer(before.type) or pa.types.is_floating(before.type)):
        return np.array([a != b for a, b in zip(before.to_pylist(), again.to_pylist(), strict=True)], bool)
    left, right = (np.asarray(column.cast(pa.float64()).to_numpy(), np.float64) for column in (before, again))
    missing = np.isnan(left) | np.isnan(right)
    apart = np.abs(left - right) > TOLERANCE * np.maximum(1.0, np.maximum(np.abs(left), np.abs(right)))
    return np.where(missing, np.isnan(left) != np.isnan(right), apart)


def suspicion(model: Model, contract: Contract, scored: metrics.Scored, features: pa.Table) -> Iterator[Leak]:
    """Scores and features that separate the n rows of the test span too well.

    For classes, a score's AUC is the mean over classes of one against the rest, a feature's the greatest of these; for other numbers it
    is :func:`asof.training.metrics.concordance`.

    Args:
        model: The model, with its limits.
        contract: Its contract.
        scored: The rows.
        features: Their features.
    """
    limit = model.suspicion
    reached = _separation(scored)
    if reached >= limit.auc:
        yield Leak(
            "suspicion",
            f"the test AUC is {reached:.4f}, and model {model.name!r} takes {limit.auc} and more for a leak; find the feature that "
            "knows the label, or raise suspicion.auc with a reason",
        )
    for feature in contract.features:
        alone = _alone(features[feature.name], scored) if feature.numeric else 0.5
        if alone >= limit.feature_auc:
            yield Leak(
                "suspicion",
                f"feature {feature.name!r} alone has an AUC of {alone:.4f}, and model {model.name!r} takes {limit.feature_auc} and more "
                "for a leak; check what it is made of and when that is known",
            )


def _separation(scored: metrics.Scored) -> float:
    if scored.task.kind == "multiclass":
        return float(
            np.mean([metrics.auc(one, scored.outputs[:, i]) for i, one in enumerate(_one_against_rest(scored))])
        )
    return _ordered(scored, scored.score)


def _alone(column: pa.ChunkedArray, scored: metrics.Scored) -> float:
    """AUC of one feature in its better direction, missing values ranked lowest."""
    values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    ranked = np.where(np.isnan(values), -np.inf, values)
    many = scored.task.kind == "multiclass"
    every = [metrics.auc(one, ranked) for one in _one_against_rest(scored)] if many else [_ordered(scored, ranked)]
    return max(max(found, 1 - found) for found in every)


def _ordered(scored: metrics.Scored, values: npt.NDArray[np.float64]) -> float:
    measure = metrics.auc if scored.task.kind == "binary" else metrics.concordance
    return measure(scored.label, values)


def _one_against_rest(scored: metrics.Scored) -> list[npt.NDArray[np.float64]]:
    return [(scored.label == i).astype(np.float64) for i in range(len(scored.task.outputs))]
