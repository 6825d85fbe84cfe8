"""The booster behind LightGBM's C interface is LightGBM."""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asof.errors import BundleError
from asof.serving.booster import Booster
from tests.serving.bundles import train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Booster, lgb.Booster]:
    """The same model, read by this package and by LightGBM's own."""
    path = tmp_path_factory.mktemp("model") / "model.txt"
    train(5).save_model(path)
    return Booster(path), lgb.Booster(model_file=path)


@settings(max_examples=50)
@given(st.lists(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)), min_size=5, max_size=5), max_size=20))
def test_scores_are_lightgbms_own(model: tuple[Booster, lgb.Booster], rows: list[list[float]]) -> None:
    """Every score equals, to the last bit, what LightGBM's Python package says of the same row."""
    matrix = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
    expected = model[1].predict(matrix, num_threads=1) if rows else np.empty(0)
    np.testing.assert_array_equal(model[0].predict(matrix), expected)


def test_a_transposed_matrix_is_read_right(model: tuple[Booster, lgb.Booster]) -> None:
    """The memory layout of the matrix does not matter."""
    matrix = np.asfortranarray(np.random.default_rng(0).normal(5, 3, (30, 5)))
    np.testing.assert_array_equal(model[0].predict(matrix), model[1].predict(matrix, num_threads=1))


def test_a_matrix_of_another_width_is_refused(model: tuple[Booster, lgb.Booster]) -> None:
    """A missing feature column is an error, not a score."""
    with pytest.raises(BundleError, match="reads 5 features"):
        model[0].predict(np.zeros((1, 4)))


@pytest.mark.parametrize("text", ["", "not a model", "tree\nversion=v4\n"])
def test_text_that_is_no_model_is_refused(tmp_path: Path, text: str) -> None:
    """A damaged model file is one error line, not a crash of the process."""
    (tmp_path / "model.txt").write_text(text)
    with pytest.raises(BundleError, match=r"LightGBM refused|scores for each row"):
        Booster(tmp_path / "model.txt").predict(np.zeros((1, 1)))


def test_a_model_of_classes_gives_one_number_for_each(tmp_path: Path) -> None:
    """A model of three classes gives the probabilities that LightGBM's Python package gives, a column for each class."""
    x = np.random.default_rng(0).normal(size=(90, 2))
    options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    lgb.train(options, lgb.Dataset(x, np.arange(90) % 3), 2).save_model(tmp_path / "model.txt")
    found, expected = Booster(tmp_path / "model.txt"), lgb.Booster(model_file=tmp_path / "model.txt")
    assert found.width == 3
    np.testing.assert_array_equal(found.predict(x), expected.predict(x, num_threads=1))
