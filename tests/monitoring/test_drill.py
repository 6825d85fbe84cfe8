"""Drills: manipulated copies of a log."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from asof import prediction_log
from asof.errors import NotFoundError, UsageError
from asof.monitoring.comparison import Verdict
from asof.monitoring.drift import drift
from asof.monitoring.drill import ColumnChange, manipulate
from asof.monitoring.observed import END, Log, Window
from asof.monitoring.skew import offline, skew
from tests.monitoring import served


def copy(log: Log, folder: Path, *changes: ColumnChange, share: float = 1.0, seed: int = 0):
    report = manipulate(log, Window(), folder, list(changes), share=share, seed=seed)
    return report, Log(folder, log.bundle)


def rows(log: Log) -> pa.Table:
    tables = prediction_log.scan(log.folder, served.MODEL, 0, END)
    return pa.concat_tables(tables).sort_by([("at", "ascending"), ("request_id", "ascending")])


def test_scaled_requests_ring_the_alarm_in_what_is_computed_from_them(tmp_path: Path) -> None:
    """A third of the amounts times five drifts in the on-demand features of the copy, while the log itself stays quiet."""
    log = served.log(tmp_path, served.rows(6_000, seed=1))
    report, manipulated = copy(log, tmp_path / "drill", ColumnChange("amount", "scale", 5.0), share=1 / 3)
    assert 1_800 < report.changed < 2_200
    assert (report.rows, report.computed, report.kept) == (6_000, ("ratio", "big"), ())
    assert not drift(log, Window()).drifted
    assert drift(manipulated, Window()).named(Verdict.DRIFT) == ["ratio", "big"]


def test_a_copy_is_what_serving_would_have_logged(tmp_path: Path) -> None:
    """On-demand features of changed requests are recomputed, so the offline store agrees with every vector of the copy."""
    log = served.log(tmp_path / "log", served.honest(tmp_path), size=500)
    _, manipulated = copy(log, tmp_path / "drill", ColumnChange("amount", "scale", 3.0), share=0.5)
    before, after = rows(log), rows(manipulated)
    changed = np.asarray(after["request.amount"]) != np.asarray(before["request.amount"])
    assert 0.4 < changed.mean() < 0.6
    assert np.asarray(after["request.amount"])[changed] == pytest.approx(
        3 * np.asarray(before["request.amount"])[changed]
    )
    assert after.drop_columns(["request.amount", "feature.ratio", "feature.big"]).equals(
        before.drop_columns(["request.amount", "feature.ratio", "feature.big"])
    )
    assert skew(manipulated, Window(), offline(log.bundle.contract, tmp_path, log.bundle.code)).mismatches == 0


def test_features_can_shift_vanish_and_change_category(tmp_path: Path) -> None:
    """Adding, removing and replacing act on the chosen rows, and what was removed has the status of a missing value."""
    log = served.log(tmp_path, served.rows(1_000, seed=2), size=500)
    changes = [
        ColumnChange("count_7d", "add", 10),
        ColumnChange("mean_7d", "missing"),
        ColumnChange("segment", "set", "new"),
    ]
    before, after = rows(log), rows(copy(log, tmp_path / "drill", *changes)[1])
    assert after["feature.count_7d"].to_pylist() == [c + 10 for c in before["feature.count_7d"].to_pylist()]
    assert after["feature.mean_7d"].null_count == 1_000
    assert set(after["status.mean_7d"].to_pylist()) == {1}
    assert set(after["feature.segment"].to_pylist()) == {"new"}


def test_the_same_seed_changes_the_same_rows(tmp_path: Path) -> None:
    """Which rows change depends on the seed and the requests' ids alone."""
    log = served.log(tmp_path, served.rows(500, seed=3), size=500)
    change = ColumnChange("count_7d", "add", 1)
    one, same, other = (
        rows(copy(log, tmp_path / name, change, share=0.5, seed=seed)[1])
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.equals(same)
    assert not one.equals(other)


def test_scores_follow_where_the_bundle_has_a_booster(tmp_path: Path) -> None:
    """The copy's scores and decisions are the booster's for the copy's vectors."""
    columns = served.rows(600, seed=4)
    names = ["count_7d", "ratio"]
    matrix = np.column_stack(
        [np.asarray(columns["feature.count_7d"], float), columns["feature.ratio"].to_numpy(zero_copy_only=False)]
    )
    label = np.nan_to_num(matrix[:, 1]) > 1
    data = lightgbm.Dataset(matrix, label.astype(int))
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=5)
    log = served.log(
        tmp_path, columns, size=500, features=names, decision={"threshold": 0.5}, booster=booster.model_to_string()
    )
    after = rows(copy(log, tmp_path / "drill", ColumnChange("amount", "scale", 10.0))[1])
    seen = np.column_stack([np.asarray(after[f"feature.{name}"].to_pylist(), float) for name in names])
    assert np.asarray(after["score"]) == pytest.approx(np.asarray(booster.predict(seen)))
    assert after["decision"].to_pylist() == [score >= 0.5 for score in after["score"].to_pylist()]


def test_features_whose_inputs_are_not_logged_are_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be computed again stays as it was, and the report says so."""
    from dataclasses import replace

    without = tuple(f for f in served.CONTRACT.features if f.name != "mean_7d")
    monkeypatch.setattr(served, "CONTRACT", replace(served.CONTRACT, features=without))
    log = served.log(tmp_path, served.rows(200, seed=5), size=500)
    report, _ = copy(log, tmp_path / "drill", ColumnChange("amount", "scale", 2.0))
    assert (report.computed, report.kept) == ((), ("ratio", "big"))


@pytest.mark.parametrize(
    ("change", "share", "error", "message"),
    [
        (ColumnChange("amuont", "scale", 2.0), 1.0, NotFoundError, "did you mean 'amount'"),
        (ColumnChange("segment", "scale", 2.0), 1.0, UsageError, "does not fit column 'segment' of type string"),
        (ColumnChange("count_7d", "set", "many"), 1.0, UsageError, "does not fit column 'count_7d'"),
        (ColumnChange("amount", "scale", 2.0), 1.5, UsageError, "between 0 and 1"),
    ],
)
def test_a_change_that_cannot_be_is_named(
    tmp_path: Path, change: ColumnChange, share: float, error: type, message: str
) -> None:
    """A mistyped column, a factor for a text and a share above one are one line each."""
    log = served.log(tmp_path, served.rows(50, seed=6), size=500)
    with pytest.raises(error, match=message):
        copy(log, tmp_path / "drill", change, share=share)


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    """The copy goes to an empty folder, so a log cannot be manipulated by mistake."""
    log = served.log(tmp_path, served.rows(50, seed=7), size=500)
    with pytest.raises(UsageError, match="holds a log of 'shop' already"):
        copy(log, log.folder, ColumnChange("amount", "scale", 2.0))
