"""Recomputing what was served, against the real offline store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from asof.contract import Contract, Feature
from asof.instants import DAY, format_moment
from asof.monitoring.observed import Log, Window
from asof.monitoring.skew import entity_rows, offline, skew
from tests.monitoring import served


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A repo with a history of orders, and predictions whose vectors a brute-force oracle made."""
    repo = tmp_path_factory.mktemp("repo")
    return repo, served.honest(repo)


def compared(repo: Path, tmp_path: Path, columns: dict, window: Window | None = None):
    log = served.log(tmp_path, columns, size=500)
    return skew(log, window or Window(), offline(log.bundle.contract, repo, log.bundle.code))


def test_an_honest_log_has_no_mismatch(honest: tuple[Path, dict], tmp_path: Path) -> None:
    """What a brute-force oracle serves is what the offline store recomputes, for every kind of feature."""
    repo, columns = honest
    report = compared(repo, tmp_path, columns)
    assert report.mismatches == 0
    assert report.recomputed == 5 * report.rows == 5 * 400
    assert {f.name for f in report.features} == {"count_7d", "mean_7d", "segment", "ratio", "big"}
    assert "0 mismatches in 2,000 values" in report.to_text()


def test_a_planted_mismatch_is_found_with_its_keys_and_moment(honest: tuple[Path, dict], tmp_path: Path) -> None:
    """One wrong value among hundreds is counted once, with key, moment, both values and the relative difference."""
    repo, columns = honest
    means = columns["feature.mean_7d"].to_pylist()
    hit = next(i for i, mean in enumerate(means) if mean and i > 100)
    right, means[hit] = means[hit], means[hit] * (1 + 1e-6)
    report = compared(repo, tmp_path, {**columns, "feature.mean_7d": pa.array(means)})
    worst, *others = report.features
    assert (worst.name, worst.mismatches, worst.one_missing) == ("mean_7d", 1, 0)
    assert worst.largest == pytest.approx(1e-6, rel=1e-3)
    assert [f.mismatches for f in others] == [0, 0, 0, 0]
    example = worst.examples[0]
    assert example.keys == {"customer_id": int(columns["key.customer_id"][hit])}
    assert example.at == format_moment(int(columns["at"][hit]))
    assert (example.served, example.recomputed) == (means[hit], pytest.approx(right))
    assert "mean_7d: customer_id=" in report.to_text()
    assert json.loads(json.dumps(report.to_dict(), default=str))["mismatches"] == 1


def test_floats_within_the_tolerance_are_the_same_and_integers_never_nearly(
    honest: tuple[Path, dict], tmp_path: Path
) -> None:
    """A relative difference of 1e-10 is rounding, a count that is off by one is not."""
    repo, columns = honest
    means = columns["feature.mean_7d"].to_numpy(zero_copy_only=False) * (1 + 1e-10)
    counts = np.array(columns["feature.count_7d"])
    counts[::100] += 1
    report = compared(
        repo, tmp_path, {**columns, "feature.mean_7d": pa.array(means, from_pandas=True), "feature.count_7d": counts}
    )
    found = {f.name: f.mismatches for f in report.features}
    assert found == {"count_7d": 4, "mean_7d": 0, "segment": 0, "ratio": 0, "big": 0}
    assert len(report.features[0].examples) == 3


def test_missing_on_one_side_and_other_texts_are_mismatches(honest: tuple[Path, dict], tmp_path: Path) -> None:
    """A value where the store has none, none where it has one, and another category are told apart."""
    repo, columns = honest
    segments, means = columns["feature.segment"].to_pylist(), columns["feature.mean_7d"].to_pylist()
    known = [i for i, s in enumerate(segments) if s]
    segments[known[0]], segments[known[1]] = None, "other"
    means[next(i for i, m in enumerate(means) if m)] = None
    changed = {"feature.segment": pa.array(segments), "feature.mean_7d": pa.array(means)}
    found = {f.name: f for f in compared(repo, tmp_path, {**columns, **changed}).features}
    assert (found["segment"].mismatches, found["segment"].examples[0].served) == (2, None)
    assert (found["mean_7d"].mismatches, found["mean_7d"].one_missing, found["mean_7d"].largest) == (1, 1, 0.0)


def test_the_log_is_recomputed_in_batches_of_bounded_size(
    honest: tuple[Path, dict], tmp_path: Path, monkeypatch
) -> None:
    """However long the log, no question to the offline store holds more than a batch and a file."""
    repo, columns = honest
    log = served.log(tmp_path, columns, size=500)
    batches = Log.batches
    monkeypatch.setattr(Log, "batches", lambda self, window, names, rows=50: batches(self, window, names, rows))
    recompute, sizes = offline(log.bundle.contract, repo, log.bundle.code), []

    def watched(rows: pa.Table, at: str) -> pa.Table:
        sizes.append(rows.num_rows)
        return recompute(rows, at)

    report = skew(log, Window(), watched)
    assert (sum(sizes), report.rows, report.mismatches) == (400, 400, 0)
    assert len(sizes) > 5
    assert max(sizes) < 80


def test_only_the_window_is_recomputed(honest: tuple[Path, dict], tmp_path: Path) -> None:
    """Rows outside the window do not count; without rows nothing is claimed."""
    repo, columns = honest
    window = Window(served.START, served.START + DAY)
    assert compared(repo, tmp_path / "day", columns, window).rows == int((columns["at"] < window.end).sum())
    assert "nothing can be said" in compared(repo, tmp_path / "none", columns, Window(0, 1)).summary


def test_a_moment_column_never_takes_the_name_of_another(tmp_path: Path) -> None:
    """A feature or a request field that is called like the moment is no trouble."""
    contract = replace(served.CONTRACT, features=(*served.CONTRACT.features, Feature("at", "people", "at", "string")))
    table = served.log_table(served.rows(5, seed=1), "v1")
    rows, at = entity_rows(contract, table)
    assert at == "_at"
    assert rows.column_names == ["customer_id", "amount", "_at"]


def test_lists_single_precision_and_infinities_compare_as_they_should() -> None:
    """Nested floats have the tolerance of floats, single precision that of its last digit, and infinity equals itself."""
    from asof.monitoring.skew import _differences

    def same(left: list, right: list, kind: pa.DataType, dtype: str) -> list[bool]:
        return _differences(pa.array(left, kind), pa.array(right, kind), dtype)[0].tolist()

    nan, inf = float("nan"), float("inf")
    nested = pa.list_(pa.float64())
    assert same(
        [[1.0, nan], [1.0], [1.0], None], [[1.0 + 1e-12, nan], [1.1], [1.0, 2.0], None], nested, "array(float64)"
    ) == [True, False, False, True]
    assert same([1.0, 1.0], [1.0 + 1e-7, 1.0 + 1e-5], pa.float32(), "float32") == [True, False]
    assert same([inf, inf, 0.0, nan], [inf, -inf, -0.0, None], pa.float64(), "float64") == [True, False, True, True]
    big = 2**60
    assert same([big, big, None, 1], [big, big + 1, None, None], pa.int64(), "int64") == [True, False, True, False]
    assert isinstance(served.CONTRACT, Contract)


def test_many_unreadable_files_are_told_in_few_lines() -> None:
    """A terminal names the first problems and counts the others."""
    from asof.monitoring.observed import SHOWN, told

    assert told([]) == []
    assert told(["one"]) == ["- one"]
    assert len(told([f"file {i}" for i in range(45)])) == SHOWN + 1
    assert told([f"file {i}" for i in range(45)])[-1].startswith("- and 42 more")
