"""What rows of one key are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof.contract import Contract, Feature
from asof.statistics import design_effect, histograms
from asof.statistics.reference import reference

KEYS = 400


def plain_design(groups: list[int], cells: list[int]) -> tuple[float, float]:
    """The definition, with loops and an eigenvalue routine."""
    seen, names = sorted(set(cells)), sorted(set(groups))
    share = np.array([cells.count(c) / len(cells) for c in seen])
    residuals = []
    for group in names:
        mine = [c for g, c in zip(groups, cells, strict=True) if g == group]
        residuals.append(np.array([mine.count(c) for c in seen]) - len(mine) * share)
    covariance = sum(np.outer(r, r) for r in residuals) * len(names) / (len(names) - 1) / len(cells)
    values = np.linalg.eigvalsh(covariance / np.sqrt(np.outer(share, share)))[1:]
    return values.mean(), values.var() / values.mean() ** 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=2, max_size=60))
def test_the_design_equals_its_definition(rows: list[tuple[int, int]]) -> None:
    """Effect and spread are the mean and the squared variation of the eigenvalues of the clusters' covariance."""
    groups, cells = [g for g, _ in rows], [c for _, c in rows]
    found = design_effect.design_effect(design_effect.dense(np.array(groups)), np.array(cells, np.int64))
    if len(set(groups)) < 2 or len(set(cells)) < 2:
        sizes = [groups.count(g) for g in set(groups)]
        assert found == design_effect.DesignEffect(pytest.approx(sum(s * s for s in sizes) / sum(sizes)))
        return
    effect, spread = plain_design(groups, cells)
    if effect > 1e-9:
        assert found.effect == pytest.approx(max(1.0, effect))
        assert found.spread == pytest.approx(spread, abs=1e-6)


def test_rows_of_their_own_are_worth_a_row_each() -> None:
    """Where every row is its own cluster the effect is 1, and where rows repeat it is their number."""
    rng = np.random.default_rng(1)
    cells = rng.integers(0, 10, 5_000)
    assert design_effect.design_effect(np.arange(5_000), cells).effect == pytest.approx(1.0, abs=0.01)
    repeated = design_effect.design_effect(np.repeat(np.arange(5_000), 7), np.repeat(cells, 7))
    assert repeated.effect == pytest.approx(7.0, rel=0.01)


def test_a_feature_is_measured_under_the_key_that_binds_it() -> None:
    """A column that stays with one of two keys gets that key's design effect, its missing values one of their own."""
    rng = np.random.default_rng(2)
    key, other = np.repeat(np.arange(KEYS), 10), rng.integers(0, KEYS, KEYS * 10)
    columns = {"sticky": np.repeat(rng.normal(size=KEYS), 10), "free": rng.normal(size=KEYS * 10)}
    columns["sticky"][np.isin(key, np.arange(40))] = np.nan
    frozen = histograms.build(columns)
    worth = design_effect.column_effects(
        frozen, histograms.codes(frozen, columns), {"key": key, "other": design_effect.dense(other)}
    )
    assert worth["sticky"].values.effect == pytest.approx(10, rel=0.05)
    assert worth["sticky"].missing.effect == pytest.approx(10, rel=0.05)
    assert worth["free"].values.effect < 1.2
    assert worth["free"].missing.effect >= 10
    assert design_effect.ColumnEffects.from_list(worth["sticky"].to_list()) == worth["sticky"]


def test_a_handful_of_keys_is_no_sample() -> None:
    """Keys of which there are few do not count as clusters."""
    columns = {"x": np.repeat(np.arange(40.0), 100)}
    frozen = histograms.build(columns)
    worth = design_effect.column_effects(
        frozen, histograms.codes(frozen, columns), {"shop": np.repeat(np.arange(40), 100)}
    )
    assert worth["x"].values == design_effect.DesignEffect()


def test_a_sample_holds_whole_keys_within_its_limit() -> None:
    """However long the stream, the sample stays small and every key in it has all its rows."""
    rng = np.random.default_rng(3)
    sample = design_effect.Sample(limit=2_000)
    stream = [rng.integers(0, 3_000, 1_000) for _ in range(30)]
    for batch in stream:
        sample.add(batch, {"x": (batch % 7).astype(np.int32)})
    keys, codes = sample.rows()
    assert len(keys) == len(codes["x"]) <= 2_000
    sizes = np.sort(np.bincount(keys))
    everything = np.bincount(np.concatenate(stream), minlength=3_000)
    assert sizes.sum() > 300
    hashed = design_effect.hashes(np.arange(3_000))
    share = 3_000 // sample.clusters(1)
    kept = np.argsort(hashed % np.uint64(sample.clusters(1)), kind="stable")[: len(sizes)]
    assert sizes.tolist() == np.sort(everything[kept]).tolist()
    assert 0.5 < len(sizes) / share < 1.5


def test_hashes_depend_on_the_key_alone() -> None:
    """Equal keys hash equally in every batch and spelling of the column; texts and missing keys hash too."""
    one, two = design_effect.hashes([5, 7, None, 5]), design_effect.hashes(np.array([7, 5]))
    assert one[0] == one[3] == two[1]
    assert one[1] == two[0]
    assert len(set(design_effect.hashes(["a", "b", None, "a"]).tolist())) == 3


def test_a_reference_says_what_its_rows_are_worth() -> None:
    """The bundle's reference holds histograms of features and scores, design effects and the number of keys."""
    contract = Contract("p", "s", (Feature("x", "v", "x", "float64"), Feature("s", "v", "s", "string")), ())
    rng = np.random.default_rng(4)
    features = {"x": np.repeat(rng.normal(size=100), 4), "s": ["a", "b"] * 200}
    made = reference(contract, features, {"score": rng.random(30)}, {"id": np.repeat(np.arange(100), 4)})
    assert made["features"]["rows"] == 400
    assert made["features"]["columns"]["s"]["categories"] == ["a", "b"]
    assert made["score"]["columns"]["score"]["missing"] == 0
    assert made["keys"] == {"id": 100}
    assert made["design_effects"]["x"][0][0] == pytest.approx(4, rel=0.1)
    assert reference(contract, features, {"score": rng.random(30)})["design_effects"] == {}
