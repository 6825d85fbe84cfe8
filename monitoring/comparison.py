"""Compares two samples of a column: the statistics of ``asof drift``.

A difference is called drift when it is both *significant* (it cannot well be chance) and *large* (it matters). Either alone fails:
with half a million rows everything is significant, with few rows everything looks large.

- Significance: Pearson's chi-square test of homogeneity of the two samples' cell counts, corrected for rows that are not independent
  (Rao and Scott's second-order correction, :mod:`asof.statistics.design_effect`). Cells with an expected count below 5 are pooled (W. G. Cochran,
  "Some methods for strengthening the common chi-square tests", Biometrics 10, 1954). The pooled cell may still have a tiny expected count,
  because cells outside the training range and between its values are empty by construction, and Pearson's statistic overstates a single
  value there. So this one cell counts at most what it counts in the statistic of M. F. Freeman and J. W. Tukey ("Transformations related to the angular
  and the square root", Annals of Mathematical Statistics 21, 1950), 4 n m / (n + m) * (sqrt p - sqrt q)^2: a few units for one value,
  forty times as many for forty.
- Correction for many features: Holm's step-down method (S. Holm, "A simple sequentially rejective multiple test procedure",
  Scandinavian Journal of Statistics 6, 1979, 65-70). A single alarm needs attention, so the probability of any false alarm is
  bounded, and features over windows of one history depend on each other in ways that Benjamini and Hochberg's method does not allow.
- Effect: the Hellinger distance of the shares, H^2 = 1 - sum sqrt(p q) (L. Le Cam and G. L. Yang, "Asymptotics in Statistics", 2000), in
  [0, 1]: symmetric, finite for values never seen before (the population stability index is not), and the same for a feature, a score, a
  category or a missing rate. Chance alone makes H^2 about (k - 1) / 8 * (1/n + 1/m) for k cells; this is subtracted. For small shifts
  H^2 is about an eighth of the population stability index, so a distance of 0.1 is about its customary 0.1.
- Small samples: where a drift of the least size that matters would be missed more than one time in five (power of the test
  from the noncentral chi-square distribution with noncentrality 8 H^2 n m / (n + m)), the verdict is ``too few rows`` instead of "no drift".

``benchmarks/drift_study.py`` measures false alarms and power of this code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, ncx2

from asof.statistics.design_effect import DesignEffect

ALPHA = 0.01
"""Chance of any false alarm in one report, over all features together."""

MINIMUM_EFFECT = 0.1
"""Hellinger distance from which a difference matters."""

POWER = 0.8
"""Power to see a drift of the minimum effect that a verdict of "no drift" needs (J. Cohen's convention, 1988)."""

LEAST_ROWS = 30.0
"""Independent rows that each sample needs for the chi-square approximation to hold."""

SPARSE = 5.0
"""Expected count below which a cell is pooled."""

INDEPENDENT = DesignEffect()
"""Rows that are independent of each other."""

Counts = npt.NDArray[np.float64]


class Verdict(StrEnum):
    """What a comparison says. Ordered from worst to best by :data:`SEVERITY`."""

    DRIFT = "drift"
    TOO_FEW = "too few rows"
    SLIGHT = "slight change"
    STABLE = "no drift"


SEVERITY = {verdict: position for position, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Rule:
    """When a difference counts as drift; the names are those of this module's constants."""

    alpha: float = ALPHA
    minimum_effect: float = MINIMUM_EFFECT
    power: float = POWER


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two samples of one column, compared.

    Attributes:
        statistic: Pearson's chi-square, corrected for the design.
        freedom: Its degrees of freedom: cells - 1 after pooling, over 1 + spread.
        p_value: Chance of such a statistic without a difference, before correction.
        effect: Hellinger distance, corrected for chance, in [0, 1].
        reference_rows: Effective number of independent rows in the reference.
        serving_rows: Effective number of independent rows in serving.
        spread: How unevenly clusters inflate the variance, see :class:`asof.statistics.design_effect.DesignEffect`.
    """

    statistic: float
    freedom: float
    p_value: float
    effect: float
    reference_rows: float
    serving_rows: float
    spread: float = 0.0

    @property
    def measurable(self) -> bool:
        """Whether both samples are large enough for the test to mean anything."""
        return min(self.reference_rows, self.serving_rows) >= LEAST_ROWS

    def power(self, effect: float, alpha: float) -> float:
        """The chance that the test at level ``alpha`` sees a true distance of ``effect``."""
        rows = self.reference_rows * self.serving_rows / (self.reference_rows + self.serving_rows)
        freedom = self.freedom or 1.0
        return float(ncx2.sf(chi2.isf(alpha, freedom), freedom, 8 * effect**2 * rows / (1 + self.spread)))


def compare(
    reference: npt.ArrayLike,
    serving: npt.ArrayLike,
    reference_design: DesignEffect = INDEPENDENT,
    serving_design: DesignEffect = INDEPENDENT,
) -> Comparison:
    """Compare the counts of two samples over the same cells.

    Args:
        reference: Counts [k].
        serving: Counts [k].
        reference_design: Design effect on the reference's shares.
        serving_design: Design effect on the shares in serving.
    """
    left, right = np.asarray(reference, np.float64), np.asarray(serving, np.float64)
    if (
        np.count_nonzero(left + right) > 1
    ):  # with one cell for all rows there is neither a difference nor a design effect
        left, right = left / reference_design.effect, right / serving_design.effect
    n, m = float(left.sum()), float(right.sum())
    if not n or not m:
        return Comparison(0.0, 0.0, 1.0, 0.0, n, m)
    # The smaller sample makes most of the variance of the difference, so its spread counts most.
    spread = (reference_design.spread * m + serving_design.spread * n) / (n + m)
    statistic, cells = _chi_square(left, right)
    statistic, freedom = statistic / (1 + spread), (cells - 1) / (1 + spread)
    p_value = float(chi2.sf(statistic, freedom)) if freedom else 1.0
    return Comparison(statistic, freedom, p_value, hellinger(left, right), n, m, spread)


def hellinger(left: Counts, right: Counts) -> float:
    """The Hellinger distance of two samples' shares, corrected for chance; counts in independent rows."""
    n, m = left.sum(), right.sum()
    squared = 1.0 - float(np.sqrt(left / n * right / m).sum())
    chance = (np.count_nonzero(left + right) - 1) / 8 * (1 / n + 1 / m)
    return float(np.sqrt(max(0.0, squared - chance)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted by Holm's method, in the given order: compare them with the level for the whole family."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors))
    back = np.empty(len(p_values))
    back[order] = adjusted
    return [float(value) for value in back]


def judge(comparison: Comparison, adjusted: float, family: int, rule: Rule) -> Verdict:
    """The verdict on one comparison of a family of ``family``, whose p-value Holm's method adjusted to ``adjusted``."""
    if not comparison.measurable:
        return Verdict.TOO_FEW
    if adjusted <= rule.alpha:
        return Verdict.DRIFT if comparison.effect >= rule.minimum_effect else Verdict.SLIGHT
    # Bonferroni's level is what the strictest step of Holm's method asks for.
    seen = comparison.power(rule.minimum_effect, rule.alpha / max(family, 1))
    return Verdict.STABLE if seen >= rule.power else Verdict.TOO_FEW


def _chi_square(left: Counts, right: Counts) -> tuple[float, int]:
    """The statistic and its number of cells, sparse ones pooled into one."""
    n, m = left.sum(), right.sum()
    total = left + right
    sparse = total * min(n, m) / (n + m) < SPARSE
    filled = float(_pearson(left[~sparse], right[~sparse], n, m).sum())
    if not total[sparse].any():
        return filled, int((~sparse).sum())
    rest, rest_serving = left[sparse].sum(), right[sparse].sum()
    tukey = 4 * n * m / (n + m) * (np.sqrt(rest / n) - np.sqrt(rest_serving / m)) ** 2
    return filled + float(min(_pearson(rest, rest_serving, n, m), tukey)), int((~sparse).sum()) + 1


def _pearson(left: Any, right: Any, n: float, m: float) -> Any:
    """What each cell adds to Pearson's statistic of two samples of ``n`` and ``m`` rows."""
    share = (left + right) / (n + m)
    return (left - n * share) ** 2 / (n * share) + (right - m * share) ** 2 / (m * share)
