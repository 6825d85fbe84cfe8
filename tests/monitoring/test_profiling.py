"""whylogs profiles of a prediction log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asof.bundle import Bundle
from asof.instants import DAY
from asof.monitoring.observed import Log, Window
from asof.monitoring.profiling import profile
from asof.statistics import profiles
from tests.monitoring import served


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return served.log(tmp_path, served.rows(600, seed=1), size=500)


def counts(path: str) -> dict[str, tuple[int, int]]:
    summary = profiles.read(Path(path)).to_pandas()
    return {name: (int(row["counts/n"]), int(row["counts/null"])) for name, row in summary.iterrows()}


def test_each_day_is_one_profile_of_features_and_scores(log: Log, tmp_path: Path) -> None:
    """Seven days make seven files, whose counts add up to the log's."""
    report = profile(log, Window(), tmp_path / "profiles")
    assert [p.start[:10] for p in report.profiles] == [f"2024-05-{6 + i:02}" for i in range(7)]
    assert sum(p.rows for p in report.profiles) == 600
    found = [counts(p.path) for p in report.profiles]
    assert sum(c["score"][0] for c in found) == 600
    assert set(found[0]) == {"score", *served.CONTRACT.feature_names}
    assert Path(report.profiles[0].path).name == "2024-05-06.bin"
    merged = profiles.merge(Path(p.path).read_bytes() for p in report.profiles)
    assert profiles.read(merged).get_column("mean_7d").get_metric("counts").n.value == 600
    assert json.loads(json.dumps(report.to_dict()))["written"] == 7


def test_profiling_again_changes_nothing_until_the_log_does(log: Log, tmp_path: Path) -> None:
    """Unchanged days keep their files byte for byte; a day with new rows is profiled again, whole."""
    first = profile(log, Window(), tmp_path / "profiles")
    before = {p.path: Path(p.path).read_bytes() for p in first.profiles}
    again = profile(log, Window(), tmp_path / "profiles")
    assert not any(p.written for p in again.profiles)
    assert {p.path: Path(p.path).read_bytes() for p in again.profiles} == before
    late = served.rows(50, seed=2)
    late["at"] = late["at"] % (DAY // 24) + served.START + DAY
    served.serve(tmp_path / "predictions", late)
    third = profile(log, Window(), tmp_path / "profiles")
    assert [p.start[:10] for p in third.profiles if p.written] == ["2024-05-07"]
    assert sum(p.rows for p in third.profiles) == 650


def test_hours_are_profiled_too_and_a_window_takes_whole_units(log: Log, tmp_path: Path) -> None:
    """A window that cuts a unit takes all of it, so that a profile never holds half an hour."""
    window = Window(served.START + DAY // 48, served.START + DAY // 2 + 1)
    report = profile(log, window, tmp_path / "profiles", "hour")
    assert [Path(p.path).name for p in report.profiles] == ["2024-05-06T00.bin", "2024-05-06T12.bin"]
    everything = profile(log, Window(), tmp_path / "all", "hour")
    assert sum(p.rows for p in report.profiles) == sum(p.rows for p in everything.profiles[:2])


def test_a_damaged_profile_is_made_again(log: Log, tmp_path: Path) -> None:
    """A truncated file counts as none."""
    report = profile(log, Window(served.START, served.START + DAY), tmp_path / "profiles")
    path = Path(report.profiles[0].path)
    path.write_bytes(path.read_bytes()[:40])
    assert profile(log, Window(served.START, served.START + DAY), tmp_path / "profiles").profiles[0].written
    assert counts(str(path))["score"][0] == report.profiles[0].rows


def test_other_versions_have_profiles_of_their_own(log: Log, tmp_path: Path) -> None:
    """A version's profile holds its rows only, in a folder of its own."""
    served.serve(tmp_path / "predictions", served.rows(70, seed=3), version="v2")
    served.train(tmp_path / "models", size=500, version="v2")
    newer = Log(log.folder, Bundle.find(tmp_path / "models", served.MODEL))
    report = profile(newer, Window(), tmp_path / "profiles")
    assert sum(p.rows for p in report.profiles) == 70
    assert "/shop/v2/" in report.profiles[0].path
