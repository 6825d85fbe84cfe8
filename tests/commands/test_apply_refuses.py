"""`asof apply` refuses definitions that do not fit their tables, and changes that break a served version."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof import prediction_log
from asof.bundle import write_json, writing
from asof.instants import DAY
from asof.repo import Repo
from asof.served import served_versions
from tests.commands.conftest import asof
from tests.feast.repos import windows_repo

HOURS = [datetime(2024, 1, 1, h, tzinfo=UTC) for h in range(10)]


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An applied repo with data in both files."""
    repo = windows_repo(tmp_path_factory.mktemp("shops") / "repo")
    times = {"known": HOURS, "shop_id": list(range(10))}
    pq.write_table(
        pa.table({**times, "at": HOURS, "city": ["Bern"] * 10, "rating": [1.5] * 10}),
        repo / "data" / "profiles.parquet",
    )
    pq.write_table(
        pa.table({**times, "sold": HOURS, "sale_id": list(range(10)), "amount": [2.0] * 10}),
        repo / "data" / "sales.parquet",
    )
    assert asof("--repo", repo, "apply").code == 0
    yield repo
    asof("--repo", repo, "redis", "stop")


@pytest.fixture
def repo(shops: Path) -> Iterator[Path]:
    """The applied repo; its definitions and its registry are afterwards what they were."""
    kept = {file: file.read_bytes() for file in (shops / "definitions.py", shops / "data" / "registry.db")}
    yield shops
    for file, content in kept.items():
        file.write_bytes(content)


def changed(repo: Path, old: str, new: str) -> None:
    """Replace a text in the definitions."""
    file = repo / "definitions.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def registered(repo: Path) -> str:
    """What the registry's file has."""
    return hashlib.sha256((repo / "data" / "registry.db").read_bytes()).hexdigest()


def test_definitions_that_do_not_fit_are_refused_all_at_once(repo: Path) -> None:
    """Exit code 2, one line with every fault, and the registry is as before."""
    changed(repo, 'name="rating", dtype=Float64', 'name="ratng", dtype=Float64')
    changed(repo, 'name="city", dtype=String', 'name="city", dtype=Int64')
    changed(repo, 'column="amount", function="mean"', 'column="ammount", function="mean"')
    before = registered(repo)
    ran = asof("--repo", repo, "apply")

    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    for part in (
        "did you mean 'rating'?",
        "'city' of source 'profiles' is string",
        "did you mean 'amount'?",
        "data/sales.parquet has",
    ):
        assert part in ran.err
    assert registered(repo) == before
    assert asof("--repo", repo, "apply", "--force").code == 2


def test_a_plan_shows_what_would_be_refused(repo: Path) -> None:
    """The same faults, a line each, in text and in JSON; the exit code is 0."""
    changed(repo, 'name="rating", dtype=Float64', 'name="ratng", dtype=Float64')
    text, answer = asof("--repo", repo, "plan"), asof("--repo", repo, "plan", "--json")

    assert (text.code, answer.code) == (0, 0)
    assert [f["definition"] for f in answer.answer["faults"]] == ["view profile"]
    assert f"! {answer.answer['faults'][0]['problem']}" in text.out.splitlines()


def test_the_first_apply_leaves_nothing_behind_when_it_is_refused(tmp_path: Path) -> None:
    """Without a registry before, there is none afterwards, and no Redis was started."""
    fresh = windows_repo(tmp_path / "fresh")
    pq.write_table(pa.table({"shop_id": [1]}), fresh / "data" / "profiles.parquet")
    ran = asof("--repo", fresh, "apply")

    assert ran.code == 2
    assert [p.name for p in (fresh / "data").iterdir()] == ["profiles.parquet"]


def test_a_key_that_no_column_has_is_refused(repo: Path) -> None:
    """Feast would make a view without keys of it."""
    changed(repo, 'join_keys=["shop_id"], value_type=ValueType.INT64', 'join_keys=["shopid"]')
    changed(repo, 'Field(name="shop_id", dtype=Int64), ', "")
    ran = asof("--repo", repo, "apply")

    assert ran.code == 2
    assert "has the entities shop and only the keys (none)" in ran.err


def test_doctor_sees_what_changed_under_an_applied_definition(repo: Path) -> None:
    """A file that was written anew with another type is a problem of the view that reads it."""
    file = repo / "data" / "profiles.parquet"
    kept = file.read_bytes()
    try:
        table = pq.read_table(file)
        pq.write_table(table.set_column(table.column_names.index("rating"), "rating", pa.array(["good"] * 10)), file)
        findings = {f["check"]: f for f in asof("--repo", repo, "doctor", "--json").answer["findings"]}
    finally:
        file.write_bytes(kept)

    assert not findings["view profile"]["fine"]
    assert (
        "'rating' of source 'profiles' is string, but view 'profile' declares it as float64"
        in findings["view profile"]["found"]
    )


@pytest.fixture
def models(repo: Path) -> Iterator[Path]:
    """The versions 1 and 2 of a model, trained on the applied service."""
    contract = Repo.open(repo).contract("shops").to_json()
    for version in ("1", "2"):
        with writing(repo / "data" / "models", "rank", version) as folder:
            (folder / "contract.json").write_text(contract)
            write_json(folder / "metadata.json", {"model": "rank", "version": version})
    yield repo
    for name in ("models", "predictions", "bentoml"):
        _remove(repo / "data" / name)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def build(repo: Path, version: str) -> None:
    """What BentoML notes of a service that was built."""
    folder = repo / "data" / "bentoml" / "bentos" / "rank" / version
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text(json.dumps({"labels": {"model": "rank", "model_version": version}}))


def predict(repo: Path, version: str) -> None:
    """One prediction of a past moment, logged now."""
    at = pa.array([datetime(2020, 1, 1, tzinfo=UTC)], prediction_log.MOMENT)
    prediction_log.write(repo / "data" / "predictions", "rank", pa.table({"at": at, "model_version": [version]}))


TTL = ("ttl=timedelta(days=30)", "ttl=timedelta(days=3)")


def test_a_change_under_a_trained_version_is_reported_alone(models: Path) -> None:
    """Nobody asks a version that was never served."""
    changed(models, *TTL)
    ran = asof("--repo", models, "apply", "--json")

    assert ran.code == 0
    assert [(b["version"], b["served"], b["breaks"]) for b in ran.answer["broken"]] == [("1", "", {}), ("2", "", {})]


def test_a_change_under_a_served_version_needs_force(models: Path) -> None:
    """Exit code 1 names version and change, and changes nothing; the plan shows it; with --force it is applied, and then it is done."""
    build(models, "1")
    predict(models, "2")
    changed(models, *TTL)
    before = registered(models)
    ran, plan = asof("--repo", models, "apply"), asof("--repo", models, "plan")

    assert (ran.code, ran.out, registered(models)) == (1, "", before)
    assert "rank 1 (built for serving): view profile: ttl was 30 days, is 3 days" in ran.err
    assert "rank 2 (predicted until " in ran.err
    assert "view turnover" not in ran.err
    assert plan.code == 0
    assert (
        plan.out.count(
            "what it reads would change, so that `asof apply` needs --force: view profile: ttl was 30 days, is 3 days"
        )
        == 2
    )
    assert asof("--repo", models, "apply", "--force").code == 0
    assert asof("--repo", models, "apply").code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name="shops", features=[profile, turnover]', 'name="shops", features=[profile[["city"]], turnover]'),
        (
            'Field(name="city", dtype=String), ',
            'Field(name="city", dtype=String), Field(name="known", dtype=UnixTimestamp), ',
        ),
        ("ttl=timedelta(days=30)", 'ttl=timedelta(days=30), description="Where and how good."'),
    ],
)
def test_a_change_that_a_served_version_does_not_read_needs_no_force(models: Path, old: str, new: str) -> None:
    """Another service, a new feature, or a description leave stored values as they are."""
    build(models, "2")
    changed(models, "Int64, String", "Int64, String, UnixTimestamp")
    changed(models, old, new)

    assert asof("--repo", models, "apply").code == 0


def test_a_removed_view_of_a_served_version_needs_force(models: Path) -> None:
    """What the version reads would be gone."""
    build(models, "2")
    file = models / "definitions.py"
    file.write_text(
        file.read_text()
        .replace("features=[profile, turnover]", "features=[profile]")
        .replace("turnover = Stream", "def turnover(): return Stream")
    )
    ran = asof("--repo", models, "apply")

    assert ran.code == 1
    assert "rank 2 (built for serving): view turnover: is gone" in ran.err


def test_served_are_the_version_built_last_and_those_that_predicted_lately(models: Path) -> None:
    """An older service, another model, and predictions of more than a week ago do not count, nor does a file that cannot be read."""
    settings = Repo.open(models).settings
    build(models, "1")
    time.sleep(0.01)
    build(models, "2")
    predict(models, "1")
    (
        next((models / "data" / "predictions" / "rank").glob("hour=*")) / f"part-{time.time_ns() // 1_000}-1-ab.parquet"
    ).write_bytes(b"?")
    later = time.time_ns() // 1_000 + 8 * DAY
    served = served_versions(settings, "rank")

    assert set(served) == {"1", "2"}
    assert served["1"].startswith(f"predicted until {datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%d}")
    assert served_versions(settings, "rank", later) == {"2": "built for serving"}
    assert served_versions(settings, "other") == {}
