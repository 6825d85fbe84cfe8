"""Metrics of weighted rows are those of scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from asof.statistics.ranking import ScoreOrder, log_loss


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.2, 0.5, 0.9]), st.integers(0, 3)),
        min_size=4,
        max_size=40,
    ).filter(lambda rows: {label for label, _, weight in rows if weight} == {0, 1})
)
def test_weighted_figures_are_those_of_repeated_rows(rows: list[tuple[int, float, int]]) -> None:
    """A row with weight n counts like n rows, ties included."""
    label, score, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    again = weight.astype(int)
    repeated = np.repeat(label, again), np.repeat(score, again)
    ranking, weights = ScoreOrder(label, score), weight[np.newaxis]
    assert ranking.auc(weights)[0] == pytest.approx(metrics.roc_auc_score(*repeated))
    assert ranking.average_precision(weights)[0] == pytest.approx(metrics.average_precision_score(*repeated))
    assert log_loss(label, score, weights)[0] == pytest.approx(metrics.log_loss(*repeated, labels=[0, 1]))
