"""Drift reports over prediction logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from asof import prediction_log
from asof.errors import NotFoundError
from asof.instants import DAY
from asof.monitoring.comparison import Rule, Verdict
from asof.monitoring.drift import drift
from asof.monitoring.observed import Log, Window
from tests.monitoring import served


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    served.train(folder / "models")
    return folder


def logged(trained: Path, tmp_path: Path, columns: dict) -> Log:
    served.serve(tmp_path, columns)
    from asof.bundle import Bundle

    return Log(tmp_path, Bundle.find(trained / "models", served.MODEL))


def verdicts(report) -> dict[str, Verdict]:
    return {column.name: column.verdict for column in report.columns}


def test_a_week_like_the_training_rows_is_no_drift(trained: Path, tmp_path: Path) -> None:
    """Rows of the same process give no drift in any feature, missing rate or score."""
    report = drift(logged(trained, tmp_path, served.rows(10_000, seed=1)), Window())
    assert set(verdicts(report).values()) == {Verdict.STABLE}
    assert (report.rows, report.reference_rows, report.drifted) == (10_000, 20_000, False)
    assert report.advice == ("Nothing to do.",)
    assert len(report.columns) == 6


def test_scaled_amounts_are_found_where_they_act(trained: Path, tmp_path: Path) -> None:
    """Amounts times five in a third of the rows drift in the features that they enter, worst first, and nowhere else."""
    columns = served.rows(10_000, seed=2)
    third = np.random.default_rng(0).random(10_000) < 1 / 3
    columns["request.amount"] = np.where(third, columns["request.amount"] * 5, columns["request.amount"])
    columns["feature.ratio"] = pa.array(
        columns["request.amount"] / columns["feature.mean_7d"].to_numpy(zero_copy_only=False), from_pandas=True
    )
    report = drift(logged(trained, tmp_path, columns), Window())
    assert report.named(Verdict.DRIFT) == ["ratio"]
    assert report.columns[0].name == "ratio"
    assert report.columns[0].worst.comparison.effect > 0.2
    assert "Different values: ratio" in report.advice[0]
    assert ">=" in report.columns[0].change


def test_a_feed_that_stopped_shows_as_missing_and_stale(trained: Path, tmp_path: Path) -> None:
    """Withheld values are told apart from changed ones, and the advice names the view that is no longer fed."""
    columns = served.rows(10_000, seed=3)
    stale = np.random.default_rng(0).random(10_000) < 0.2
    columns["feature.segment"] = pa.array(columns["feature.segment"], mask=stale)
    columns["status.segment"] = np.where(stale, 2, 0).astype(np.uint8)
    report = drift(logged(trained, tmp_path, columns), Window())
    assert report.named(Verdict.DRIFT) == ["segment"]
    assert report.columns[0].worst.measure == "missing"
    assert report.columns[0].statuses["stale"] == pytest.approx(stale.mean())
    assert any("still fed" in line and "people" in line for line in report.advice)


def test_scores_are_compared_too(trained: Path, tmp_path: Path) -> None:
    """A model that scores differently is drift of the score, whatever its features."""
    columns = served.rows(5_000, seed=4)
    columns["score"] = columns["score"] ** 0.5
    report = drift(logged(trained, tmp_path, columns), Window())
    assert report.named(Verdict.DRIFT) == ["score"]
    assert any("threshold" in line for line in report.advice)


def test_a_new_category_is_drift_and_finite(trained: Path, tmp_path: Path) -> None:
    """Values that training never saw are counted, and their effect is a number."""
    columns = served.rows(5_000, seed=5)
    columns["feature.segment"] = np.where(np.arange(5_000) % 5 == 0, "new", columns["feature.segment"])
    report = drift(logged(trained, tmp_path, columns), Window())
    assert report.named(Verdict.DRIFT) == ["segment"]
    assert "(other)" in report.columns[0].change
    assert 0.1 < report.columns[0].worst.comparison.effect < 1


def test_few_rows_get_no_verdict(trained: Path, tmp_path: Path) -> None:
    """Sixty predictions say nothing about most features, and the report says so rather than `no drift`."""
    report = drift(logged(trained, tmp_path, served.rows(60, seed=6)), Window())
    assert set(verdicts(report).values()) == {Verdict.TOO_FEW}
    assert not report.drifted
    assert "widen the window" in report.advice[-1]


def test_rows_of_a_handful_of_keys_get_no_verdict(trained: Path, tmp_path: Path) -> None:
    """Thousands of rows of ten customers do not speak for two thousand customers, and the report says that this is why."""
    columns = served.rows(20_000, seed=7)
    kept = np.flatnonzero(columns["key.customer_id"] < 10)
    few = {
        name: values.take(pa.array(kept)) if isinstance(values, pa.Array) else np.asarray(values)[kept]
        for name, values in columns.items()
    }
    report = drift(logged(trained, tmp_path, few), Window())
    assert set(verdicts(report).values()) == {Verdict.TOO_FEW}
    assert re.match(
        r"Only (9|10) values of customer_id were served, of \d+ in training: .* widen the window", report.advice[-1]
    )


def test_the_window_is_of_the_requests_own_time(trained: Path, tmp_path: Path) -> None:
    """Only rows whose moment lies in the window count, its end excluded."""
    columns = served.rows(5_000, seed=8)
    log = logged(trained, tmp_path, columns)
    window = Window(served.START + DAY, served.START + 2 * DAY)
    report = drift(log, window)
    assert report.rows == int(((columns["at"] >= window.start) & (columns["at"] < window.end)).sum())
    assert window.start <= report.first <= report.last < window.end
    assert str(window) == "2024-05-07T00:00:00Z to 2024-05-08T00:00:00Z"
    assert report.to_dict()["window"] == {"from": "2024-05-07T00:00:00Z", "to": "2024-05-08T00:00:00Z"}
    assert Window().to_dict() == {"from": None, "to": None}


def test_an_empty_window_says_so(trained: Path, tmp_path: Path) -> None:
    """No predictions is an answer, not an error."""
    report = drift(logged(trained, tmp_path, served.rows(100, seed=9)), Window(0, DAY))
    assert (report.rows, report.first, report.drifted) == (0, None, False)
    assert "no predictions" in report.summary


def test_other_versions_and_damaged_files_are_left_out(trained: Path, tmp_path: Path) -> None:
    """Rows of another version do not count, and a truncated file is named in the report."""
    log = logged(trained, tmp_path, served.rows(500, seed=10))
    served.serve(tmp_path, served.rows(300, seed=11), version="v0")
    file = prediction_log.files(tmp_path, served.MODEL, *_everything())[0]
    (file.parent / "part-damaged.parquet").write_bytes(file.read_bytes()[:100])
    report = drift(log, Window())
    assert report.rows == 500
    assert len(report.problems) == 1
    assert "part-damaged.parquet" in report.problems[0]


def _everything() -> tuple[int, int]:
    return Window().start, Window().end


def test_a_log_that_does_not_exist_is_named(trained: Path, tmp_path: Path) -> None:
    """Asking for a log that nobody wrote is an error that lists the logs there are."""
    log = logged(trained, tmp_path, served.rows(10, seed=12))
    with pytest.raises(NotFoundError, match=r"no prediction log in .* named 'shop'"):
        drift(Log(tmp_path / "elsewhere", log.bundle), Window())


def test_the_minimum_effect_decides_between_slight_and_drift(trained: Path, tmp_path: Path) -> None:
    """The same significant change is slight or drift depending on the least effect that matters."""
    columns = served.rows(20_000, seed=13)
    columns["score"] = columns["score"] * 1.1
    log = logged(trained, tmp_path, columns)
    assert verdicts(drift(log, Window()))["score"] == Verdict.SLIGHT
    assert verdicts(drift(log, Window(), Rule(minimum_effect=0.02)))["score"] == Verdict.DRIFT


def test_counts_do_not_depend_on_how_the_log_is_cut(trained: Path, tmp_path: Path) -> None:
    """One file or many, the report is the same."""
    columns = served.rows(4_000, seed=14)
    one = logged(trained, tmp_path / "one", columns)
    table = served.log_table(columns, "v1")
    for start in range(0, 4_000, 250):
        prediction_log.write(tmp_path / "many", served.MODEL, table.slice(start, 250))
    many = drift(Log(tmp_path / "many", one.bundle), Window())
    assert many.to_dict()["columns"] == drift(one, Window()).to_dict()["columns"]


def test_the_report_is_plain_data_and_readable_text(trained: Path, tmp_path: Path) -> None:
    """JSON holds counts, statistics and verdicts; the text has a line for each column and the advice."""
    columns = served.rows(3_000, seed=15)
    columns["score"] = columns["score"] ** 0.5
    report = drift(logged(trained, tmp_path, columns), Window())
    data = json.loads(json.dumps(report.to_dict()))
    assert data["drift"] is True
    assert data["columns"][0]["name"] == "score"
    assert sum(data["columns"][0]["serving"]) == 3_000
    assert data["columns"][0]["findings"][0]["adjusted_p_value"] <= 0.01
    text = report.to_text()
    assert all(column.name in text for column in report.columns)
    assert "- The scores moved" in text
