"""``asof doctor`` finds what is wrong and says what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from asof import doctor
from asof.cli import cli
from asof.errors import OnlineStoreError
from asof.repo import Repo
from asof.settings import RepoSettings

YAML = """\
project: tiny
registry: data/registry.db
provider: asof.provider.AsofProvider
offline_store: {type: asof.offline.DuckDBOfflineStore}
online_store: {type: asof.online.RedisOnlineStore, connection_string: embedded}
batch_engine: {type: asof.engine.DuckDBComputeEngine}
entity_key_serialization_version: 3
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repo that holds nothing but its settings."""
    (tmp_path / "feature_store.yaml").write_text(YAML)
    return Repo(RepoSettings.load(tmp_path))


def _only(findings: Iterator[doctor.CheckResult], check: str) -> doctor.CheckResult:
    return next(f for f in findings if f.check == check)


def test_sound_installation_has_no_complaints() -> None:
    """The environment of these tests is what the lock says, and its Redis starts."""
    findings = [f for check in doctor.INSTALLATION.values() for f in check()]

    assert [f for f in findings if not f.fine] == []
    assert {"Python", "packages", "redis-server starts"} <= {f.check for f in findings}


def test_wrong_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python than 3.11 or 3.12 is wrong, and the advice says which to install."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))

    finding = _only(doctor._python(), "Python")

    assert (finding.fine, finding.found) == (False, "3.10.4")
    assert "3.11 or 3.12" in finding.advice


def test_packages_that_differ_from_the_lock_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in another version than the lock's, and one that is missing, are both named."""
    installed = {"feast": "0.66.0", "click": None}
    monkeypatch.setattr(doctor, "_installed", lambda name: installed.get(name, doctor.metadata.version(name)))

    finding = _only(doctor._packages(), "packages")

    assert not finding.fine
    assert "feast 0.66.0 (expected ==0.67.0)" in finding.found
    assert "click is missing" in finding.found
    assert "requirements.lock" in finding.advice


def test_missing_redis_server_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that fails becomes a finding; the others still run."""

    def nothing() -> str:
        raise OnlineStoreError("no redis-server found")

    monkeypatch.setattr(doctor, "find_server", nothing)
    findings = list(doctor._guarded("redis-server", doctor._redis_server))

    assert [(f.fine, f.found) for f in findings] == [(False, "no redis-server found")]


def test_other_plug_ins_are_named(repo: Repo) -> None:
    """A store that is not asof's is named with what to write instead."""
    (repo.path / "feature_store.yaml").write_text(YAML.replace("asof.offline.DuckDBOfflineStore", "duckdb"))

    finding = _only(doctor._feature_store(repo), "feature_store.yaml")

    assert not finding.fine
    assert "offline_store is 'duckdb'" in finding.found
    assert finding.advice == "set offline_store to asof.offline.DuckDBOfflineStore"


def test_plug_ins_of_asof_are_fine(repo: Repo) -> None:
    """A ``feature_store.yaml`` with the four plug-ins is fine."""
    assert _only(doctor._feature_store(repo), "feature_store.yaml").fine


def test_full_disk_is_a_finding(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a GiB of free space is too little."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5 << 20})())

    finding = _only(doctor._writable(repo), "disk space")

    assert (finding.fine, finding.found) == (False, "0.0 GiB free")


def test_embedded_redis_is_reached_and_its_clock_read(repo: Repo) -> None:
    """The repo's Redis answers and its clock agrees with this machine's."""
    from asof.online.redis.server import EmbeddedRedis

    try:
        findings = {f.check: f for f in doctor._online(repo)}
    finally:
        EmbeddedRedis(repo.settings.online.folder).stop()

    assert findings["Redis"].fine
    assert findings["clock and Redis"].fine
    assert "of at most 107 bytes" in findings["socket path"].found


def test_damaged_model_is_a_finding(repo: Repo) -> None:
    """A bundle whose manifest names a file that is not there is reported under the model's name."""
    folder = repo.settings.models / "tiny" / "v1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": {"model.txt": "0" * 64}}))

    findings = list(doctor._bundles(repo))

    assert [(f.check, f.fine) for f in findings] == [("model tiny v1", False)]
    assert "missing or was changed" in findings[0].found


def test_command_outside_a_repo_checks_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a feature repo ``asof doctor --json`` reports on the installation and ends with 0."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["doctor", "--json"], obj={})
    payload = json.loads(done.stdout)

    assert done.exit_code == 0
    assert payload["fine"] is True
    assert payload["findings"][-1]["check"] == "feature repo"


def test_command_says_no_to_a_repo_that_is_not_there(tmp_path: Path) -> None:
    """A feature repo that was named and is not there is a finding, and the exit code is 1."""
    done = CliRunner().invoke(cli, ["--repo", str(tmp_path), "doctor"], obj={})

    assert done.exit_code == 1
    assert "WRONG" in done.stdout


@pytest.mark.parametrize(("name", "characters"), [("a[x]", "[ or ]"), ("100%25", "%25"), ("a|b^c", "^ or |")])
def test_a_path_that_breaks_delta_tables_is_named(tmp_path: Path, name: str, characters: str) -> None:
    """A folder name that the Delta library cannot open is a problem, with the characters."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "feature_store.yaml").write_text(YAML)

    finding = _only(doctor.examine(tmp_path / name), "paths")

    assert not finding.fine
    assert f"a folder with {characters} in its name" in finding.found


def test_a_path_with_spaces_accents_and_signs_is_fine(tmp_path: Path) -> None:
    """Other characters are no problem."""
    folder = tmp_path / "my répo & co #1 100% 'q' ?*"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(YAML)

    assert _only(doctor.examine(folder), "paths").fine
