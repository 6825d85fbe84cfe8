"""Fits a LightGBM booster; equal rows give equal bytes.

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
from asof.training import lightgbm_parameters
from asof.training.model import Decision, Fit, Model

HOLD_OUT_SHARE = 5
"""Without a declared held-out span, one part in this many of the training span is held out."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """A fitted booster.

    Attributes:
        text: The booster as LightGBM writes it.
        rounds: Number of trees.
        parameters: Every parameter that was given to LightGBM.
        held_out: bool[n], the training rows that decided when to stop.
        held_out_score: float64, scores of these rows by the booster of the first pass, which had not seen them.
        importance: Feature -> share of the total gain, greatest first.
    """

    text: str
    rounds: int
    parameters: dict[str, Any]
    held_out: npt.NDArray[np.bool_]
    held_out_score: Floats
    importance: dict[str, float]

    def predict(self, matrix: Floats) -> Floats:
        """Scores float64[n] of rows float64[n, F]."""
        return np.asarray(_booster(self.text).predict(matrix, num_threads=1), np.float64)


def fit(model: Model, names: tuple[str, ...], matrix: Floats, label: Floats, time: npt.NDArray[np.int64]) -> Fitted:
    """A booster for ``model``.

    Args:
        model: The declaration.
        names: Names of the F features.
        matrix: float64[n, F], the training rows; NaN is missing.
        label: float64[n], 0 or 1.
        time: int64[n], event times.

    Raises:
        UsageError: The older or the held-out part has rows of one label only.
        SettingsError: LightGBM has no such parameter, or refuses a value.
    """
    parameters = lightgbm_parameters.parameters(model)
    held_out = _held_out(model.fit, time)
    _check(label, held_out)
    try:
        first = _train(
            parameters, model.fit, names, (matrix[~held_out], label[~held_out]), (matrix[held_out], label[held_out])
        )
        rounds = first.best_iteration or model.fit.rounds
        held_out_score = np.asarray(first.predict(matrix[held_out], num_iteration=rounds, num_threads=1), np.float64)
        final = _train(parameters, Fit(rounds=rounds), names, (matrix, label), None)
    except (_lightgbm().basic.LightGBMError, ValueError, TypeError) as error:
        raise lightgbm_parameters.refusal(model, error) from error
    return Fitted(
        final.model_to_string(), final.num_trees(), parameters, held_out, held_out_score, _importance(final, names)
    )


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


def _check(label: Floats, held_out: npt.NDArray[np.bool_]) -> None:
    for part, rows in (("older", ~held_out), ("held-out", held_out)):
        positives, total = int(label[rows].sum()), int(rows.sum())
        if not 0 < positives < total:
            raise UsageError(
                f"the {part} part of the training span has {positives} positives in {total} rows, expected some of each kind; "
                "choose a longer training span or another hold_out"
            )


def _train(
    parameters: dict[str, Any],
    declared: Fit,
    names: tuple[str, ...],
    rows: tuple[Floats, Floats],
    held: tuple[Floats, Floats] | None,
) -> Any:
    lightgbm = _lightgbm()
    data = lightgbm.Dataset(rows[0], rows[1], feature_name=_spelled(names), params=parameters)
    watched = [data.create_valid(*held)] if held is not None else None
    stop = [lightgbm.early_stopping(declared.patience, verbose=False)] if held is not None else None
    return lightgbm.train(parameters, data, declared.rounds, valid_sets=watched, callbacks=stop)


def _spelled(names: Sequence[str]) -> list[str]:
    """Names that LightGBM's text format can hold; where one of them is not, all are told by position."""
    plain = all(re.fullmatch(r"[\w.-]+", name) for name in names)
    return list(names) if plain else [f"feature_{i}" for i in range(len(names))]


def _importance(booster: Any, names: Sequence[str]) -> dict[str, float]:
    gain = np.asarray(booster.feature_importance("gain"), np.float64)
    shares = dict(zip(names, (gain / max(gain.sum(), 1e-300)).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _booster(text: str) -> Any:
    return _lightgbm().Booster(model_str=text)


def _lightgbm() -> Any:
    import lightgbm

    return lightgbm
