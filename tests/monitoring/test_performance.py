"""Served scores against labels that arrived later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn import metrics

from asof.cli import cli
from asof.errors import BundleError, SourceError
from asof.monitoring.observed import Log, Window
from asof.monitoring.performance import calibration, performance
from asof.prediction_log import MOMENT
from tests.monitoring import served

ROWS = {
    "table": "orders", "event_time": "ts", "id": "order_id", "keys": ["customer_id"],
    "label_table": "returns", "label": "returned", "label_time": "known",
}  # fmt: skip
TRAINED = {"auc": {"value": 0.8, "low": 0.78, "high": 0.82}, "log_loss": {"value": 0.2, "low": 0.19, "high": 0.9}}


def world(tmp_path: Path, size: int = 2_000, good: bool = True, labelled: float = 1.0) -> tuple[Log, dict]:
    """A log, the orders that were scored, and the returns that became known of them."""
    rng = np.random.default_rng(1)
    columns = served.rows(size, seed=2, keys=300)
    label = (rng.random(size) < 0.2).astype(int)
    signal = label if good else rng.integers(0, 2, size)
    columns["score"] = np.clip(0.15 + 0.25 * signal + rng.normal(0, 0.12, size), 0.001, 0.999)
    tables = tmp_path / "data" / "tables"
    orders = {
        "order_id": np.arange(size),
        "ts": pa.array(columns["at"]).cast(MOMENT),
        "customer_id": columns["key.customer_id"],
    }
    known = np.flatnonzero(rng.random(size) < labelled)
    _delta(tables / "returns", pa.table({"order_id": known, "returned": label[known].astype(np.int8)}))
    tmp_path.joinpath("feature_store.yaml").write_text("project: p\nregistry: data/registry.db\nprovider: local\n")
    pq.write_table(pa.table(orders), tmp_path / "orders.parquet")
    log = served.log(tmp_path, columns, size=500, rows=ROWS, metrics=TRAINED)
    return log, {"label": label, "score": columns["score"], "known": known}


def _delta(path: Path, table: pa.Table) -> None:
    from deltalake import write_deltalake

    path.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(path, table)


def judged(log: Log, tmp_path: Path):
    return performance(log, Window(), tmp_path, tmp_path / "data")


def test_figures_equal_scikit_learns_on_the_labelled_rows(tmp_path: Path) -> None:
    """Only rows whose label is known count, and their figures are the reference implementation's."""
    log, truth = world(tmp_path, labelled=0.6)
    report = judged(log, tmp_path)
    label, score = truth["label"][truth["known"]], truth["score"][truth["known"]]
    assert (report.rows, report.labelled, report.positives) == (2_000, len(label), int(label.sum()))
    found = {f.name: f.value for f in report.figures}
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(label, score))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(label, score))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(label, score))
    assert all(f.low <= f.value <= f.high for f in report.figures)
    assert sum(group.rows for group in report.calibration) == len(label)
    assert json.loads(json.dumps(report.to_dict()))["worse"] == []
    assert "average_precision" in report.to_text()


def test_a_model_that_lost_its_power_is_worse_than_at_training(tmp_path: Path) -> None:
    """Scores without a signal are worse beyond both intervals, and the report names the metric."""
    log, _ = world(tmp_path, good=False)
    report = judged(log, tmp_path)
    assert report.worse == ["auc"]
    assert "worse than at training in auc" in report.summary


def test_too_few_labels_are_no_figures(tmp_path: Path) -> None:
    """Without labels of both kinds the report says so instead of judging."""
    log, _ = world(tmp_path, size=60, labelled=0.3)
    report = judged(log, tmp_path)
    assert report.figures == ()
    assert "too few to judge" in report.summary


def test_nothing_to_judge_is_exit_code_4_of_the_command(tmp_path: Path) -> None:
    """Too few known labels, and a span without predictions, are exit code 4, with the reason in words and in JSON."""
    log, _ = world(tmp_path, size=60, labelled=0.3)
    (tmp_path / "models").rename(tmp_path / "data" / "models")
    command = ["--repo", str(tmp_path), "performance", served.MODEL, "--log", str(log.folder)]
    few = CliRunner().invoke(cli, command)
    assert (few.exit_code, "too few to judge" in few.output) == (4, True)
    empty = CliRunner().invoke(cli, [*command, "--to", "2001-01-01", "--json"])
    assert (empty.exit_code, json.loads(empty.stdout)["rows"]) == (4, 0)


def test_two_orders_of_one_moment_are_told_apart_by_the_request_id(tmp_path: Path) -> None:
    """Where keys and moment fit several rows, the request's id decides; without one, contradicting labels are left out."""
    columns = served.rows(4, seed=3)
    columns["at"], columns["key.customer_id"] = np.full(4, served.START), np.array([1, 1, 2, 2])
    table = served.log_table(columns, "v1")
    table = table.set_column(0, "request_id", pa.array(["10", "11", "x", "y"]))
    served.prediction_log.write(tmp_path / "predictions", served.MODEL, table)
    moments = pa.array(columns["at"]).cast(MOMENT)
    pq.write_table(
        pa.table({"order_id": [10, 11, 12, 13], "ts": moments, "customer_id": [1, 1, 2, 2]}),
        tmp_path / "orders.parquet",
    )
    _delta(tmp_path / "data" / "tables" / "returns", pa.table({"order_id": [10, 11, 12, 13], "returned": [0, 1, 0, 1]}))
    tmp_path.joinpath("feature_store.yaml").write_text("project: p\nregistry: data/registry.db\nprovider: local\n")
    report = judged(Log(tmp_path / "predictions", served.train(tmp_path / "models", size=500, rows=ROWS)), tmp_path)
    assert (report.rows, report.labelled, report.positives, report.ambiguous) == (4, 2, 1, 2)


def test_calibration_groups_rows_by_score() -> None:
    """Groups are of equal size, rise in score, and show the share of positives."""
    score = np.linspace(0, 1, 1_000)
    label = (np.random.default_rng(0).random(1_000) < score).astype(float)
    groups = calibration(label, score)
    assert [group.rows for group in groups] == [100] * 10
    assert all(abs(group.score - group.rate) < 0.15 for group in groups)


def test_a_bundle_without_labels_and_a_missing_table_are_named(tmp_path: Path) -> None:
    """What is missing to judge is one line that says what to do."""
    log = served.log(tmp_path / "none", served.rows(10, seed=4), size=500)
    with pytest.raises(BundleError, match="does not say where its labels are"):
        judged(log, tmp_path)
    served.history(tmp_path)
    other = served.log(tmp_path / "other", served.rows(10, seed=4), size=500, rows=ROWS)
    with pytest.raises(SourceError, match="asof ingest returns"):
        judged(other, tmp_path)
