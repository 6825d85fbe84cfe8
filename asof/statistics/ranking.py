"""Metrics of scored rows with binary labels, for many weightings of the rows at once.

Ties of the score count as scikit-learn counts them: half in the area under the ROC curve, as one threshold in the average precision.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class ScoreOrder:
    """Rows ordered by falling score, equal scores in one group; sorted once for all weightings.

    Args:
        label: float64[n], 0 or 1.
        score: float64[n], any scale.
    """

    def __init__(self, label: Floats, score: Floats) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._positive = label[self._order] == 1

    def auc(self, weights: Floats) -> Floats:
        """Area under the ROC curve: the share of pairs in which the positive scores higher; ties count half.

        Args:
            weights: float64[draws, n].

        Returns:
            float64[draws]; NaN where all weight is on one label.
        """
        positive, negative = self._grouped(weights)
        below = negative.sum(axis=1, keepdims=True) - np.cumsum(negative, axis=1) + negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((positive * below).sum(axis=1) / pairs)

    def average_precision(self, weights: Floats) -> Floats:
        """The mean of the precision at each positive (scikit-learn's definition: no interpolation); shapes as :meth:`auc`."""
        positive, negative = self._grouped(weights)
        found, taken = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(taken > 0, found / taken, 0.0)
            return np.asarray((positive * precision).sum(axis=1) / positive.sum(axis=1))

    def _grouped(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of positives and of negatives in each group of equal scores: float64[draws, groups] each."""
        ordered = weights[:, self._order]
        positive = np.add.reduceat(ordered * self._positive, self._starts, axis=1)
        return positive, np.add.reduceat(ordered, self._starts, axis=1) - positive


def log_loss(label: Floats, score: Floats, weights: Floats) -> Floats:
    """Mean logarithmic loss of probabilities: float64[draws]; certainty is clipped as scikit-learn clips it.

    Args:
        label: float64[n], 0 or 1.
        score: float64[n], between 0 and 1.
        weights: float64[draws, n].
    """
    chosen = np.clip(np.where(label == 1, score, 1 - score), np.finfo(np.float64).eps, 1)
    return np.asarray(weights @ -np.log(chosen) / weights.sum(axis=1))
