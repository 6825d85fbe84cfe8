"""Fits LightGBM boosters, one for each objective of the task; equal rows give equal bytes.

Fitting takes two passes. The first trains on the older part of the training rows and stops when the metric on the most recent
part (the held-out one) no longer improves; the decision threshold is found on that part as well. The second trains on all training
rows, for the same number of rounds. Determinism needs a fixed seed and number of threads and LightGBM's ``deterministic`` and ``force_row_wise``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asof.errors import UsageError
from asof.instants import parse_span
from asof.quantities import counted
from asof.task import Binary, Task, combined
from asof.training import lightgbm_parameters
from asof.training.model import Decision, Fit, Model

HOLD_OUT_SHARE = 5
"""Without a declared held-out span, one part in this many of the training span is held out."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """What was fitted.

    Attributes:
        task: The task, with its classes.
        texts: The boosters as LightGBM writes them; quantiles have one for each level, other tasks one.
        trees: Number of trees of all boosters.
        parameters: Every parameter that was given to LightGBM; of several objectives the first.
        held_out: bool[n], the training rows that decided when to stop.
        held_out_outputs: float64[h, K], outputs for these rows by the boosters of the first pass, which had not seen them; those of a
            ranking by group.
        importance: Feature -> share of the total gain, greatest first.
    """

    task: Task
    texts: tuple[str, ...]
    trees: int
    parameters: dict[str, Any]
    held_out: npt.NDArray[np.bool_]
    held_out_outputs: Floats
    importance: dict[str, float]

    def predict(self, matrix: Floats) -> Floats:
        """Outputs float64[n, K] of rows float64[n, F]."""
        return combined(self.task, [_predict(_lightgbm().Booster(model_str=text), matrix) for text in self.texts])


@dataclass(frozen=True)
class LearnedRows:
    """Rows to learn from.

    Attributes:
        matrix: float64[n, F].
        label: float64[n].
        groups: int64[n], rising: the group of each row, for a ranking; None for rows that are not ranked.
    """

    matrix: Floats
    label: Floats
    groups: npt.NDArray[np.int64] | None

    @property
    def sizes(self) -> npt.NDArray[np.int64] | None:
        """The number of rows of each group, as LightGBM wants them."""
        return None if self.groups is None else np.unique(self.groups, return_counts=True)[1]

    def part(self, chosen: npt.NDArray[Any]) -> LearnedRows:
        """The chosen rows, by mask or by place."""
        return LearnedRows(
            self.matrix[chosen], self.label[chosen], None if self.groups is None else self.groups[chosen]
        )


def fit(
    model: Model,
    task: Task,
    names: tuple[str, ...],
    matrix: Floats,
    label: Floats,
    time: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64] | None = None,
) -> Fitted:
    """The boosters of ``model``.

    Args:
        model: The declaration.
        task: Its task, with its classes.
        names: Names of the F features.
        matrix: float64[n, F], the training rows; NaN is missing.
        label: float64[n]; for classes their numbers.
        time: int64[n], event times.
        groups: int64[n], the group of each row, for a ranking.

    Raises:
        UsageError: The older or the held-out part has rows of one label only.
        SettingsError: LightGBM has no such parameter, or refuses a value.
    """
    shared = lightgbm_parameters.parameters(model)
    every = [{**shared, **objective} for objective in lightgbm_parameters.objectives(task)]
    held_out = _held_out(model.fit, time)
    _check(task, label, held_out)
    order: Any = slice(None) if groups is None else np.argsort(groups, kind="stable")
    rows, held = LearnedRows(matrix, label, groups).part(order), held_out[order]
    try:
        passes = [_two_passes(parameters, model.fit, names, model.categories, rows, held) for parameters in every]
    except (_lightgbm().basic.LightGBMError, ValueError, TypeError) as error:
        raise lightgbm_parameters.refusal(model, error) from error
    boosters = [final for final, _ in passes]
    return Fitted(
        task=task,
        texts=tuple(final.model_to_string() for final in boosters),
        trees=sum(final.num_trees() for final in boosters),
        parameters=every[0],
        held_out=held_out,
        held_out_outputs=combined(task, [outputs for _, outputs in passes]),
        importance=_importance(boosters, names),
    )


def _two_passes(
    parameters: dict[str, Any],
    declared: Fit,
    names: tuple[str, ...],
    categories: tuple[str, ...],
    rows: LearnedRows,
    held_out: npt.NDArray[np.bool_],
) -> tuple[Any, Floats]:
    """The booster of all rows, and what the booster of the older part gives for the held-out rows."""
    older, held = rows.part(~held_out), rows.part(held_out)
    first = _train(parameters, declared, names, categories, older, held)
    rounds = first.best_iteration or declared.rounds
    final = _train(parameters, Fit(rounds=rounds), names, categories, rows, None)
    return final, _predict(first, held.matrix, num_iteration=rounds)


def _predict(booster: Any, matrix: Floats, **options: Any) -> Floats:
    return np.asarray(booster.predict(matrix, num_threads=1, **options), np.float64)


def decide(rule: Decision, label: Floats, score: Floats, unlabelled: Floats) -> float:
    """The decision threshold: a score at or above it is a positive decision.

    Args:
        rule: How the threshold is found.
        label: float64[n], labels of the held-out rows.
        score: float64[n], their scores.
        unlabelled: float64[m], scores of rows after the training span; for the rule ``share``.
    """
    if rule.rule == "fixed":
        return rule.value
    if rule.rule == "share":
        return float(np.quantile(unlabelled, 1 - rule.value, method="higher"))
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))  # a threshold never cuts equal scores
    hits = np.cumsum(label[order])[last]
    f1 = 2 * hits / (last + 1 + label.sum())
    return float(ordered[last[int(np.argmax(f1))]])


def _held_out(declared: Fit, time: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    first, end = int(time.min()), int(time.max()) + 1
    length = parse_span(declared.hold_out) if declared.hold_out else (end - first) // HOLD_OUT_SHARE
    return np.asarray(time >= end - length)


def _check(task: Task, label: Floats, held_out: npt.NDArray[np.bool_]) -> None:
    for part, rows in (("older", ~held_out), ("held-out", held_out)):
        total = int(rows.sum())
        if len(np.unique(label[rows])) < 2:
            found = (
                f"{counted(int(label[rows].sum()), 'positive')} in {counted(total, 'row')}"
                if isinstance(task, Binary)
                else f"one label in {counted(total, 'row')}"
            )
            raise UsageError(
                f"the {part} part of the training span has {found}, expected some of each kind; "
                "choose a longer training span or another hold_out"
            )


def _train(
    parameters: dict[str, Any],
    declared: Fit,
    names: tuple[str, ...],
    categories: tuple[str, ...],
    rows: LearnedRows,
    held: LearnedRows | None,
) -> Any:
    lightgbm = _lightgbm()
    places = [names.index(name) for name in categories]
    data = lightgbm.Dataset(
        rows.matrix,
        rows.label,
        group=rows.sizes,
        feature_name=_spelled(names),
        categorical_feature=places,
        params=parameters,
    )
    watched = [data.create_valid(held.matrix, held.label, group=held.sizes)] if held is not None else None
    stop = [lightgbm.early_stopping(declared.patience, verbose=False)] if held is not None else None
    return lightgbm.train(parameters, data, declared.rounds, valid_sets=watched, callbacks=stop)


def _spelled(names: Sequence[str]) -> list[str]:
    """Names that LightGBM's text format can hold; where one of them is not, all are told by position."""
    plain = all(re.fullmatch(r"[\w.-]+", name) for name in names)
    return list(names) if plain else [f"feature_{i}" for i in range(len(names))]


def _importance(boosters: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    gain = np.sum([booster.feature_importance("gain") for booster in boosters], axis=0, dtype=np.float64)
    shares = dict(zip(names, (gain / max(gain.sum(), 1e-300)).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _lightgbm() -> Any:
    import lightgbm

    return lightgbm
